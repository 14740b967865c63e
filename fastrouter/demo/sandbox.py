"""An embedded sandbox: an HTTP/1.1 server that remembers its requests."""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from email.utils import formatdate
from http import HTTPStatus

import h11

from fastrouter.demo.calls import Call, Pairs, Reply, Seen, Wire
from fastrouter.demo.endpoints import respond
from fastrouter.demo.files import Files
from fastrouter.demo.listener import Listener, authority, bind

REMEMBERED = 1000
DISCARD_LIMIT = 256 * 1024 * 1024


class Sandbox:
    """One sandbox; `requests` holds what it saw, newest last.

    `served` counts replies begun, `aborted` those that did not come to their end, `accepted` connections.
    """

    def __init__(self, name: str, host: str = "127.0.0.1", port: int = 0) -> None:
        """Name a sandbox and the loopback address it will listen on; port 0 takes a free one."""
        self.name = name
        self.host = host
        self.port = port
        self.files = Files()
        self.requests: deque[Seen] = deque(maxlen=REMEMBERED)
        self.served = 0
        self.aborted = 0
        self.accepted = 0
        self._listener = Listener(self._serve, self._notify)
        self._waiters: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        """Show where it listens and what it has done."""
        return f"<Sandbox {self.name} {self.address} connections={self.connections} served={self.served}>"

    @property
    def address(self) -> str:
        """Host and port, once started."""
        return authority(self.host, self.port)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._listener.connections

    async def start(self) -> None:
        """Listen; OSError where the address is taken."""
        sock = bind(socket.SOCK_STREAM, self.host, self.port)
        self.port = sock.getsockname()[1]
        await self._listener.start(sock)

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        await self._listener.close()

    async def __aenter__(self) -> "Sandbox":
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close."""
        await self.close()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition on this sandbox holds, looking again whenever something happened here."""
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        wire = Wire(reader, writer, self._notify)
        try:
            while isinstance(request := await wire.event(), h11.Request):
                if not await self._exchange(wire, Call(wire, request)):
                    return
        except h11.RemoteProtocolError:
            await _refuse(wire)

    async def _exchange(self, wire: Wire, call: Call) -> bool:
        """Answer one call; return whether the connection can carry another."""
        self.requests.append(call.seen)
        ended = False
        try:
            if not call.chunked and not call.length:
                await _discard(call.body())  # a request without a body is complete before its reply starts
            reply = await respond(call, self.name, self.files)
            self.served += 1
            unasked = wire.machine.they_are_waiting_for_100_continue
            last = unasked or reply.framing == "close"
            await _send(wire, call.method, reply, last=last)
            ended = True
        finally:
            self._notify()
            if not ended:
                self.aborted += 1
                if wire.machine.our_state is h11.SEND_BODY:
                    wire.abort()
        # A client that was never asked for its body may send it or not: the next request has no known start.
        if last or not await _discard(call.body()) or wire.machine.our_state is not h11.DONE:
            return False
        wire.machine.start_next_cycle()
        return True


async def _send(wire: Wire, method: str, reply: Reply, *, last: bool) -> None:
    headers = [*_headers(reply), *([(b"Connection", b"close")] if last else [])]
    if reply.framing == "close":
        await _send_until_close(wire, method, reply, headers)
        return
    head = h11.Response(status_code=reply.status, headers=headers, reason=_reason(reply.status))
    if isinstance(reply.body, bytes):
        data = [h11.Data(data=reply.body)] if method != "HEAD" else []
        await wire.send(head, *data, h11.EndOfMessage())
        return
    await wire.send(head)
    async with aclosing(reply.body) as pieces:
        if method != "HEAD":
            async for piece in pieces:
                await wire.send(h11.Data(data=piece))
    await wire.send(h11.EndOfMessage(headers=reply.trailers))


async def _send_until_close(wire: Wire, method: str, reply: Reply, headers: Pairs) -> None:
    """Send a body that ends with the connection: past h11, which would choose chunked for a 1.1 client."""
    assert not isinstance(reply.body, bytes)  # noqa: S101 - tells mypy; only streamed bodies have this framing
    await wire.send_raw(_head(reply.status, headers))
    async with aclosing(reply.body) as pieces:
        if method != "HEAD":
            async for piece in pieces:
                await wire.send_raw(piece)


def _headers(reply: Reply) -> Pairs:
    headers = [
        (b"Server", b"sandbox"),
        (b"Date", formatdate(usegmt=True).encode()),
        (b"Content-Type", reply.content_type.encode("latin-1")),
    ]
    if reply.framing == "chunked":
        headers.append((b"Transfer-Encoding", b"chunked"))
    elif reply.framing == "length":
        length = len(reply.body) if isinstance(reply.body, bytes) else reply.length
        headers.append((b"Content-Length", b"%d" % (length or 0)))
    return headers


def _reason(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode()


def _head(status: int, headers: Pairs) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (status, _reason(status)), *(b"%s: %s" % pair for pair in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _discard(body: AsyncIterator[bytes]) -> bool:
    """Read a body to its end; return False where it is longer than is worth reading."""
    left = DISCARD_LIMIT
    async for piece in body:
        left -= len(piece)
        if left < 0:
            return False
    return True


async def _refuse(wire: Wire) -> None:
    """Answer a malformed request, unless a reply is already on its way."""
    if wire.machine.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
        body = b'{"detail": "Malformed HTTP request."}'
        headers = [*_headers(Reply(400, body)), (b"Connection", b"close")]
        await wire.send_raw(_head(400, headers) + body)
