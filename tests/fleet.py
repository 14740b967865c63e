"""A router with several workers, as a process: its workers, and what a test needs to know of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastrouter.demo.dns import DnsServer
from tests.adversity.callers import Street
from tests.processes import RouterProcess, router_process
from tests.support import LIMIT, eventually

OFF = {"HEALTH_PORT": "off", "METRICS_PORT": "off"}


def workers(router: RouterProcess) -> list[int]:
    """Return the ids of its worker processes."""
    children = Path(f"/proc/{router.process.pid}/task/{router.process.pid}/children").read_text().split()
    return [number for number in map(int, children) if "fastrouter.worker" in command(number)]


def command(pid: int) -> str:
    """Return a process's command line; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def started(router: RouterProcess) -> list[int]:
    """Return the ids of all workers that ever served, in their order."""
    return [line["pid"] for line in router.lines if line.get("message") == "worker started"]


async def gone(pid: int) -> None:
    """Wait until a process is no more; an orphan's end is nobody's event."""

    def over() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return not command(pid)  # a zombie that nobody has collected

    await eventually(over)


async def ended(router: RouterProcess) -> int:
    return await asyncio.wait_for(router.process.wait(), LIMIT)


@asynccontextmanager
async def fleet(count: int = 2, **environ: str) -> AsyncIterator[RouterProcess]:
    """Run a router with ``count`` workers in front of the street's sandboxes."""
    async with (
        DnsServer({**Street.zone(), "box.default.svc.cluster.local": ["127.0.0.1"]}, record=False) as dns,
        router_process(0, WORKERS=str(count), DNS_SERVERS=dns.address, **{**OFF, **environ}) as router,
    ):
        assert router.line("listening") is not None, router.lines
        yield router
