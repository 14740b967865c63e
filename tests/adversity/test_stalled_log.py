"""Nobody reads the router's output for a while: access lines and log lines share one pipe."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sys
import termios
from collections.abc import AsyncIterator

import pytest

from fastrouter.demo.dns import DnsServer
from tests.adversity.soak_watch import HEALTH, ROOT
from tests.processes import RouterProcess
from tests.support import LIMIT, Client, eventually, request

OPEN = {"ALLOW_UNAUTHENTICATED_ROUTER": "true", "DIAL_RETRY_SECONDS": "0"}
PIPE_SIZE = 64 * 1024
LONG = b"GET /" + b"a" * 8_000 + b" HTTP/1.1\r\nHost: router\r\n\r\n"
# A timeout that is none is worth a line in the log, once a second at most.
WARNED = request(1, b"X-Sandbox-Timeout: none")


class Unread:
    """A router whose output is read when the test says so."""

    def __init__(self, process: asyncio.subprocess.Process, read_fd: int, address: tuple[str, int]) -> None:
        self.process = process
        self.read_fd = read_fd
        self.address = address

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection(*self.address))

    async def ask(self, what: bytes, number: int = 1) -> None:
        client = await self.client()
        try:
            for _ in range(number):
                await client.send(what)
                await client.response()
        finally:
            client.close()
            await asyncio.sleep(0)

    async def fill_the_pipe(self) -> None:
        """Cause five times the lines that the pipe holds, and wait until it is full."""
        await self.ask(LONG, 40)
        await eventually(lambda: self._waiting() > PIPE_SIZE - 4096)

    def _waiting(self) -> int:
        size = fcntl.ioctl(self.read_fd, termios.FIONREAD, bytes(4))
        return int.from_bytes(size, sys.byteorder)


@pytest.fixture
async def unread() -> AsyncIterator[Unread]:
    dns = DnsServer({})
    await dns.start()
    read_fd, write_fd = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fastrouter", "serve", "--host", "127.0.0.1", "--port", "0"),
        cwd=ROOT,
        env={**os.environ, **OPEN, "DNS_SERVERS": dns.address, "HEALTH_PORT": "off", "METRICS_PORT": "off"},
        stdout=write_fd,
    )
    os.close(write_fd)
    try:
        first = b""
        while not first.endswith(b"\n"):
            first += await asyncio.to_thread(os.read, read_fd, 65536)
        router = RouterProcess(process, [json.loads(line) for line in first.splitlines()])
        yield Unread(process, read_fd, router.address)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        os.close(read_fd)
        await dns.close()


async def test_a_log_line_that_nobody_reads_stops_no_request(unread: Unread) -> None:
    await unread.fill_the_pipe()
    async with asyncio.timeout(LIMIT / 4):
        await unread.ask(WARNED)
        await unread.ask(HEALTH)


async def test_lines_that_come_late_are_whole(unread: Unread) -> None:
    async def read_to_the_end() -> bytes:
        said = b""
        while piece := await asyncio.to_thread(os.read, unread.read_fd, 8192):
            said += piece
        return said

    await unread.fill_the_pipe()
    warned = asyncio.create_task(unread.ask(WARNED))  # its line comes in the middle of the others
    await asyncio.wait({warned}, timeout=0.5)
    reading = asyncio.create_task(read_to_the_end())
    await warned
    unread.process.terminate()
    lines = [json.loads(line) for line in (await asyncio.wait_for(reading, LIMIT)).splitlines()]
    assert sum("status" in line for line in lines) == 41
    assert [line["message"] for line in lines if line.get("level") == "warning"] != []
