#!/usr/bin/env python3
"""A stand-in for a kubelet. It shares no code with cryostore; without --runtime Python's standard library is enough.

kubelet.py --kubeconfig FILE --node NAME --folder DIR --archive TAR|--runtime SOCKET [--client-ca PEM] [--state DIR]

It registers its node with the real API server, listens with TLS on 127.0.0.1 with a certificate that it makes as a kubelet does (an authority of its
own; the node's name, no address), asks the API server who calls (TokenReview) and whether they may (SubjectAccessReview), and answers
POST /checkpoint/NAMESPACE/POD/CONTAINER with a kubelet's status codes and texts. In place of a checkpoint it writes the archive TAR, with the names
and the UID of the pod put into it. Its first line of output is JSON: its port, and the file with its certificates. What it was asked stands
in STATE/calls, a JSON object a line.

With --runtime it is a whole kubelet: pods.py runs the pods of its node by the CRI of the container runtime at SOCKET, and checkpoints are that runtime's.

Without, the pod says how the call goes, in the annotation `test/kubelet`, words with spaces between them:
  slow=SECONDS        the answer comes later
  error=NAME          it fails: a key of ERRORS
  once=NAME           it fails, the first time
  writing             the answer comes before the archive is whole
  same-second         the archive has the name of the one before, and is written over it without being cut first
  cut                 the archive never gets its end
  uid=UID             the archive is of another pod
  nouid               the archive does not say whose it is
  container=NAME      the archive is of another container
  answer=PATH         the archive is said to be elsewhere
  link                the archive is a symbolic link
  off                 the feature gate is off
  hang-up             the connection breaks off
"""

import argparse
import http.server
import io
import json
import os
import re
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import forward

ERRORS = {
    "paused": "cannot pause a paused container: unknown",
    "tcp": "Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.",
    "no-criu": 'failed to checkpoint container "7bc2694c": criu binary not found in shim path or system PATH',
    "unimplemented": "method CheckpointContainer not implemented",
}


class Api:
    """The API server, as this kubelet knows it."""

    def __init__(self, kubeconfig):
        text = open(kubeconfig).read()
        self.url = re.search(r'server: "([^"]+)"', text).group(1)
        self.token = re.search(r'token: "([^"]+)"', text).group(1)
        self.tls = ssl.create_default_context(cafile=re.search(r'certificate-authority: "([^"]+)"', text).group(1))

    def ask(self, method, path, body=None, kind="application/json"):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Authorization", "Bearer " + self.token)
        request.add_header("Content-Type", kind)
        with urllib.request.urlopen(request, context=self.tls, timeout=30) as answer:
            return json.load(answer)


def certificate(node, state):
    """As a kubelet does it: an authority, and a leaf with the node's name; both in one file, the leaf first."""

    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=state)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", f"/CN={node}-ca")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "kubelet.key", "-out", "kubelet.csr", "-subj", f"/CN={node}")
    with open(os.path.join(state, "names"), "w") as file:
        file.write(f"subjectAltName=DNS:{node}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", "kubelet.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "leaf.crt")
    path = os.path.join(state, "kubelet.crt")
    with open(path, "w") as out:
        for name in ["leaf.crt", "ca.crt"]:
            out.write(open(os.path.join(state, name)).read())
    return path, os.path.join(state, "kubelet.key")


class Kubelet:
    def __init__(self, arguments):
        self.arguments = arguments
        self.api = Api(arguments.kubeconfig)
        self.busy = set()
        self.failed = set()
        self.lock = threading.Lock()
        self.runtime = self.pods = None
        if arguments.runtime:
            from cri import Runtime  # needs python3-grpcio

            self.runtime = Runtime(arguments.runtime)

    def runtime_version(self):
        if not self.runtime:
            return "containerd://2.1.9"
        found = self.runtime.call("Version")
        return found["runtime_name"] + "://" + found["runtime_version"].lstrip("v")

    def register(self, port):
        boot = arguments_boot(self.arguments)
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.arguments.node},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": self.arguments.node}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}],
                "nodeInfo": {
                    "architecture": "amd64",
                    "bootID": boot,
                    "containerRuntimeVersion": self.runtime_version(),
                    "kernelVersion": os.uname().release,
                    "kubeProxyVersion": "v1.37.0",
                    "kubeletVersion": "v1.37.0",
                    "machineID": "",
                    "operatingSystem": "linux",
                    "osImage": "stand-in",
                    "systemUUID": "",
                },
            },
        }
        try:
            self.api.ask("POST", "/api/v1/nodes", node)
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
            # It was here before: the object stays, what it says is told anew.
            self.api.ask("PATCH", f"/api/v1/nodes/{self.arguments.node}/status", {"status": node["status"]}, "application/merge-patch+json")

    def note(self, **what):
        with self.lock, open(os.path.join(self.arguments.state, "calls"), "a") as file:
            file.write(json.dumps(what) + "\n")

    def user(self, handler):
        """Who calls; None: nobody knows."""
        certificate = handler.connection.getpeercert()
        if certificate:
            subject = [pair for part in certificate["subject"] for pair in part]
            name = [value for key, value in subject if key == "commonName"][0]
            return {"username": name, "groups": [value for key, value in subject if key == "organizationName"] + ["system:authenticated"]}
        word = handler.headers.get("Authorization", "")
        if not word.startswith("Bearer "):
            return None
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": word[len("Bearer "):]}}
        status = self.api.ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)["status"]
        return status["user"] if status.get("authenticated") else None

    def may(self, user):
        attributes = {"verb": "create", "resource": "nodes", "subresource": "checkpoint", "name": self.arguments.node, "version": "v1"}
        spec = {"user": user["username"], "groups": user.get("groups", []), "uid": user.get("uid", ""), "resourceAttributes": attributes}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        return self.api.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"]

    def checkpoint(self, namespace, name, container, query):
        """Status and text."""
        if self.arguments.gate_off:
            return 404, "404 page not found"
        try:
            pod = self.api.ask("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        except urllib.error.HTTPError:
            return 404, "pod does not exist"
        if pod["spec"].get("nodeName") != self.arguments.node:
            return 404, "pod does not exist"
        words = (pod["metadata"].get("annotations") or {}).get("test/kubelet", "").split()
        how = dict(word.partition("=")[::2] for word in words)
        if "off" in how:
            return 404, "404 page not found"
        if container not in [c["name"] for c in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])]:
            return 404, f"container {container} does not exist"
        timeout = 120
        if "timeout" in query:
            try:
                timeout = max(120, int(query["timeout"][-1]))
            except ValueError:
                return 404, "cannot parse value of timeout parameter"
        who = f"{namespace}/{name}/{container}"
        self.note(container=who, timeout=timeout, asked=query.get("timeout", [None])[-1])

        if self.runtime:
            return self.real_checkpoint(namespace, name, container, timeout)

        def failure(text):
            return 500, f"checkpointing of {who} failed (rpc error: code = Unknown desc = {text})"

        with self.lock:
            if who in self.busy:
                return failure(ERRORS["paused"])
            self.busy.add(who)
        try:
            time.sleep(float(how.get("slow", 0)))
            if "error" in how:
                return failure(ERRORS[how["error"]])
            if "once" in how and who not in self.failed:
                self.failed.add(who)
                return failure(ERRORS[how["once"]])
            if "hang-up" in how:
                return None, None
            stamp = "2026-11-20T10:00:00Z" if "same-second" in how else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            path = os.path.join(self.arguments.folder, f"checkpoint-{name}_{namespace}-{container}-{stamp}.tar")
            self.write(path, pod, container, how)
            return 200, json.dumps({"items": [how.get("answer", path)]})
        finally:
            with self.lock:
                self.busy.discard(who)

    def real_checkpoint(self, namespace, name, container, timeout):
        which = self.pods.container(namespace, name, container)
        if which is None:
            return 404, f"container {container} does not exist"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        path = os.path.join(self.arguments.folder, f"checkpoint-{name}_{namespace}-{container}-{stamp}.tar")
        from cri import CriError

        try:
            self.runtime.call("CheckpointContainer", timeout + 5, container_id=which, location=path, timeout=timeout)
        except CriError as error:
            return 500, f"checkpointing of {namespace}/{name}/{container} failed ({error})"
        return 200, json.dumps({"items": [path]})

    def write(self, path, pod, container, how):
        data = archive_of(self.arguments.archive, pod, container, how)
        if "cut" in how:
            data = data[: len(data) // 2]
        if "link" in how:
            target = path + ".target"
            open(target, "wb").write(data)
            os.symlink(target, path)
            return
        # As both runtimes do it: not cut first, so that the end of a longer one before stays.
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if "writing" not in how:
            with open(fd, "wb") as out:
                out.write(data)
            return

        def slowly():
            with open(fd, "wb") as out:
                for part in range(10):
                    piece = data[part * len(data) // 10 : (part + 1) * len(data) // 10]
                    out.write(piece)
                    out.flush()
                    time.sleep(0.15)

        threading.Thread(target=slowly).start()


def arguments_boot(arguments):
    return arguments.boot_id or open("/proc/sys/kernel/random/boot_id").read().strip()


def archive_of(template, pod, container, how):
    """The template's members, with this pod's names in spec.dump."""
    out = io.BytesIO()
    with tarfile.open(template) as source, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as target:
        for member in source.getmembers():
            content = source.extractfile(member) if member.isfile() else None
            if member.name == "spec.dump":
                spec = json.load(content)
                notes = spec["annotations"]
                notes["io.kubernetes.cri.sandbox-name"] = pod["metadata"]["name"]
                notes["io.kubernetes.cri.sandbox-namespace"] = pod["metadata"]["namespace"]
                notes["io.kubernetes.cri.sandbox-uid"] = how.get("uid", pod["metadata"]["uid"])
                notes["io.kubernetes.cri.container-name"] = how.get("container", container)
                if "nouid" in how:
                    del notes["io.kubernetes.cri.sandbox-uid"]
                text = json.dumps(spec).encode()
                member.size = len(text)
                content = io.BytesIO(text)
            target.addfile(member, content)
    return out.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, text, kind="text/plain; charset=utf-8"):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path.startswith("/portForward/"):
            return forward.serve(self)
        self.answer(404, "404 page not found\n")

    def do_POST(self):
        kubelet = self.server.kubelet
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        user = kubelet.user(self)
        if user is None:
            return self.answer(401, "Unauthorized")
        parts = urllib.parse.urlsplit(self.path)
        words = parts.path.strip("/").split("/")
        if not kubelet.may(user):
            return self.answer(403, f"Forbidden (user={user['username']}, verb=create, resource=nodes, subresource=checkpoint)")
        if len(words) != 4 or words[0] != "checkpoint":
            return self.answer(404, "404 page not found\n")
        status, text = kubelet.checkpoint(*words[1:], urllib.parse.parse_qs(parts.query, keep_blank_values=True))
        if status is None:
            self.close_connection = True
            return None
        return self.answer(status, text, "application/json" if status == 200 else "text/plain; charset=utf-8")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    # The handshake belongs to the thread of the connection: a client that breaks it off stops nobody else.
    def finish_request(self, request, client_address):
        try:
            request = self.tls.wrap_socket(request, server_side=True)
        except (ssl.SSLError, OSError):
            return
        super().finish_request(request, client_address)

    def handle_error(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser()
    for name in ["kubeconfig", "node", "folder"]:
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--archive")
    parser.add_argument("--runtime")
    parser.add_argument("--client-ca")
    parser.add_argument("--boot-id")
    parser.add_argument("--state", default=None)
    parser.add_argument("--gate-off", action="store_true", help="the feature gate is off, for all pods")
    arguments = parser.parse_args()
    arguments.state = arguments.state or tempfile.mkdtemp()
    os.makedirs(arguments.folder, mode=0o700, exist_ok=True)
    crt, key = certificate(arguments.node, arguments.state)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(crt, key)
    if arguments.client_ca:
        tls.verify_mode = ssl.CERT_OPTIONAL
        tls.load_verify_locations(arguments.client_ca)
    server = Server(("127.0.0.1", 0), Handler)
    server.tls = tls
    server.kubelet = Kubelet(arguments)
    port = server.server_address[1]
    server.kubelet.register(port)
    if arguments.runtime:
        from pods import Pods

        server.kubelet.pods = Pods(server.kubelet)
    print(json.dumps({"port": port, "certificate": crt}), flush=True)
    # Ends with whoever started it: its standard input is closed then.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


main()
