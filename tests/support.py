"""Real parts for end-to-end tests: a router, a DNS server, and a sandbox that does exactly as it is told.

Everything listens on loopback with ports of the system's choice and is closed by its context manager.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from fastrouter.demo.dns import DnsServer
from fastrouter.server import Server
from fastrouter.settings import Settings
from fastrouter.telemetry.access_log import AccessLog
from fastrouter.tls import certificates_of

if TYPE_CHECKING:
    from fastrouter.telemetry.tracing import Tracer

LIMIT = 10.0
"""Seconds after which a test that waits for the network has failed."""

Handler = Callable[["Visit"], Awaitable[None]]


@dataclass
class Visit:
    """One connection to a scripted sandbox: what came, and the means to answer byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytearray = field(default_factory=bytearray)

    async def read(self) -> bytes:
        """Return the next piece; nothing at the end."""
        data = await asyncio.wait_for(self.reader.read(256 * 1024), LIMIT)
        self.received += data
        return data

    async def until(self, mark: bytes) -> bytes:
        """Read until ``mark`` has come, return all that was read so far on this call."""
        data = await asyncio.wait_for(self.reader.readuntil(mark), LIMIT)
        self.received += data
        return data

    async def exactly(self, size: int) -> bytes:
        """Read ``size`` bytes."""
        data = await asyncio.wait_for(self.reader.readexactly(size), LIMIT)
        self.received += data
        return data

    async def head(self) -> bytes:
        """Read one request head."""
        return await self.until(b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        """Send bytes, waiting for room."""
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), LIMIT)

    def close(self) -> None:
        """Close after what was sent."""
        self.writer.close()

    def reset(self) -> None:
        """Close with RST."""
        reset(self.writer)

    @property
    def ended(self) -> bool:
        """True once the router has closed this connection and all that it sent was read."""
        return self.reader.at_eof() or self.reader.exception() is not None

    async def gone(self) -> None:
        """Wait until the router has closed this connection."""
        while await self.read():
            pass


@dataclass
class ScriptedSandbox:
    """A listener that runs ``handler`` for each connection and keeps every visit."""

    handler: Handler
    visits: list[Visit] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = await asyncio.start_server(self._visit, host, port, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = Visit(reader, writer)
        self.visits.append(visit)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.handler(visit)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the router left: the tests look at what they need of that
        finally:
            self._tasks.discard(task)
            writer.close()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop_listening(self) -> None:
        """Refuse new connections; those that are open stay."""
        assert self._server is not None
        self._server.close()

    @property
    def received(self) -> bytes:
        """All bytes of all connections, in the order of the connections."""
        return b"".join(bytes(visit.received) for visit in self.visits)


def replies(*answers: bytes) -> Handler:
    """Return a handler that reads a head (and a body of known length) and sends the next answer, in turn."""

    async def handle(visit: Visit) -> None:
        for answer in answers:
            await read_request(visit)
            await visit.send(answer)
        await visit.gone()

    return handle


def always(answer: bytes) -> Handler:
    """Return a handler that gives every request of every connection the same answer."""

    async def handle(visit: Visit) -> None:
        while True:
            await read_request(visit)
            await visit.send(answer)

    return handle


async def read_request(visit: Visit) -> tuple[bytes, bytes]:
    """Read one request with a body of known length or chunked; return head and raw body."""
    head = await visit.head()
    lower = head.lower()
    if b"\r\ntransfer-encoding: chunked" in lower:
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += await visit.until(b"\r\n")
        return head, body
    if b"\r\ncontent-length: " in lower:
        size = int(lower.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
        return head, await visit.exactly(size)
    return head, b""


def ok(body: bytes = b"ok", *fields: bytes) -> bytes:
    """Return a plain 200 response."""
    lines = b"".join(line + b"\r\n" for line in fields)
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), lines, body)


@dataclass
class Client:
    """A raw client connection: bytes out, bytes in."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), LIMIT)

    async def head(self) -> bytes:
        """Return the next response head."""
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), LIMIT)

    async def exactly(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), LIMIT)

    async def response(self) -> tuple[bytes, bytes]:
        """Return head and body of a response with Content-Length."""
        head = await self.head()
        size = int(head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
        return head, await self.exactly(size)

    async def error(self) -> tuple[int, str, str]:
        """Return status, detail and reason word of one of the router's own replies."""
        head, body = await self.response()
        reason = head.split(b"\r\nX-Sandbox-Router-Error: ")[1].split(b"\r\n")[0].decode()
        return int(head[9:12]), json.loads(body)["detail"], reason

    async def rest(self) -> bytes:
        """Return everything up to the end of the connection; a reset raises ConnectionResetError."""
        return await asyncio.wait_for(self.reader.read(-1), LIMIT)

    def close(self) -> None:
        self.writer.close()

    def end_now(self) -> None:
        """Send TCP's FIN now, where a transport would wait for its turn; by TLS, without close_notify."""
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as copy:
            copy.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        reset(self.writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST: `abort()` alone sends FIN where everything was read."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class Stage:
    """One router with its DNS server, sandboxes and clients."""

    server: Server
    dns: DnsServer
    zone: dict[str, list[str]]
    log_fd: int
    _sandboxes: list[ScriptedSandbox] = field(default_factory=list)
    _clients: list[Client] = field(default_factory=list)

    async def sandbox(
        self, handler: Handler, name: str = "box", *, namespace: str = "default", host: str = "127.0.0.1"
    ) -> ScriptedSandbox:
        """Start a scripted sandbox and give it its name in the DNS."""
        sandbox = ScriptedSandbox(handler)
        await sandbox.start(host)
        self._sandboxes.append(sandbox)
        self.zone[f"{name}.{namespace}.svc.cluster.local"] = [host]
        return sandbox

    async def client(self) -> Client:
        """Connect to the router."""
        reader, writer = await asyncio.open_connection(*self.server.address, limit=2**20)
        client = Client(reader, writer)
        self._clients.append(client)
        return client

    @property
    def sandboxes(self) -> tuple[ScriptedSandbox, ...]:
        return tuple(self._sandboxes)

    @property
    def url(self) -> str:
        host, port = self.server.address
        return f"http://{host}:{port}"

    def access_lines(self) -> list[dict[str, object]]:
        """Return the access lines written so far."""
        assert self.server.access_log is not None
        self.server.access_log.close()
        data = os.pread(self.log_fd, os.fstat(self.log_fd).st_size, 0)
        return [json.loads(line) for line in data.splitlines()]

    async def close(self) -> None:
        for client in self._clients:
            client.close()
        await self.server.shutdown()
        for sandbox in self._sandboxes:
            await sandbox.close()
        await self.dns.close()


@asynccontextmanager
async def stage(**settings: object) -> AsyncIterator[Stage]:
    """Start a router (dial retries off, grace 0 s unless told) in front of an empty DNS zone.

    Its access lines go to a file: a pipe that nobody reads fills, and its writer would outlive the stage.
    """
    zone: dict[str, list[str]] = {}
    dns = DnsServer(zone)
    await dns.start()
    chosen = Settings(
        host="127.0.0.1",
        port=0,
        dns_servers=(dns.address,),
        dial_retry=0.0,
        shutdown_grace=0.0,
        request_id=False,  # what is sent and answered is compared byte for byte
    )
    tracer = cast("Tracer | None", settings.pop("tracer", None))
    effective = replace(chosen, **settings)  # type: ignore[arg-type]
    certificates = certificates_of(effective)
    with tempfile.TemporaryFile() as lines, closing(AccessLog(lines.fileno())) as log:
        server = Server(effective, access_log=log, tracer=tracer, certificates=certificates)
        await server.start()
        set_ = Stage(server, dns, zone, lines.fileno())
        try:
            yield set_
        finally:
            await set_.close()


def request(
    sandbox: ScriptedSandbox | int,
    *fields: bytes,
    method: bytes = b"GET",
    target: bytes = b"/",
    body: bytes | None = None,
    name: bytes = b"box",
) -> bytes:
    """Return a whole request for ``sandbox`` (or its port), with ``fields`` behind the routing headers."""
    port = sandbox if isinstance(sandbox, int) else sandbox.port
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: router", b"X-Sandbox-ID: " + name]
    lines.append(b"X-Sandbox-Port: %d" % port)
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, *fields, b"", body or b""])


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds: for state that no event of the test announces."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 - the state is the router's own: no event of ours tells it
            await asyncio.sleep(0.005)


def full_listener() -> tuple[socket.socket, socket.socket]:
    """Return a listener whose queue is full, and what fills it: a dial to it hangs, as to a lost host."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    filler = socket.create_connection(listener.getsockname())
    return listener, filler


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def unchunk(raw: bytes) -> tuple[bytes, bytes]:
    """Return the data of a whole chunked body and its trailer lines; fails on anything else."""
    data = b""
    while True:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert raw.endswith(b"\r\n")
            return data, raw[:-2]
        data += raw[:length]
        assert raw[length : length + 2] == b"\r\n"
        raw = raw[length + 2 :]


async def settled(number: Callable[[], int]) -> int:
    """Wait until a number has not changed for 0.4 s and return it: for flows that came to a halt."""
    last, same = number(), 0
    async with asyncio.timeout(2 * LIMIT):
        while same < 4:
            await asyncio.sleep(0.1)
            last, same = (now := number()), same + 1 if now == last else 0
    return last
