"""What a kubelet puts into a container beside its image: volumes, /etc/hosts, the place of the last words, and the environment.

Everything is a plain folder or file below the pod's own folder, named as a kubelet names it."""

import base64
import os
import shutil


class Mounts:
    def __init__(self, api, pod, folder):
        self.api, self.pod, self.folder = api, pod, folder
        self.namespace = f"/api/v1/namespaces/{pod['metadata']['namespace']}"

    def fetch(self, kind, name):
        found = self.api.ask("GET", f"{self.namespace}/{kind}/{name}")
        decoded = base64.b64decode if kind == "secrets" else str.encode
        return {key: decoded(value) for key, value in (found.get("data") or {}).items()}

    def field(self, path):
        if path == "spec.nodeName":
            return self.pod["spec"]["nodeName"]
        return self.pod["metadata"].get(path.removeprefix("metadata."), "")

    def token(self, source):
        account = self.pod["spec"].get("serviceAccountName", "default")
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [source["audience"]] if "audience" in source else []}}
        answer = self.api.ask("POST", f"{self.namespace}/serviceaccounts/{account}/token", request)
        return {source["path"]: answer["status"]["token"].encode()}

    def files(self, source):
        """Of one source of a projected volume, or of a volume of that kind."""
        if "serviceAccountToken" in source:
            return self.token(source["serviceAccountToken"])
        if "downwardAPI" in source:
            return {item["path"]: self.field(item["fieldRef"]["fieldPath"]).encode() for item in source["downwardAPI"].get("items", [])}
        kind = "configMap" if "configMap" in source else "secret"
        which = source[kind]
        data = self.fetch("configmaps" if kind == "configMap" else "secrets", which.get("name") or which["secretName"])
        items = which.get("items")
        return {item["path"]: data[item["key"]] for item in items} if items else data

    def volume(self, volume):
        """The folder of this machine that is the volume."""
        if "hostPath" in volume:
            return volume["hostPath"]["path"]
        kind = next(kind for kind in ["emptyDir", "projected", "configMap", "secret", "downwardAPI"] if kind in volume)
        plugin = {"emptyDir": "empty-dir", "downwardAPI": "downward-api"}.get(kind, kind.lower())
        path = os.path.join(self.folder, "volumes", "kubernetes.io~" + plugin, volume["name"])
        if os.path.isdir(path):
            return path
        files = {}
        for source in volume["projected"].get("sources", []) if kind == "projected" else [] if kind == "emptyDir" else [volume]:
            files.update(self.files(source))
        os.makedirs(path)
        for name, data in files.items():
            with open(os.path.join(path, name), "wb") as file:
                file.write(data)
        return path

    def of(self, container, attempt):
        volumes = {volume["name"]: volume for volume in self.pod["spec"].get("volumes", [])}
        found = []
        for mount in container.get("volumeMounts", []):
            path = os.path.join(self.volume(volumes[mount["name"]]), mount.get("subPath", "")).rstrip("/")
            found.append({"container_path": mount["mountPath"], "host_path": path, "readonly": mount.get("readOnly", False)})
        hosts, last_words = os.path.join(self.folder, "etc-hosts"), os.path.join(self.folder, "containers", container["name"], str(attempt))
        os.makedirs(os.path.dirname(last_words), exist_ok=True)
        open(last_words, "w").close()
        with open(hosts, "w") as file:
            file.write("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
        found.append({"container_path": "/etc/hosts", "host_path": hosts})
        found.append({"container_path": container.get("terminationMessagePath", "/dev/termination-log"), "host_path": last_words})
        return found

    def environment(self, container):
        found = []
        for entry in container.get("env", []):
            source = entry.get("valueFrom", {})
            if "fieldRef" in source:
                value = self.field(source["fieldRef"]["fieldPath"])
            elif source:
                kind = next(iter(source))
                data = self.fetch("secrets" if kind == "secretKeyRef" else "configmaps", source[kind]["name"])
                value = data[source[kind]["key"]].decode()
            else:
                value = entry.get("value", "")
            found.append({"key": entry["name"], "value": value})
        return found

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)
