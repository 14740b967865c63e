"""Tunnels: what 2,000 idle ones cost in memory, and how fast one side of them moves.

``python -m bench.tunnels`` starts a router and a relay before an echo that switches protocols, and prints the
resident memory of idle tunnels and the ratio of the throughput of 64 KiB frames through both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import uvloop

from bench.serving import raise_file_limit
from fastrouter.demo.dns import DnsServer

NAME: Final = "echo.default.svc.cluster.local"
SWITCHED: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
FRAME: Final = b"\x82\xff" + (65536).to_bytes(8) + b"mask" + b"x" * 65536
HEADS_END: Final = b"\r\n\r\n"
IDLE: Final = 2000
WARM: Final = 20
ROUNDS: Final = 5
WINDOW: Final = 8  # frames under way in each of the tunnels


class Echo(asyncio.Protocol):
    """A sandbox: switches, then gives back what comes."""

    def __init__(self) -> None:
        self._head = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer the head once, then echo."""
        if not self._head.endswith(HEADS_END):
            self._head += data
            self._transport.write(SWITCHED)
        else:
            self._transport.write(data)


@asynccontextmanager
async def child(*words: str, **environ: str) -> AsyncIterator[int]:
    """Run a module of ours as a process; yield its id, end it by that id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *words, env={**os.environ, **environ}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()  # it says that it listens
    drain = asyncio.ensure_future(process.stdout.read())
    try:
        yield process.pid
    finally:
        process.terminate()
        await process.wait()
        await drain


async def open_tunnel(port: int, sandbox_port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Upgrade one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**21)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: bench\r\nX-Sandbox-ID: echo\r\nX-Sandbox-Port: %d\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" % sandbox_port
    )
    head = await reader.readuntil(HEADS_END)
    if not head.startswith(b"HTTP/1.1 101 "):
        raise RuntimeError(head.decode("latin-1"))
    return reader, writer


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def idle_cost(port: int, sandbox_port: int, pid: int) -> float:
    """Return the MB that idle tunnels cost the router."""
    tunnels = [await open_tunnel(port, sandbox_port) for _ in range(WARM)]
    before = resident(pid)
    for _ in range(IDLE // 100):
        tunnels += await asyncio.gather(*(open_tunnel(port, sandbox_port) for _ in range(100)))
    cost = (resident(pid) - before) / 2**20
    for _, writer in tunnels:
        writer.close()
    return cost


async def throughput(port: int, sandbox_port: int, seconds: float, tunnels: int = 8) -> float:
    """Return the MB/s of echoed frames over several tunnels."""
    moved = 0
    ends_at = time.monotonic() + seconds

    async def pump() -> None:
        nonlocal moved
        reader, writer = await open_tunnel(port, sandbox_port)
        writer.write(FRAME * WINDOW)
        while time.monotonic() < ends_at:
            moved += len(await reader.readexactly(len(FRAME)))
            writer.write(FRAME)
        writer.close()

    await asyncio.gather(*(pump() for _ in range(tunnels)))
    return moved / seconds / 1e6


async def main(seconds: float) -> None:
    """Measure, and print two lines."""
    raise_file_limit()
    async with AsyncExitStack() as stack:
        echo = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=4096)
        stack.callback(echo.close)
        sandbox_port: int = echo.sockets[0].getsockname()[1]
        dns = await stack.enter_async_context(DnsServer({NAME: ["127.0.0.1"]}, record=False))
        ports = {"router": 18997, "relay": 18998}
        router = await stack.enter_async_context(
            child(
                *("fastrouter", "serve", "--host", "127.0.0.1", "--port", str(ports["router"])),
                DNS_SERVERS=dns.address,
                WEBSOCKET_MAX_CONNECTIONS_PER_CLIENT="0",
            )
        )
        listen, upstream = f"127.0.0.1:{ports['relay']}", f"127.0.0.1:{sandbox_port}"
        await stack.enter_async_context(child("bench.relay", "--listen", listen, "--upstream", upstream))
        print(f"{IDLE} idle tunnels: {await idle_cost(ports['router'], sandbox_port, router):.1f} MB")
        rounds: dict[str, list[float]] = {name: [] for name in ports}
        for _ in range(ROUNDS):
            for name, port in ports.items():
                rounds[name].append(await throughput(port, sandbox_port, seconds))
        medians = {name: statistics.median(figures) for name, figures in rounds.items()}
        ratio = medians["router"] / medians["relay"]
        print(f"64 KiB frames, MB/s: router {medians['router']:.0f}, relay {medians['relay']:.0f}, {ratio:.2f}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=2.0, help="length of a round")
    uvloop.run(main(options.parse_args().seconds))
