"""HAProxy in front of routers that come and go, told through its runtime socket.

Its configuration is as plain as one for routers can be. What matters for counting failures: it tries another
router only where a connection could not be made, so nothing that a router was sent is ever sent again (unless
a run asks for more with ``retry_on``, and counts what ran).
"""

from __future__ import annotations

import asyncio
import csv
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bench.peers.catalog import find_program
from tests.adversity.callers import Address
from tests.support import LIMIT, eventually

SLOTS: Final = ("a", "b", "c")
"""Places for two routers in service and one that takes over."""

CONFIGURATION: Final = """\
global
    stats socket {folder}/runtime mode 600 level admin
    maxconn 1000
    nbthread 1
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    option dontlog-normal
    timeout connect 1s
    timeout client 30s
    timeout server 30s
    retries 3
    option redispatch 1
    retry-on {retry_on}
frontend callers
    bind fd@{fd}
    default_backend routers
backend routers
    balance roundrobin
    option httpchk
    http-check send meth GET uri /healthz ver HTTP/1.1 hdr Host balancer
    http-check expect status 200
    default-server check inter 100ms fastinter 50ms fall 1 rise 1
{servers}
"""


class Balancer:
    """A running HAProxy."""

    def __init__(self, address: Address, runtime: Path) -> None:
        self.address = address
        self.lines: list[str] = []
        """What it logged: only what went wrong."""
        self._runtime = runtime
        self._free = list(SLOTS)
        self._slots: dict[Address, str] = {}

    async def admit(self, router: Address) -> None:
        """Send requests to a router, once a health check has found it well."""
        slot = self._slots[router] = self._free.pop(0)
        await self._command(f"set server routers/{slot} addr {router[0]} port {router[1]}")
        await self._command(f"set server routers/{slot} state ready")
        async with asyncio.timeout(LIMIT):
            while await self._status(slot) != ("UP", "L7OK"):  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.02)

    async def withdraw(self, router: Address) -> None:
        """Send no new requests to a router; those under way go on."""
        await self._command(f"set server routers/{self._slots[router]} state drain")

    async def forget(self, router: Address) -> None:
        """Free the place of a router that has ended."""
        slot = self._slots.pop(router)
        await self._command(f"set server routers/{slot} state maint")
        self._free.append(slot)

    async def follow(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            self.lines.append(line.decode().rstrip())

    async def _status(self, slot: str) -> tuple[str, str]:
        rows = csv.DictReader((await self._command("show stat")).lstrip("# ").splitlines())
        row = next(row for row in rows if (row["pxname"], row["svname"]) == ("routers", slot))
        return row["status"], row["check_status"]

    async def _command(self, command: str) -> str:
        reader, writer = await asyncio.open_unix_connection(self._runtime)
        writer.write(command.encode() + b"\n")
        answer = await asyncio.wait_for(reader.read(-1), LIMIT)
        writer.close()
        return answer.decode()


def program() -> str | None:
    """Return the path of HAProxy, None where it is not installed."""
    return find_program("haproxy")


@asynccontextmanager
async def balancer(*, retry_on: str = "conn-failure") -> AsyncIterator[Balancer]:
    """Run HAProxy on a free loopback port."""
    path = program()
    assert path is not None, "haproxy is not installed"
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as listener:
        folder = Path(name)
        servers = "\n".join(f"    server {slot} 127.0.0.1:1 disabled" for slot in SLOTS)
        text = CONFIGURATION.format(folder=folder, fd=listener.fileno(), retry_on=retry_on, servers=servers)
        (folder / "haproxy.cfg").write_text(text)
        process = await asyncio.create_subprocess_exec(
            path,
            *("-db", "-f", str(folder / "haproxy.cfg")),
            pass_fds=(listener.fileno(),),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        made = Balancer(listener.getsockname(), folder / "runtime")
        follower = asyncio.create_task(made.follow(process.stdout))
        try:
            await eventually(lambda: (folder / "runtime").exists() or follower.done())
            assert not follower.done(), made.lines
            yield made
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await follower
