"""A sandbox that notes what reaches it, and answers complete requests only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support import Client, ScriptedSandbox, Stage, Visit, ok, request, stage

PROBE = b"GET /probe HTTP/1.1"


@dataclass(repr=False)
class Recorder:
    """One router and one sandbox behind it; ``complete`` are the requests that came whole."""

    router: Stage
    sandbox: ScriptedSandbox
    complete: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Recorder {self.router.server} complete={len(self.complete)}>"

    def fill_in(self, raw: bytes) -> bytes:
        """Put the sandbox's port into a request of the corpus."""
        return raw.replace(b"<port>", b"%d" % self.sandbox.port)

    async def client(self) -> Client:
        """Connect to the router."""
        return await self.router.client()

    async def probe(self) -> list[bytes]:
        """Send a plain request; return the request lines that the sandbox has completed meanwhile."""
        before = len(self.complete)
        client = await self.client()
        await client.send(request(self.sandbox, target=b"/probe"))
        head, body = await client.response()
        client.close()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b"ok"
        return [head.split(b"\r\n")[0] for head, _ in self.complete[before:]]


async def read_strictly(visit: Visit) -> tuple[bytes, bytes]:
    """Read one request by the letter of RFC 9112; return its head and its raw body."""
    head = await visit.head()
    fields = head.lower().split(b"\r\n")[1:-2]
    if b"transfer-encoding: chunked" in fields:
        body = line = await visit.until(b"\r\n")
        while size := int(line, 16):
            body += await visit.exactly(size + 2)
            assert body.endswith(b"\r\n")
            line = await visit.until(b"\r\n")
            body += line
        while line != b"\r\n":
            line = await visit.until(b"\r\n")
            body += line
        return head, body
    lengths = [int(field[16:]) for field in fields if field.startswith(b"content-length: ")]
    return head, await visit.exactly(lengths[0]) if lengths else b""


@asynccontextmanager
async def recorder(**settings: object) -> AsyncIterator[Recorder]:
    """Start a router in front of a recording sandbox."""
    complete: list[tuple[bytes, bytes]] = []

    async def record(visit: Visit) -> None:
        while True:
            complete.append(await read_strictly(visit))
            await visit.send(ok())

    async with stage(**settings) as router:
        yield Recorder(router, await router.sandbox(record), complete)
