"""The container runtime, as a kubelet talks to it: CRI v1 over its unix socket.

Messages are dictionaries; FIELDS says what they are on the wire, with the numbers of k8s.io/cri-api, pkg/apis/runtime/v1/api.proto. Only the fields that the
stand-in sets or reads are there: what else comes is skipped, as protobuf has it. Needs python3-grpcio (the tools of scripts/runtimes.sh have it)."""

import re

import grpc

# name: (number, kind); kind: "text", "int", "bool", "map" (of text to text), another dictionary (a message), or a list of one of these (repeated).
NAMESPACES = {"network": (1, "int"), "pid": (2, "int"), "ipc": (3, "int")}
METADATA = {"name": (1, "text"), "uid": (2, "text"), "namespace": (3, "text"), "attempt": (4, "int")}
SANDBOX = {
    "metadata": (1, METADATA), "hostname": (2, "text"), "log_directory": (3, "text"), "labels": (6, "map"), "annotations": (7, "map"),
    "linux": (8, {"cgroup_parent": (1, "text"), "security_context": (2, {"namespace_options": (1, NAMESPACES)})}),
}
IMAGE = {"image": (1, "text"), "annotations": (2, "map"), "user_specified_image": (18, "text")}
MOUNT = {"container_path": (1, "text"), "host_path": (2, "text"), "readonly": (3, "bool")}
CONTAINER_METADATA = {"name": (1, "text"), "attempt": (2, "int")}
CONTAINER = {
    "metadata": (1, CONTAINER_METADATA), "image": (2, IMAGE), "command": (3, ["text"]), "args": (4, ["text"]), "working_dir": (5, "text"),
    "envs": (6, [{"key": (1, "text"), "value": (2, "text")}]), "mounts": (7, [MOUNT]), "labels": (9, "map"), "annotations": (10, "map"),
    "log_path": (11, "text"), "linux": (15, {"security_context": (2, {"privileged": (2, "bool"), "namespace_options": (3, NAMESPACES)})}),
}
STATUS = {"id": (1, "text"), "state": (3, "int"), "exit_code": (7, "int"), "image_ref": (9, "text"), "reason": (10, "text"), "message": (11, "text")}
AUTH = {"username": (1, "text"), "password": (2, "text")}
POD_ID, CONTAINER_ID = {"pod_sandbox_id": (1, "text")}, {"container_id": (1, "text")}
# method: (request, answer)
METHODS = {
    "Version": ({"version": (1, "text")}, {"runtime_name": (2, "text"), "runtime_version": (3, "text")}),
    "RunPodSandbox": ({"config": (1, SANDBOX)}, POD_ID),
    "StopPodSandbox": (POD_ID, {}),
    "RemovePodSandbox": (POD_ID, {}),
    "CreateContainer": ({"pod_sandbox_id": (1, "text"), "config": (2, CONTAINER), "sandbox_config": (3, SANDBOX)}, CONTAINER_ID),
    "StartContainer": (CONTAINER_ID, {}),
    "StopContainer": ({"container_id": (1, "text"), "timeout": (2, "int")}, {}),
    "RemoveContainer": (CONTAINER_ID, {}),
    "ContainerStatus": (CONTAINER_ID, {"status": (1, STATUS)}),
    "CheckpointContainer": ({"container_id": (1, "text"), "location": (2, "text"), "timeout": (3, "int")}, {}),
    "ImageStatus": ({"image": (1, IMAGE)}, {"image": (1, {"id": (1, "text")})}),
    "PullImage": ({"image": (1, IMAGE), "auth": (2, AUTH), "sandbox_config": (3, SANDBOX)}, {"image_ref": (1, "text")}),
}
OF_IMAGES = ["ImageStatus", "PullImage"]
MAP_ENTRY = {"key": (1, "text"), "value": (2, "text")}


class CriError(Exception):
    """What the runtime answered, in the words in which Go's gRPC, and so a kubelet, shows it."""


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode(fields, message):
    out = bytearray()
    for name, value in message.items():
        number, kind = fields[name]
        if kind == "map":
            kind, value = [MAP_ENTRY], [{"key": key, "value": text} for key, text in sorted(value.items())]
        kind, values = (kind[0], value) if isinstance(kind, list) else (kind, [value])
        for one in values:
            if kind in ("int", "bool"):
                out += varint(number << 3) + varint(int(one))
            else:
                data = one.encode() if kind == "text" else encode(kind, one)
                out += varint(number << 3 | 2) + varint(len(data)) + data
    return bytes(out)


def decode(fields, data):
    """Single fields only: no answer that is read here has others."""
    known = {number: (name, kind) for name, (number, kind) in fields.items()}
    message, at = {}, 0

    def read():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = read()
        if key & 7 == 2:
            length = read()
            value, at = data[at : at + length], at + length
        elif key & 7 == 0:
            value = read()
        else:
            raise CriError(f"wire type {key & 7}")
        name, kind = known.get(key >> 3, (None, None))
        if kind == "text":
            message[name] = value.decode()
        elif name:
            message[name] = value if kind == "int" else decode(kind, value)
    return message


class Runtime:
    def __init__(self, socket):
        self.channel = grpc.insecure_channel("unix://" + socket)

    def call(self, method, seconds=120, **message):
        request, answer = METHODS[method]
        service = "ImageService" if method in OF_IMAGES else "RuntimeService"
        function = self.channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=lambda value: encode(request, value),
            response_deserializer=lambda data: decode(answer, data),
        )
        try:
            return function(message, timeout=seconds)
        except grpc.RpcError as error:
            code = re.sub(r"(^|_)([A-Z]+)", lambda found: found[2].capitalize(), error.code().name)
            raise CriError(f"rpc error: code = {code} desc = {error.details()}") from None
