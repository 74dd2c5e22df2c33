"""The half of a kubelet that runs pods, over a real container runtime (cri.py), and the little of a scheduler that it needs.

A pod that no node has yet is bound to this one if its node affinity names it (matchFields metadata.name); no other is. Of a pod that is bound here, the
image names are parsed, the pull policy is honoured, sandbox and containers are made by the CRI with a kubelet's labels, annotations, mounts and log files,
and the status is patched. A pod that is to be deleted is stopped, removed, and then deleted for good. Pods are looked for every quarter of a second.

Not as in a kubelet: every pod has the node's network (there is no CNI plugin here); no probes, hooks, limits or security contexts but `privileged`."""

import base64
import json
import os
import re
import shutil
import threading
import time
import urllib.error
import urllib.parse

from cri import CriError
from mounts import Mounts

RUNNING, EXITED = 1, 2
# As distribution's reference.ParseNormalizedNamed takes it: an optional host, a path in lower case, a tag, a digest.
PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
NAME = re.compile(rf"(?:[a-zA-Z0-9.-]+(?::[0-9]+)?/)?{PART}(?:/{PART})*(?P<tag>:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?P<digest>@[a-z0-9]+:[0-9a-f]{{32,}})?")


class Waiting(Exception):
    """A container that cannot run (yet): a reason and a message, as they stand in the pod's status."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Pod:
    """One pod, in a thread of its own: the restore of one does not hold up another."""

    def __init__(self, kubelet, pod):
        self.api, self.runtime = kubelet.api, kubelet.runtime
        self.pod, self.meta, self.spec = pod, pod["metadata"], pod["spec"]
        self.path = f"/api/v1/namespaces/{self.meta['namespace']}/pods/{self.meta['name']}"
        root = os.path.dirname(kubelet.arguments.folder.rstrip("/"))
        self.mounts = Mounts(self.api, pod, os.path.join(root, "pods", self.meta["uid"]))
        self.sandbox, self.config = None, self.sandbox_config()
        self.attempts, self.states, self.ids, self.images = {}, {}, {}, {}
        self.started, self.said, self.again = now(), None, 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def labels(self, **more):
        return {
            "io.kubernetes.pod.name": self.meta["name"],
            "io.kubernetes.pod.namespace": self.meta["namespace"],
            "io.kubernetes.pod.uid": self.meta["uid"],
            **more,
        }

    def sandbox_config(self):
        meta = self.meta
        return {
            "metadata": {"name": meta["name"], "uid": meta["uid"], "namespace": meta["namespace"]},
            "log_directory": f"/var/log/pods/{meta['namespace']}_{meta['name']}_{meta['uid']}",
            "labels": self.labels(**meta.get("labels", {})),
            "annotations": {"kubernetes.io/config.seen": now(), "kubernetes.io/config.source": "api", **(meta.get("annotations") or {})},
            "linux": {"cgroup_parent": os.environ.get("CRYOSTORE_CGROUP", ""), "security_context": self.namespaces("namespace_options")},
        }

    @staticmethod
    def namespaces(name):
        """NamespaceMode of the CRI: the node's network, processes of the container's own."""
        return {name: {"network": 2, "pid": 1, "ipc": 0}}

    # --- images

    def image(self, container):
        name, policy = container["image"], container.get("imagePullPolicy")
        found = NAME.fullmatch(name)
        if not found:
            text = f'Failed to apply default image tag "{name}": couldn\'t parse image name "{name}": invalid reference format'
            raise Waiting("InvalidImageName", text)
        latest = found["tag"] in (None, ":latest") and not found["digest"]
        if not found["tag"] and not found["digest"]:
            name += ":latest"
        policy = policy or ("Always" if latest else "IfNotPresent")
        there = self.runtime.call("ImageStatus", image={"image": name}).get("image")
        if policy == "Always" or (not there and policy != "Never"):
            try:
                return self.runtime.call("PullImage", image={"image": name}, sandbox_config=self.config, **self.secret(name))["image_ref"]
            except CriError as error:
                raise Waiting("ErrImagePull", str(error)) from None
        if not there:
            raise Waiting("ErrImageNeverPull", f'Container image "{name}" is not present with pull policy of Never')
        return there["id"]

    def secret(self, name):
        """Who pulls, of the pod's imagePullSecrets."""
        for secret in self.spec.get("imagePullSecrets", []):
            for host, entry in json.loads(self.mounts.fetch("secrets", secret["name"])[".dockerconfigjson"])["auths"].items():
                if host == name.split("/")[0]:
                    user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
                    return {"auth": {"username": user, "password": password}}
        return {}

    # --- containers

    def start(self, container):
        name, attempt = container["name"], self.attempts.get(container["name"], 0)
        image = self.image(container)
        os.makedirs(os.path.join(self.config["log_directory"], name), exist_ok=True)
        # kubelet's $(NAME) in commands is not replaced.
        config = {
            "metadata": {"name": name, "attempt": attempt},
            "image": {"image": image, "user_specified_image": container["image"]},
            "command": container.get("command", []),
            "args": container.get("args", []),
            "working_dir": container.get("workingDir", ""),
            "envs": self.mounts.environment(container),
            "mounts": self.mounts.of(container, attempt),
            "labels": self.labels(**{"io.kubernetes.container.name": name}),
            "annotations": {
                "io.kubernetes.container.hash": "0",
                "io.kubernetes.container.restartCount": str(attempt),
                "io.kubernetes.container.terminationMessagePath": container.get("terminationMessagePath", "/dev/termination-log"),
                "io.kubernetes.container.terminationMessagePolicy": container.get("terminationMessagePolicy", "File"),
                "io.kubernetes.pod.terminationGracePeriod": str(self.spec.get("terminationGracePeriodSeconds", 30)),
            },
            "log_path": f"{name}/{attempt}.log",
            "linux": {"security_context": {"privileged": container.get("securityContext", {}).get("privileged", False), **self.namespaces("namespace_options")}},
        }
        try:
            made = self.runtime.call("CreateContainer", 300, pod_sandbox_id=self.sandbox, config=config, sandbox_config=self.config)
        except CriError as error:
            raise Waiting("CreateContainerError", str(error).split(" desc = ", 1)[-1]) from None
        self.ids[name], self.images[name] = made["container_id"], image
        try:
            self.runtime.call("StartContainer", 300, container_id=made["container_id"])
        except CriError as error:
            self.runtime.call("RemoveContainer", container_id=made["container_id"])
            del self.ids[name]
            raise Waiting("RunContainerError", str(error).split(" desc = ", 1)[-1]) from None
        self.states[name] = {"running": {"startedAt": now()}}

    def look(self, container):
        """True while it runs."""
        name = container["name"]
        status = self.runtime.call("ContainerStatus", container_id=self.ids[name])["status"]
        if status.get("state", 0) != EXITED:
            return True
        if "running" in self.states[name]:
            code = status.get("exit_code", 0)
            reason = status.get("reason") or ("Completed" if code == 0 else "Error")
            self.states[name] = {"terminated": {"exitCode": code, "reason": reason, "message": status.get("message", ""), "finishedAt": now()}}
        return False

    def keep(self, container, policy):
        """Starts it, or starts it again, if it has to be; true once it is done for good."""
        name = container["name"]
        if name not in self.ids:
            if time.monotonic() < self.again:
                return False
            try:
                self.start(container)
            except Waiting as error:
                self.states[name] = {"waiting": {"reason": error.reason, "message": str(error)}}
                self.again = time.monotonic() + 2
            return False
        if self.look(container):
            return False
        if policy == "Always" or (policy == "OnFailure" and self.states[name]["terminated"]["exitCode"]):
            self.runtime.call("RemoveContainer", container_id=self.ids.pop(name))
            self.attempts[name] = self.attempts.get(name, 0) + 1
            return False
        return True

    # --- the pod

    def status(self):
        policy = self.spec.get("restartPolicy", "Always")
        first, rest = self.spec.get("initContainers", []), self.spec["containers"]
        states = [self.states.get(container["name"], {}) for container in rest]
        phase = "Pending"
        if all("running" in state or "terminated" in state for state in states):
            phase = "Running"
            if policy != "Always" and all("terminated" in state for state in states):
                phase = "Failed" if any(state["terminated"]["exitCode"] for state in states) else "Succeeded"
        ready = "True" if all("running" in state for state in states) else "False"
        return {
            "phase": phase,
            "startTime": self.started,
            "hostIP": "127.0.0.1",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": [{"type": kind, "status": ready, "lastTransitionTime": now()} for kind in ["Ready", "ContainersReady"]],
            "containerStatuses": [self.container_status(container) for container in rest],
            "initContainerStatuses": [self.container_status(container) for container in first],
        }

    def container_status(self, container):
        name = container["name"]
        state = self.states.get(name, {"waiting": {"reason": "ContainerCreating"}})
        found = {"name": name, "state": state, "ready": "running" in state, "started": "running" in state, "image": container["image"]}
        found |= {"imageID": self.images.get(name, ""), "restartCount": self.attempts.get(name, 0)}
        if name in self.ids:
            found["containerID"] = "containerd://" + self.ids[name]
        return found

    def tell(self):
        status = self.status()
        said = json.dumps({**status, "conditions": [(one["type"], one["status"]) for one in status["conditions"]]}, sort_keys=True)
        if said != self.said:
            self.api.ask("PATCH", self.path + "/status", {"status": status, "metadata": {"uid": self.meta["uid"]}}, "application/merge-patch+json")
            self.said = said

    def step(self):
        if not self.sandbox:
            self.sandbox = self.runtime.call("RunPodSandbox", config=self.config)["pod_sandbox_id"]
        policy = self.spec.get("restartPolicy", "Always")
        for container in self.spec.get("initContainers", []):
            if not self.keep(container, "Never" if policy == "Never" else "OnFailure"):
                return
            if self.states[container["name"]]["terminated"]["exitCode"]:
                return
        for container in self.spec["containers"]:
            self.keep(container, policy)

    def run(self):
        while not self.ending.is_set():
            try:
                self.step()
                self.tell()
            except (CriError, OSError) as error:
                print(f"{self.path}: {error}", flush=True)
                self.ending.wait(1)
            self.ending.wait(0.25)
        self.end()

    def end(self):
        try:
            for container in list(self.ids.values()):
                self.runtime.call("StopContainer", container_id=container, timeout=self.spec.get("terminationGracePeriodSeconds", 30))
                self.runtime.call("RemoveContainer", container_id=container)
            if self.sandbox:
                self.runtime.call("StopPodSandbox", pod_sandbox_id=self.sandbox)
                self.runtime.call("RemovePodSandbox", pod_sandbox_id=self.sandbox)
        except CriError as error:
            print(f"{self.path}: {error}", flush=True)
        self.mounts.remove()
        shutil.rmtree(self.config["log_directory"], ignore_errors=True)
        try:
            self.api.ask("DELETE", self.path, {"gracePeriodSeconds": 0, "preconditions": {"uid": self.meta["uid"]}})
        except urllib.error.HTTPError:
            pass  # it is gone already


class Pods:
    """All of this node."""

    def __init__(self, kubelet):
        self.kubelet, self.api, self.node = kubelet, kubelet.api, kubelet.arguments.node
        self.here = {}
        threading.Thread(target=self.run, daemon=True).start()

    def list(self, node):
        query = urllib.parse.urlencode({"fieldSelector": f"spec.nodeName={node}"})
        return self.api.ask("GET", f"/api/v1/pods?{query}")["items"]

    def names_this_node(self, pod):
        affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
        wanted = {"key": "metadata.name", "operator": "In", "values": [self.node]}
        return any(wanted in term.get("matchFields", []) for term in affinity.get("nodeSelectorTerms", []))

    def bind(self, pod):
        meta = pod["metadata"]
        target = {"apiVersion": "v1", "kind": "Node", "name": self.node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": meta["name"]}, "target": target}
        self.api.ask("POST", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/binding", binding)

    def look(self):
        for pod in self.list(""):
            if self.names_this_node(pod):
                self.bind(pod)
        found = {pod["metadata"]["uid"]: pod for pod in self.list(self.node)}
        for uid, pod in found.items():
            if uid not in self.here:
                self.here[uid] = Pod(self.kubelet, pod)
            if "deletionTimestamp" in pod["metadata"]:
                self.here[uid].ending.set()
        for uid in list(self.here):
            if uid not in found:
                self.here[uid].ending.set()
                if not self.here[uid].thread.is_alive():
                    del self.here[uid]

    def container(self, namespace, pod, container):
        """The runtime's name of it; None: the kubelet does not have it."""
        for one in list(self.here.values()):
            if (one.meta["namespace"], one.meta["name"]) == (namespace, pod):
                return one.ids.get(container)
        return None

    def run(self):
        while True:
            try:
                self.look()
            except OSError as error:
                print(f"pods: {error}", flush=True)
            time.sleep(0.25)
