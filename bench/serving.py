"""What the server processes of the benchmark share: addresses, the ready line, running until a signal."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable

import uvloop

Address = tuple[str, int]

READY = "listening on "


def parse_address(text: str) -> Address:
    """Read ``HOST:PORT``."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit()):
        msg = f"not HOST:PORT: {text!r}"
        raise ValueError(msg)
    return host, int(port)


def serve_until_signal(start: Callable[[], Awaitable[Address]]) -> None:
    """Start a server, say on stdout where it listens, and stay until SIGINT or SIGTERM.

    The ready line lets every process bind port 0: its parent reads the port instead of guessing a free one.
    """
    raise_file_limit()
    uvloop.run(_serve(start))


async def _serve(start: Callable[[], Awaitable[Address]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    host, port = await start()
    print(f"{READY}{host}:{port}", flush=True)
    await stop.wait()


def raise_file_limit() -> None:
    """Allow as many open files as the hard limit does: 1,000 sandboxes need more than the usual 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def bound_address(server: asyncio.Server) -> Address:
    """Where a server really listens, after port 0 was resolved."""
    host, port = server.sockets[0].getsockname()[:2]
    return str(host), int(port)
