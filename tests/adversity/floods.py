"""Floods of hostile connections on a router process, and what is left of them afterwards.

``python -m tests.adversity.floods`` sends 10,000 connections of random garbage, then 1,000 slow-loris
connections (a head that comes byte by byte and never ends). The router's memory and descriptors must come
back to what they were after half as many, and others must be answered meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import resource
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import uvloop

from fastrouter.demo.dns import DnsServer
from tests.adversity.soak_street import Street, street
from tests.adversity.soak_watch import HEALTH, Prober, WatchedRouter, watched_router
from tests.support import LIMIT, Client, eventually, request

AT_ONCE = 200
"""Connections of garbage that are open at the same time."""
HEAD_SECONDS = 2.0
"""The router's patience with a head."""
KEPT = 1.05
ANSWER_SECONDS = 0.2

Attack = Callable[[Client, random.Random], Awaitable[str]]
"""Does its worst with one connection; returns in a word how the router ended it."""


@dataclass
class Toll:
    """What a flood cost."""

    resident: tuple[int, int]
    """Bytes before and after."""
    files: tuple[int, int]
    ends: Counter[str]
    prober: Prober

    def wrong(self, slack: int = 0) -> list[str]:
        """Return what must not be, but for times; ``slack``: bytes that a small flood may settle in."""
        found = [*self.prober.failures]
        if self.files[1] > self.files[0]:
            found.append(f"descriptors: {self.files[0]} before, {self.files[1]} after")
        if self.resident[1] > self.resident[0] * KEPT + slack:
            found.append(f"resident bytes: {self.resident[0]} before, {self.resident[1]} after")
        return found

    def slow(self) -> list[str]:
        """Return answers that took too long."""
        slowest = self.prober.slowest()
        return [f"an answer took {slowest:.3f} s"] if slowest > ANSWER_SECONDS else []

    def __str__(self) -> str:
        before, after = (f"{each / 2**20:.1f}" for each in self.resident)
        lines = [f"RSS {before} MiB before, {after} after; descriptors {self.files[0]} and {self.files[1]}"]
        lines.append(f"ended: {dict(self.ends)}")
        lines += [f"{name}: {words}" for name, words in self.prober.summary().items()]
        return "\n".join(lines)


@dataclass
class Siege:
    """A router, a sandbox behind it, and the means to flood it."""

    router: WatchedRouter
    boxes: Street
    draw: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - to be repeated

    @property
    def ordinary(self) -> bytes:
        """A request that is none of the flood's."""
        return request(self.boxes.ports["box1"], target=b"/download?size=100", name=b"box1")

    async def greet(self) -> None:
        """Make one request: what the router opens once is open then."""
        client = await self.router.client()
        await client.send(self.ordinary)
        head, _ = await client.response()
        assert head.startswith(b"HTTP/1.1 200 ")
        client.close()

    async def flood(self, attack: Attack, number: int, at_once: int) -> Toll:
        """Attack with so many connections; return what it cost once all is over."""
        await self.calm()
        resident, files = self.router.resident, self.router.files
        prober = Prober(self.router.address, {"/healthz": HEALTH, "a request": self.ordinary})
        ends: Counter[str] = Counter()
        turns = iter(range(number))

        async def attacker() -> None:
            for _ in turns:
                ends[await self._attack(attack)] += 1

        async with prober.asking():
            await asyncio.gather(*(attacker() for _ in range(min(at_once, number))))
        await self.calm()
        with contextlib.suppress(TimeoutError):  # the toll tells
            await eventually(lambda: self.router.files <= files)
        return Toll((resident, self.router.resident), (files, self.router.files), ends, prober)

    async def _attack(self, attack: Attack) -> str:
        client = await self.router.client()
        try:
            return await attack(client, self.draw)
        except ConnectionError:
            return "reset"
        finally:
            client.close()

    async def calm(self) -> None:
        """Wait until nobody is connected any more, on either side of the router."""
        self.router.state = {}
        try:
            await eventually(self._is_calm)
        except TimeoutError:
            raise AssertionError(f"it did not come to rest: {self.router.state}") from None

    def _is_calm(self) -> bool:
        state = self.router.state
        return bool(state) and not (state["clients"] or state["idle"] or state["active"])


async def garbage(client: Client, draw: random.Random) -> str:
    """Send random bytes, some of them behind what looks like a request at first."""
    starts = (
        b"",
        b"GET / HTTP/1.1\r\n",
        b"POST /x HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    await client.send(draw.choice(starts) + draw.randbytes(draw.randrange(1, 3000)))
    if draw.random() < 0.5:
        client.writer.write_eof()
    return await ending(client)


async def slow_loris(client: Client, draw: random.Random) -> str:
    """Send a head byte by byte, and never its end."""
    answered = asyncio.create_task(ending(client))
    for byte in b"GET / HTTP/1.1\r\nHost: router\r\nX-Slow: " + bytes([97 + draw.randrange(26)]) * 10_000:
        await client.send(bytes([byte]))
        done, _ = await asyncio.wait({answered}, timeout=HEAD_SECONDS / 10)
        if done:
            break
    return await answered


async def ending(client: Client) -> str:
    """Read up to the end; return the status of the first answer, or that there was none."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.wait_for(client.reader.read(65536), LIMIT):
            answer = answer or piece
    return answer[9:12].decode() if answer else "closed"


@asynccontextmanager
async def siege(head_seconds: float = HEAD_SECONDS) -> AsyncIterator[Siege]:
    """Start a router and a sandbox, and make one request."""
    async with AsyncExitStack() as stack:
        boxes = await stack.enter_async_context(street(1))
        dns = await stack.enter_async_context(DnsServer(boxes.zone, record=False))
        router = await stack.enter_async_context(
            watched_router(
                DNS_SERVERS=dns.address,
                REQUEST_HEAD_TIMEOUT_SECONDS=f"{head_seconds}",
                KEEPALIVE_EXPIRY_SECONDS="0.25",
                SOAK_STATE_SECONDS="0.05",
            )
        )
        made = Siege(router, boxes)
        await made.greet()
        yield made


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--garbage", type=int, default=10_000)
    parser.add_argument("--loris", type=int, default=1_000)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wrong: list[str] = []
    async with siege() as made:
        # A process that was never busy is no measure: the memory of its first crowds it keeps for the next.
        await made.flood(garbage, options.garbage // 2, AT_ONCE)
        await made.flood(slow_loris, options.loris // 2, options.loris // 2)
        for name, attack, number, at_once in (
            ("garbage", garbage, options.garbage, AT_ONCE),
            ("slow loris", slow_loris, options.loris, options.loris),
        ):
            toll = await made.flood(attack, number, at_once)
            print(f"{number} connections of {name}\n{toll}\n", flush=True)
            wrong += [f"{name}: {each}" for each in (*toll.wrong(), *toll.slow())]
        wrong += made.router.complaints
    print("\n".join(wrong) or "passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
