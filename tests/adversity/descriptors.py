"""What the tests of exhausted file descriptors need: none left in this process, and a router with few."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastrouter.demo.dns import DnsServer
from tests.processes import RouterProcess, router_process
from tests.support import Client, Handler, ScriptedSandbox, request

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: router\r\n\r\n"
PAUSED = "out of file descriptors: accepting no connections"
RESUMED = "accepting connections again"


@contextmanager
def no_files() -> Iterator[None]:
    """Leave this process no file to open: 0, 1 and 2 are taken, and those above stay usable.

    Not 0, which is also the most that ``poll`` looks at.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass
class Scarce:
    """A router process with few files, before one sandbox with many names."""

    router: RouterProcess
    box: ScriptedSandbox

    @property
    def files(self) -> int:
        """How many the router has open."""
        return sum(1 for _ in Path(f"/proc/{self.router.process.pid}/fd").iterdir())

    def said(self, message: str) -> int:
        """Return how often the router's log says so."""
        return sum(line.get("message") == message for line in self.router.lines)

    @property
    def complaints(self) -> list[str]:
        """Return what its log has of warnings and errors beside the pauses."""
        lines = [line for line in self.router.lines if line.get("level") not in {"info", None}]
        return [str(line) for line in lines if line["message"] != PAUSED]

    def asks(self, number: int) -> bytes:
        """Return a request to the sandbox under one of its names."""
        return request(self.box, name=b"box-%d" % number)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let the process stand still: who connects meanwhile comes at once afterwards."""
        self.router.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.router.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def scarce(handler: Handler, *, files: int, names: int, **environ: str) -> AsyncIterator[Scarce]:
    """Start a router that may open ``files`` files, before a sandbox with ``names`` names."""
    async with AsyncExitStack() as stack:
        zone = {f"box-{number}.default.svc.cluster.local": ["127.0.0.1"] for number in range(names)}
        dns = await stack.enter_async_context(DnsServer(zone, record=False))
        box = ScriptedSandbox(handler)
        await box.start()
        stack.push_async_callback(box.close)
        router = await stack.enter_async_context(
            router_process(files, DNS_SERVERS=dns.address, ALLOW_UNAUTHENTICATED_ROUTER="true", **environ)
        )
        yield Scarce(router, box)


async def status(client: Client) -> str:
    """Return the status of an answer, or how the connection ended instead."""
    try:
        head, _ = await client.response()
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        return type(error).__name__
    finally:
        client.close()
    return head[9:12].decode()
