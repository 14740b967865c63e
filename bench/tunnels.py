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
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, cast

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
TUNNELS: Final = 8
WINDOW: Final = 4  # frames under way in each tunnel


class Echo(asyncio.Protocol):
    """A sandbox: switches, then gives back what comes."""

    def __init__(self) -> None:
        self._head = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)

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
    off = {"HEALTH_PORT": "off", "METRICS_PORT": "off"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *words, env={**os.environ, **off, **environ}, stdout=asyncio.subprocess.PIPE
    )
    output = cast(asyncio.StreamReader, process.stdout)
    async for line in output:
        if b"listening" in line:
            break
    drain = asyncio.ensure_future(output.read())
    try:
        yield process.pid
    finally:
        process.terminate()
        await process.wait()
        await drain


def upgrade(sandbox_port: int) -> bytes:
    """Return the request that asks for a tunnel."""
    return (
        b"GET / HTTP/1.1\r\nHost: bench\r\nX-Sandbox-ID: echo\r\nX-Sandbox-Port: %d\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" % sandbox_port
    )


async def open_tunnel(port: int, sandbox_port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Upgrade one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(upgrade(sandbox_port))
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


class Pump(asyncio.Protocol):
    """The client of one tunnel: keeps a few frames under way, counts what comes back."""

    def __init__(self, sandbox_port: int) -> None:
        self._upgrade = upgrade(sandbox_port)
        self._switched = False
        self._owed = 0
        self._transport: asyncio.Transport
        self.moved = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the switch."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._upgrade)

    def data_received(self, data: bytes) -> None:
        """Send a frame for each that has come back."""
        if not self._switched:
            self._switched = True
            self._transport.write(FRAME * WINDOW)
            return
        self.moved += len(data)
        self._owed += len(data)
        while self._owed >= len(FRAME):
            self._owed -= len(FRAME)
            self._transport.write(FRAME)

    def stop(self) -> None:
        """End the tunnel."""
        self._transport.abort()


async def throughput(port: int, sandbox_port: int, seconds: float, pid: int) -> tuple[float, float]:
    """Return the MB/s of echoed frames over several tunnels, and the CPU microseconds per MB of `pid`."""
    loop = asyncio.get_running_loop()
    pumps = []
    for _ in range(TUNNELS):
        _, pump = await loop.create_connection(lambda: Pump(sandbox_port), "127.0.0.1", port)
        pumps.append(pump)
    await asyncio.sleep(seconds / 4)  # the start is no steady state
    began, moved = cpu_seconds(pid), sum(pump.moved for pump in pumps)
    await asyncio.sleep(seconds)
    spent, moved = cpu_seconds(pid) - began, sum(pump.moved for pump in pumps) - moved
    for pump in pumps:
        pump.stop()
    return moved / seconds / 1e6, spent * 1e6 / (moved / 1e6)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
        relay = await stack.enter_async_context(
            child("bench.relay", "--listen", listen, "--upstream", upstream)
        )
        pids = {"router": router, "relay": relay}
        cost = await idle_cost(ports["router"], sandbox_port, router)
        print(f"{IDLE} idle tunnels: {cost:.1f} MB")
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in ports}
        for _ in range(ROUNDS):
            for name, port in ports.items():
                rounds[name].append(await throughput(port, sandbox_port, seconds, pids[name]))
        for index, unit in enumerate(("MB/s", "CPU us/MB")):
            medians = {name: statistics.median(row[index] for row in rows) for name, rows in rounds.items()}
            shown = ", ".join(f"{name} {median:.0f}" for name, median in medians.items())
            ratio = medians["router"] / medians["relay"]
            print(f"64 KiB frames, {unit}: {shown}, ratio {ratio if index == 0 else 1 / ratio:.2f}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=2.0, help="length of a round")
    uvloop.run(main(options.parse_args().seconds))
