"""The thin test shim: the router in memory, on an httpcore mock backend. No sockets, no cluster, no DNS.

    async with Shim(backend=MockBackend(OK)) as shim:
        response = await shim.request("GET", "/", {"X-Sandbox-ID": "box"})

``Server`` is the real one, never started; its client connections get a transport that is a buffer.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import h11
import httpcore

from fastrouter.server import Server
from fastrouter.settings import Settings

LIMIT = 10.0
"""Seconds after which a reply that has not come is missing."""

PEER = ("192.0.2.7", 40000)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

SETTINGS = Settings(request_id=False, dial_retry=0.0, shutdown_grace=0.0)
"""A dial that fails is not tried again, and nothing is waited for at the end of a test."""

BOX = {"X-Sandbox-ID": "box"}
"""What names a sandbox, and no more."""

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class Dial(NamedTuple):
    """One call of ``connect_tcp``."""

    host: str
    port: int
    timeout: float | None


class MockStream(httpcore.AsyncNetworkStream):
    """One connection to the mock: every request head that is written brings the next answer."""

    def __init__(self, backend: MockBackend) -> None:
        self._backend = backend
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        return await self._answers.get()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        self._backend.sent += buffer
        if b" HTTP/1.1\r\n" in buffer:
            for piece in self._backend.answer():
                self._answers.put_nowait(piece)
        self._backend.written.set()

    async def aclose(self) -> None:
        self._answers.put_nowait(b"")

    def get_extra_info(self, info: str) -> Any:
        return None


class MockBackend(httpcore.AsyncNetworkBackend):
    """Records what is dialled and sent; answers with canned bytes, or fails to connect.

    The answers go out in turn, whatever the connection, and the last one again and again. An empty one is
    the end of the connection; without answers the sandbox is silent.
    """

    def __init__(self, *answers: bytes, error: Exception | None = None) -> None:
        self._answers = deque(answers)
        self._error = error
        self.dials: list[Dial] = []
        self.sent = b""
        self.written = asyncio.Event()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> MockStream:
        self.dials.append(Dial(host, port, timeout))
        if self._error is not None:
            raise self._error
        return MockStream(self)

    def answer(self) -> list[bytes]:
        if len(self._answers) > 1:
            return [self._answers.popleft()]
        return list(self._answers)


class MemoryTransport(asyncio.Transport):
    """What the router takes for a client's TCP connection."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._undelivered: list[bytes] = []
        self._paused = False
        self.closing = False
        self.ended = False
        self.written = b""
        self.changed = asyncio.Event()

    def deliver(self, data: bytes) -> None:
        """Let ``data`` arrive from the client, now or when the router reads again."""
        self._undelivered.append(data)
        while self._undelivered and not self._paused and not self.closing:
            self._protocol.data_received(self._undelivered.pop(0))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return PEER if name == "peername" else default

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        if self._undelivered:
            asyncio.get_running_loop().call_soon(self.deliver, self._undelivered.pop(0))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self.changed.set()

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True
        self.changed.set()

    def close(self) -> None:
        if not self.closing:
            self.closing = self.ended = True
            self.changed.set()
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


@dataclass(frozen=True)
class Response:
    """One reply, as h11 reads it."""

    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """The fields by lower-case name; of several with one name, the last."""
        return {name.lower(): value for name, value in self.fields}

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, detail and reason word of one of the router's own replies."""
        return self.status, self.json()["detail"], self.headers["x-sandbox-router-error"]

    def json(self) -> Any:
        return json.loads(self.body)


class MemoryClient:
    """One client connection of the router in memory."""

    def __init__(self, server: Server) -> None:
        self.connection = server.make_downstream()
        self._transport = MemoryTransport(self.connection)
        self.connection.connection_made(self._transport)

    def send(self, data: bytes) -> None:
        self._transport.deliver(data)

    @property
    def ended(self) -> bool:
        """Whether the router has said that nothing more comes."""
        return self._transport.ended

    @property
    def unread(self) -> bytes:
        """What the router has sent behind the responses that were taken."""
        return self._transport.written

    async def until_ended(self) -> None:
        async with asyncio.timeout(LIMIT):
            while not self.ended:
                await self._news()

    async def response(self, method: str = "GET") -> Response:
        """Return the next final response, to a request of ``method``."""
        async with asyncio.timeout(LIMIT):
            while (response := self._parse(method)) is None:
                await self._news()
        return response

    async def _news(self) -> None:
        self._transport.changed.clear()
        await self._transport.changed.wait()

    def _parse(self, method: str) -> Response | None:
        transport = self._transport
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("host", "router")]))
        reader.send(h11.EndOfMessage())
        if transport.written:
            reader.receive_data(transport.written)
        if transport.ended:
            reader.receive_data(b"")  # h11's sign for the end
        head: h11.Response | None = None
        body = b""
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
        assert head is not None
        transport.written = reader.trailing_data[0]
        fields = tuple(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers.raw_items()
        )
        return Response(head.status_code, head.reason.decode("ascii"), fields, body)


class Shim:
    """The router in memory; ``backend`` is any httpcore backend, its own mock included."""

    def __init__(
        self, *, settings: Settings = SETTINGS, backend: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        self.server = Server(settings, backend=backend or MockBackend(OK))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.shutdown()

    def connect(self) -> MemoryClient:
        """Return a new client connection."""
        return MemoryClient(self.server)

    async def request(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes | None = None,
    ) -> Response:
        """Make one request on a connection of its own."""
        client = self.connect()
        client.send(raw_request(method, path, headers, body))
        # h11 would take the answer to CONNECT for a tunnel.
        return await client.response("GET" if method == "CONNECT" else method)


def raw_request(
    method: str,
    path: str,
    headers: Headers = (),
    body: bytes | None = None,
) -> bytes:
    """Return a request with ``Host: router``, and a length where there is a body."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    if body is not None:
        pairs.append(("Content-Length", str(len(body))))
    lines = [f"{method} {path} HTTP/1.1", "Host: router", *(f"{name}: {value}" for name, value in pairs)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


async def ask(
    method: str, path: str, headers: Headers, body: bytes | None = None, *, backend: MockBackend | None = None
) -> Response:
    async with Shim(backend=backend) as shim:
        return await shim.request(method, path, headers, body)


async def refused(headers: Headers, *, method: str = "GET", path: str = "/") -> tuple[int, str, str]:
    """Return the error for a request that must not come as far as a dial."""
    backend = MockBackend(OK)
    response = await ask(method, path, headers, backend=backend)
    assert backend.dials == []
    return response.error
