"""image.py FOLDER NAME LAYER.tar… [--annotation KEY=VALUE]… -- COMMAND…: an OCI image layout in FOLDER, of root file systems that are there as tars.

Only what a registry and `ctr images import` need. Layers are linked, not copied: they are large, and never change."""

import hashlib
import json
import os
import sys

KIND = "application/vnd.oci.image."


def main(folder, name, layers, annotations, command):
    blobs = os.path.join(folder, "blobs/sha256")
    os.makedirs(blobs)

    def put(value):
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as file:
            file.write(data)
        return {"digest": "sha256:" + digest, "size": len(data)}

    def link(path):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.link(path, os.path.join(blobs, digest))
        return {"mediaType": KIND + "layer.v1.tar", "digest": "sha256:" + digest, "size": os.path.getsize(path)}

    layers = [link(path) for path in layers]
    config = {"architecture": "arm64" if os.uname().machine == "aarch64" else "amd64", "os": "linux"}
    config["config"] = {"Cmd": command, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}
    config["rootfs"] = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    manifest = {"schemaVersion": 2, "mediaType": KIND + "manifest.v1+json", "layers": layers, "annotations": annotations}
    manifest["config"] = {"mediaType": KIND + "config.v1+json", **put(config)}
    entry = {"mediaType": manifest["mediaType"], **put(manifest), "annotations": {"io.containerd.image.name": name}}
    for path, value in [("index.json", {"schemaVersion": 2, "manifests": [entry]}), ("oci-layout", {"imageLayoutVersion": "1.0.0"})]:
        with open(os.path.join(folder, path), "w") as file:
            json.dump(value, file)


words = sys.argv[1:]
end = words.index("--")
notes = [words[at + 1].split("=", 1) for at in range(end) if words[at] == "--annotation"]
main(words[0], words[1], [word for word in words[2:end] if word.endswith(".tar")], dict(notes), words[end + 1 :])
