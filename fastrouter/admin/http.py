"""The admin ports' HTTP: GET and HEAD on a few exact paths, one request per connection.

Strangers may reach these ports, and a probe that is not answered in time restarts the pod: whoever is slow,
silent or malformed costs a bounded place for a bounded time. One request per connection keeps that simple;
kubelet's probes, Prometheus and browsers open a new one for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from http import HTTPStatus
from typing import Final, NamedTuple

from fastrouter.errors import REQUEST_TIMEOUT, MalformedMessageError
from fastrouter.wire.heads import END, END_SIZE, RequestHead, check_incomplete, parse_request

MAX_CONNECTIONS: Final = 64
"""How many may send a request or wait for an answer at once; more are answered 503."""

# Once answered, a connection holds no place, but a file until the client is gone: beyond this, no word.
_MAX_OPEN: Final = 2 * MAX_CONNECTIONS

_HEAD_SECONDS: Final = 5.0
_ROUTE_SECONDS: Final = 10.0
_WRITE_SECONDS: Final = 5.0

# With every place taken, whoever has been silent for this long loses theirs to a newcomer: silent strangers
# must not keep the kubelet out, which would restart the pod.
_PATIENCE_SECONDS: Final = 0.05

# After the answer, how long and how much is still read: closing with unread bytes makes the kernel send RST,
# and the client may never see the answer (RFC 9112 9.6).
_LINGER_SECONDS: Final = 1.0
_MAX_LINGER: Final = 1024 * 1024

_READ: Final = 64 * 1024
_PLAIN: Final = "text/plain; charset=utf-8"
_METHODS: Final = frozenset({b"GET", b"HEAD"})

# The status page is one file: it may run its own script and ask its own port, and nothing else.
_HTML_FIELDS: Final = (
    b"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    b"connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
)

_log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """What a route answers."""

    status: int
    content_type: str
    body: bytes
    fields: bytes = b""
    """Further field lines, each with its line end."""


Route = Callable[[RequestHead], Awaitable[Reply]]


def plain(status: int, text: str, fields: bytes = b"") -> Reply:
    """Return a line of text."""
    return Reply(status, _PLAIN, text.encode() + b"\n", fields)


_FULL: Final = plain(503, "Too many connections on this port.")
_SLOW: Final = plain(503, "Timed out making this page.")
_BROKEN: Final = plain(500, "An internal error occurred; the log has the traceback.")


class AdminServer:
    """A listener with its routes, by exact path; what follows a ``?`` plays no part."""

    def __init__(self, host: str, port: int, routes: Mapping[bytes, Route]) -> None:
        self._host = host
        self._port = port
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # Who has not sent a whole head yet -> since when, the longest first.
        self._reading: dict[asyncio.StreamReader, float] = {}
        self._answering = 0

    def __repr__(self) -> str:
        return (
            f"<AdminServer {self._host}:{self._port} open={len(self._tasks)} "
            f"reading={len(self._reading)} answering={self._answering}>"
        )

    async def start(self) -> None:
        """Listen; raises ``OSError`` where the address is taken or not ours."""
        self._server = await asyncio.start_server(self._accept, self._host, self._port)

    @property
    def address(self) -> tuple[str, int]:
        """The address and port that is listened on."""
        if self._server is None or not self._server.sockets:
            return self._host, self._port
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def close(self) -> None:
        """Stop listening and cut off whoever is still there."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or len(self._tasks) >= _MAX_OPEN:
            writer.transport.abort()
            return
        loop = asyncio.get_running_loop()
        serving: Callable[[], Coroutine[None, None, None]]
        if self._has_place(loop.time()):
            self._reading[reader] = loop.time()
            serving = partial(self._serve, reader, writer)
        else:
            serving = partial(_send, reader, writer, _bytes_of(_FULL, head_only=False))
        task = loop.create_task(_to_the_end(serving, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _has_place(self, now: float) -> bool:
        """Tell whether one more may be served; takes the place of who has been silent for too long."""
        if len(self._reading) + self._answering < MAX_CONNECTIONS:
            return True
        for reader, since in self._reading.items():
            if now - since >= _PATIENCE_SECONDS:
                del self._reading[reader]
                reader.set_exception(TimeoutError())
                return True
            break
        return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head: RequestHead | None = parse_request(await _read_head(reader))
            reply = None
        except MalformedMessageError as error:
            head, reply = None, plain(error.cause.status, error.cause.detail)
        except TimeoutError:
            head, reply = None, plain(REQUEST_TIMEOUT.status, REQUEST_TIMEOUT.detail)
        except EOFError:
            return
        finally:
            self._reading.pop(reader, None)
        self._answering += 1
        try:
            if head is not None:
                reply = await self._answer(head)
        finally:
            self._answering -= 1
        assert reply is not None  # noqa: S101 - a head was read, or why not is the reply
        await _send(reader, writer, _bytes_of(reply, head_only=head is not None and head.method == b"HEAD"))

    async def _answer(self, head: RequestHead) -> Reply:
        path = head.target.partition(b"?")[0]
        route = self._routes.get(path)
        if route is None:
            known = ", ".join(sorted(each.decode("ascii") for each in self._routes))
            return plain(404, f"Not found. This port has {known}")
        if head.method not in _METHODS:
            return plain(405, "Method not allowed.", b"Allow: GET, HEAD\r\n")
        limit = asyncio.timeout(_ROUTE_SECONDS)
        try:
            async with limit:
                return await route(head)
        except Exception as error:  # noqa: BLE001 - a page that fails must not take the others along
            if isinstance(error, TimeoutError) and limit.expired():
                _log.warning("admin page timed out", extra={"path": path.decode("ascii")})
                return _SLOW
            _log.exception("admin page failed", extra={"path": path.decode("ascii")})
            return _BROKEN


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    """Return the bytes of a head; raises as soon as what came can no longer become one."""
    buffer = b""
    scanned = 0
    async with asyncio.timeout(_HEAD_SECONDS):
        while (end := buffer.find(END, max(0, scanned - 3))) < 0:
            if buffer:
                check_incomplete(buffer, scanned)
                scanned = len(buffer)
            data = await reader.read(_READ)
            if not data:
                raise EOFError
            buffer += data
    return buffer[: end + END_SIZE]


def _bytes_of(reply: Reply, *, head_only: bool) -> bytes:
    head = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b%b%b\r\n" % (
        reply.status,
        HTTPStatus(reply.status).phrase.encode("ascii"),
        reply.content_type.encode("ascii"),
        len(reply.body),
        reply.fields,
        _HTML_FIELDS if reply.content_type.startswith("text/html") else b"",
        b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n",
    )
    return head if head_only else head + reply.body


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send an answer, say that nothing follows, and read on for a moment: see ``_LINGER_SECONDS``."""
    writer.transport.set_write_buffer_limits(high=0)  # `drain` then waits until the kernel has all of it
    writer.write(data)
    async with asyncio.timeout(_WRITE_SECONDS):
        await writer.drain()
    writer.write_eof()
    seen = 0
    async with asyncio.timeout(_LINGER_SECONDS):
        while seen < _MAX_LINGER and (data := await reader.read(_READ)):
            seen += len(data)


async def _to_the_end(
    serving: Callable[[], Coroutine[None, None, None]], writer: asyncio.StreamWriter
) -> None:
    """Serve a connection and close it, whatever happens to it."""
    try:
        # The client left, or was too slow: nobody is there to be told.
        with contextlib.suppress(OSError):
            await serving()
    finally:
        writer.transport.abort()
