"""registry.py IMAGES PORT [USER:PASSWORD]: the images in the folder (OCI layouts, one a folder), as a registry on 127.0.0.1 shows them to who pulls.

Nothing can be pushed. With a user, it wants that name and password (RFC 7617) and answers 401 to everybody else. Each request is a line of output."""

import base64
import http.server
import json
import os
import re
import sys

images, port = sys.argv[1:3]
secret = "Basic " + base64.b64encode(sys.argv[3].encode()).decode() if len(sys.argv) > 3 else None


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        # containerd tries TLS first, and HTTP if what answers speaks that: which Python's server does not say by itself.
        if self.rfile.peek(1)[:1] == b"\x16":
            self.wfile.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            self.close_connection = True
            return
        super().handle_one_request()

    def answer(self, status, body=b"", path=None, **headers):
        print(self.command, self.path, status, flush=True)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(os.path.getsize(path) if path else len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if path:
            with open(path, "rb") as file:
                self.copyfile(file)
        else:
            self.wfile.write(body)

    def copyfile(self, file):
        while piece := file.read(1 << 20):
            self.wfile.write(piece)

    def do_GET(self):
        if secret and self.headers.get("Authorization") != secret:
            return self.answer(401, WWW_Authenticate='Basic realm="images"')
        if self.path.split("?")[0] == "/v2/":
            return self.answer(200)
        found = re.fullmatch(r"/v2/([a-z]+)/(manifests|blobs)/([a-z0-9:]+)", self.path.split("?")[0])
        if not found or not os.path.isdir(os.path.join(images, found[1])):
            return self.answer(404)
        name, kind, which = found.groups()
        with open(os.path.join(images, name, "index.json")) as file:
            manifest = json.load(file)["manifests"][0]
        digest = which if which.startswith("sha256:") else manifest["digest"]
        path = os.path.join(images, name, "blobs", *digest.split(":"))
        if not os.path.exists(path):
            return self.answer(404)
        media = manifest["mediaType"] if kind == "manifests" else "application/octet-stream"
        return self.answer(200, path=path, Content_Type=media, Docker_Content_Digest=digest)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Registry).serve_forever()
