"""notebook.py start CODE | run CODE | hold: what a browser does with the Jupyter server on 127.0.0.1:8888, over its REST interface and its websocket.

start: a new kernel runs CODE. run: the kernel that is there does; what it prints is printed. hold: the kernel's websocket stays open until standard input ends.
Needs python3-websocket."""

import json
import sys
import urllib.request
import uuid

import websocket

SERVER, TOKEN = "127.0.0.1:8888", {"Authorization": "token hush"}


def rest(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{SERVER}/api/{path}", data=data, method=method, headers=TOKEN)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def connect(kernel):
    session = uuid.uuid4().hex
    url = f"ws://{SERVER}/api/kernels/{kernel}/channels?session_id={session}"
    return websocket.create_connection(url, header=TOKEN, timeout=20), session


def run(kernel, code):
    """What it prints. The protocol: jupyter-client's documentation, "Messaging in Jupyter", version 5.3."""
    connection, session = connect(kernel)
    number = uuid.uuid4().hex
    header = {"msg_id": number, "msg_type": "execute_request", "username": "", "session": session, "version": "5.3", "date": ""}
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []}
    connection.send(json.dumps(message))
    printed = ""
    while True:
        answer = json.loads(connection.recv())
        if answer["parent_header"].get("msg_id") != number:
            continue
        if answer["msg_type"] == "error":
            sys.exit("\n".join(answer["content"]["traceback"]))
        if answer["msg_type"] == "stream":
            printed += answer["content"]["text"]
        if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
            connection.close()
            return printed


action = sys.argv[1]
kernel = rest("POST", "kernels", {})["id"] if action == "start" else rest("GET", "kernels")[0]["id"]
if action == "hold":
    connection, _ = connect(kernel)
    print("open", flush=True)
    sys.stdin.read()
else:
    print(run(kernel, sys.argv[2]), end="")
