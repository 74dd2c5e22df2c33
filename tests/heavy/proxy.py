"""A TCP proxy on 127.0.0.1 before an HTTP server: counts what goes through, and makes the line as slow as asked.

Always: bytes go through unchanged, and in order. Never: answers or repeats anything itself.
"""

import asyncio
import threading
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit


@dataclass
class Request:
    method: str
    path: str
    # Bytes of the body that went up, and of the answer with its headers that came down.
    up: int = 0
    down: int = 0
    # Whether all of the body went up.
    whole: bool = False

    def folder(self, prefix):
        """The folder of the repository that it is about; `list` for a list."""
        name = unquote(urlsplit(self.path).path).removeprefix(prefix)
        return "list" if "list-type" in self.path else name.strip("/").split("/")[0]


class Proxy:
    """To `port`; `up` and `down` are bytes per second of all connections together, None for no limit."""

    def __init__(self, port, up=None, down=None):
        self.target = port
        self.limits = {"up": up, "down": down}
        self.free_at = {"up": 0.0, "down": 0.0}
        self.requests = []
        self.connections = 0
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait()

    def _run(self, ready):
        asyncio.set_event_loop(self.loop)
        connections = set()

        def accept(reader, writer):
            # The loop itself holds tasks weakly.
            task = self.loop.create_task(self._connection(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        async def start():
            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()

        self.loop.create_task(start())
        self.loop.run_forever()

    def take(self):
        """What went through since the last call."""
        taken, self.requests = self.requests, []
        return taken

    async def _pace(self, way, count):
        limit = self.limits[way]
        if limit:
            now = self.loop.time()
            self.free_at[way] = max(self.free_at[way], now) + count / limit
            await asyncio.sleep(self.free_at[way] - now)

    async def _connection(self, reader, writer):
        self.connections += 1
        try:
            to_server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        current = [None]
        pumps = [
            asyncio.ensure_future(self._pump(reader, to_server[1], "up", Parser(self, current))),
            asyncio.ensure_future(self._pump(to_server[0], writer, "down", lambda part: self._came(current, part))),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        writer.close()
        to_server[1].close()

    @staticmethod
    def _came(current, part):
        if current[0]:
            current[0].down += len(part)

    async def _pump(self, reader, writer, way, seen):
        while part := await reader.read(32768):
            await self._pace(way, len(part))
            seen(part)
            writer.write(part)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


class Parser:
    """Finds the requests in what a client sends over one connection."""

    def __init__(self, proxy, current):
        self.proxy, self.current = proxy, current
        self.head = b""
        self.body = 0

    def __call__(self, part):
        while part:
            if self.body:
                took = min(self.body, len(part))
                self.body -= took
                self.current[0].up += took
                self.current[0].whole = self.body == 0
                part = part[took:]
                continue
            self.head += part
            head, found, part = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            self.head = b""
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            if "chunked" in headers.get("transfer-encoding", ""):
                raise OSError("a request in chunks: this proxy does not count those")
            method, path, _ = first.split(" ")
            self.body = int(headers.get("content-length", 0))
            self.current[0] = Request(method, path, whole=self.body == 0)
            self.proxy.requests.append(self.current[0])
