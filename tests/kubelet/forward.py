"""The kubelet's end of a port-forward over a web socket: GET /portForward/NAMESPACE/POD?port=PORT, protocol v4.channel.k8s.io.

Each message begins with the number of a channel: 0 is data, 1 an error's text. The first one on each channel is the port, two bytes, the lower first.
A real kubelet connects within the pod's network; here the pods of a node are processes of this machine, and the port is one of it.
Who may is the API server's affair: a kubelet lets nobody in but that."""

import base64
import hashlib
import socket
import struct
import threading
import urllib.parse

PROTOCOL = "v4.channel.k8s.io"
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(kind, data):
    if len(data) < 126:
        head = struct.pack("!BB", 0x80 | kind, len(data))
    elif len(data) < 1 << 16:
        head = struct.pack("!BBH", 0x80 | kind, 126, len(data))
    else:
        head = struct.pack("!BBQ", 0x80 | kind, 127, len(data))
    return head + data


def messages(file):
    """Those of a client, which masks them: kind and data."""
    while True:
        head = file.read(2)
        if len(head) < 2:
            return
        size = head[1] & 0x7F
        if size == 126:
            size = struct.unpack("!H", file.read(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", file.read(8))[0]
        mask = file.read(4)
        data = file.read(size)
        whole = (mask * (size // 4 + 1))[:size]
        yield head[0] & 0x0F, (int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")).to_bytes(size, "big")


def serve(handler):
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(handler.path).query)
    offered = [word.strip() for word in (handler.headers.get("Sec-WebSocket-Protocol") or "").split(",")]
    if PROTOCOL not in offered or "port" not in query:
        return handler.answer(400, "unknown protocol or no port")
    port = int(query["port"][0])
    key = handler.headers["Sec-WebSocket-Key"] + MAGIC
    handler.close_connection = True
    handler.send_response(101)
    handler.send_header("Upgrade", "websocket")
    handler.send_header("Connection", "Upgrade")
    handler.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
    handler.send_header("Sec-WebSocket-Protocol", PROTOCOL)
    handler.end_headers()
    for channel in (0, 1):
        handler.wfile.write(frame(2, bytes([channel]) + struct.pack("<H", port)))
    try:
        inner = socket.create_connection(("127.0.0.1", port), timeout=10)
    except OSError as e:
        handler.wfile.write(frame(2, b"\x01" + f"failed to connect to port {port}: {e}".encode()))
        handler.wfile.write(frame(8, struct.pack("!H", 1000)))
        return None
    inner.settimeout(None)

    def back():
        try:
            while data := inner.recv(65536):
                handler.wfile.write(frame(2, b"\x00" + data))
            handler.wfile.write(frame(8, struct.pack("!H", 1000)))
        except OSError:
            pass

    thread = threading.Thread(target=back, daemon=True)
    thread.start()
    try:
        for kind, data in messages(handler.rfile):
            if kind == 8:
                break
            if kind == 2 and data[:1] == b"\x00":
                inner.sendall(data[1:])
    except OSError:
        pass
    finally:
        try:
            inner.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        thread.join(10)
        inner.close()
    return None
