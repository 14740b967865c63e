"""A TCP listener that owns one task per connection and can end all of them."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

BACKLOG = 4096
CLOSE_ROUNDS = 3


def authority(host: str, port: int) -> str:
    """Host and port as one text, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    """Return a bound non-blocking socket for an IPv4 or IPv6 literal."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            # A restart must not wait for the old connections in TIME_WAIT. Two listeners still collide.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


class Listener:
    """Accepts connections, runs `serve` for each in a task of its own, closes each when it returns."""

    def __init__(self, serve: Serve, ended: Callable[[], None] | None = None) -> None:
        """Keep the function that serves one connection, and one to call when a connection has ended."""
        self._serve = serve
        self._ended = ended
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def connections(self) -> int:
        """How many connections are being served."""
        return len(self._open)

    async def start(self, sock: socket.socket) -> None:
        """Listen on a bound socket; the listener owns the socket from now on."""
        try:
            self._server = await asyncio.start_server(self._accept, sock=sock, backlog=BACKLOG)
        except OSError:  # another socket was bound here too, and listened first
            sock.close()
            raise

    async def close(self) -> None:
        """Stop listening, abort every connection and wait until all of them are gone."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        # Accepted connections reach _accept a loop round after accept(): look again until none comes.
        for _ in range(CLOSE_ROUNDS):
            await self._abort_all()
            await asyncio.sleep(0)
        await server.wait_closed()

    async def _abort_all(self) -> None:
        tasks = list(self._open)
        for task, writer in self._open.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio would start a task itself for a coroutine function, but one that nobody can end.
        task = asyncio.get_running_loop().create_task(self._run(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        if self._ended is not None:
            self._ended()

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await self._serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
