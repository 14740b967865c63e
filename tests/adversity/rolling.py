"""A rolling update under load: routers are replaced one after the other, and no command may fail.

    python -m tests.adversity.rolling --rounds 6

Three ways, each with two routers in service and callers that never pause:

- ``balanced``: behind HAProxy, which stops to send before the old router gets its SIGTERM. That is the order
  of a Deployment: the pod leaves the Service, and `preStop` waits a moment before the signal.
- ``unannounced``: behind HAProxy, which is told nothing: it learns from refused connections and from the 503
  `shutting_down` on kept ones, and sends to the other router what the old one says it did not take. That
  nothing ran twice shows that it said the truth.
- ``direct``: without HAProxy. The callers learn by themselves: they go elsewhere when they are refused, or
  told `Connection: close`.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

from fastrouter.demo.dns import DnsServer
from tests.adversity.balancer import balancer, program
from tests.adversity.callers import Address, Callers, Street, Tally, street
from tests.processes import RouterProcess, router_process

NOTICE_SECONDS: Final = 0.05
"""Between the last new request and SIGTERM: what `preStop` waits for, in small."""

GRACE_SECONDS: Final = 10.0


class Front(Protocol):
    """What stands before the routers, or the callers' own list of them."""

    async def admit(self, router: Address) -> None:
        """Send requests to a router."""

    async def withdraw(self, router: Address) -> None:
        """Send no new requests to a router."""

    async def forget(self, router: Address) -> None:
        """Take note that a router has ended."""


class Direct:
    """The callers' own list of routers."""

    def __init__(self) -> None:
        self.addresses: list[Address] = []

    async def admit(self, router: Address) -> None:
        self.addresses.append(router)

    async def withdraw(self, router: Address) -> None:
        self.addresses.remove(router)

    async def forget(self, router: Address) -> None:
        if router in self.addresses:
            self.addresses.remove(router)


class Way(NamedTuple):
    """One way of replacing a router."""

    balanced: bool
    announced: bool
    retry_on: str = "conn-failure"


WAYS: Final = {
    "balanced": Way(balanced=True, announced=True),
    "unannounced": Way(balanced=True, announced=False, retry_on="conn-failure 503"),
    "direct": Way(balanced=False, announced=False),
}


@dataclass
class Replacement:
    """How one router went."""

    exit_code: int
    seconds: float
    carried_over: int
    """Requests that it had accepted before SIGTERM and answered after it."""
    turned_away: int
    """Requests that came on kept connections after SIGTERM: 503."""

    def __str__(self) -> str:
        return (
            f"ended {self.seconds:.2f} s after SIGTERM with {self.exit_code}; of its requests "
            f"{self.carried_over} ended after SIGTERM, {self.turned_away} were turned away"
        )


@dataclass
class Report:
    """What a rolling update came to."""

    way: str
    tally: Tally
    replacements: list[Replacement]
    notes: list[str]

    def __str__(self) -> str:
        tally = self.tally
        ended = f"{tally.answered} answered, {tally.turned_away} sent again, {len(tally.failures)} failed"
        lines = [f"{self.way}: {len(self.replacements)} routers replaced; commands: {ended}"]
        lines += [f"  {each}" for each in self.replacements]
        lines += [f"  FAILED {failure}" for failure in tally.failures[:10]]
        if tally.failures:
            lines += [f"  haproxy: {note}" for note in self.notes[-10:]]
        return "\n".join(lines)


@dataclass
class Fleet:
    """The routers in service."""

    front: Front
    dns: DnsServer
    announced: bool
    _routers: list[tuple[RouterProcess, AsyncExitStack]] = field(default_factory=list)

    async def add(self) -> None:
        """Start a router and send requests to it."""
        stack = AsyncExitStack()
        router = await stack.enter_async_context(
            router_process(DNS_SERVERS=self.dns.address, SHUTDOWN_GRACE_SECONDS=str(GRACE_SECONDS))
        )
        self._routers.append((router, stack))
        await self.front.admit(router.address)

    async def replace(self) -> Replacement:
        """Start a router, then end the oldest one."""
        await self.add()
        router, stack = self._routers.pop(0)
        async with stack:
            address = router.address
            if self.announced:
                await self.front.withdraw(address)
                await asyncio.sleep(NOTICE_SECONDS)
            began = time.monotonic()
            router.process.send_signal(signal.SIGTERM)
            code = await asyncio.wait_for(router.process.wait(), GRACE_SECONDS + 5.0)
            seconds = time.monotonic() - began
            await self.front.forget(address)
        turned_away = sum(line.get("error") == "shutting_down" for line in router.lines)
        return Replacement(code, seconds, carried_over(router), turned_away)

    async def close(self) -> None:
        for _, stack in self._routers:
            await stack.aclose()


def carried_over(router: RouterProcess) -> int:
    """Count the requests that were under way when the signal came and were answered after it."""
    line = router.line("shutting down")
    assert line is not None
    told = datetime.fromisoformat(line["time"])
    count = 0
    for access in router.lines:
        if access.get("status") == 200:
            ended = datetime.fromisoformat(access["time"])
            count += ended - timedelta(milliseconds=access["duration_ms"]) < told < ended
    return count


class Scene(NamedTuple):
    """Where the callers call, and what can go wrong before."""

    front: Front
    callers: Callers
    notes: list[str]


@asynccontextmanager
async def scene(way: Way, boxes: Street) -> AsyncIterator[Scene]:
    """Set up what stands before the routers."""
    if not way.balanced:
        direct = Direct()
        yield Scene(direct, Callers(boxes, lambda: direct.addresses, may_be_turned_away=True), [])
        return
    async with balancer(retry_on=way.retry_on) as haproxy:
        yield Scene(haproxy, Callers(boxes, lambda: [haproxy.address]), haproxy.lines)


async def roll(name: str, *, rounds: int, callers: int) -> Report:
    """Replace ``rounds`` routers while ``callers`` callers of each sandbox never pause."""
    way = WAYS[name]
    async with (
        DnsServer(Street.zone(), record=False) as dns,
        street() as boxes,
        scene(way, boxes) as (front, load, notes),
    ):
        fleet = Fleet(front, dns, way.announced)
        try:
            await asyncio.gather(fleet.add(), fleet.add())
            load.start(callers)
            await load.warm(5 * callers)
            replacements = [await fleet.replace() for _ in range(rounds)]
            await load.warm(callers)
            return Report(name, await load.stop(), replacements, notes)
        finally:
            await fleet.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ways one after the other; 1 where anything failed, 2 where HAProxy is missing."""
    parser = argparse.ArgumentParser(description="Replace routers under load and count failed requests.")
    parser.add_argument("--rounds", type=int, default=6, help="routers to replace in each way")
    parser.add_argument("--callers", type=int, default=8, help="callers of each of the two sandboxes")
    parser.add_argument("--way", choices=list(WAYS), action="append", help="only this one (may be repeated)")
    chosen = parser.parse_args(arguments)
    ways = chosen.way or list(WAYS)
    if program() is None and any(WAYS[name].balanced for name in ways):
        print("haproxy is not installed (apt-get install haproxy); try --way direct", file=sys.stderr)
        return 2
    failed = 0
    for name in ways:
        report = asyncio.run(roll(name, rounds=chosen.rounds, callers=chosen.callers))
        print(report, flush=True)
        failed += len(report.tally.failures) + sum(bool(each.exit_code) for each in report.replacements)
    print("no command failed" if not failed else "FAILED")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
