"""The soak: mixed traffic, random faults, and a router that must not notice.

``python -m tests.adversity.soak --seconds 600 --report docs/soak.md``. Sandboxes are processes that are
killed, stopped and started again; what one exchange or one sandbox suffers may reach no other, every answer
is checked for whose it is, and the router must be as small at the end as it was when it had warmed up.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import uvloop

from fastrouter.demo.dns import DnsServer
from tests.adversity.soak_ask import Ledger
from tests.adversity.soak_report import markdown
from tests.adversity.soak_street import TROUBLES, Street, street
from tests.adversity.soak_traffic import Talker, Town, read_reply
from tests.adversity.soak_watch import HEALTH, Prober, Sample, WatchedRouter, watched_router
from tests.support import eventually

HEALTH_SECONDS = 0.2
GROWTH = 1.10
MORE_FILES = 5
"""What the last third of the run may have more than the first: by ratio, and descriptors besides."""


@dataclass(frozen=True)
class Plan:
    """What a soak does, and for how long."""

    seconds: float
    seed: int
    boxes: int = 6
    talkers: int = 24
    pause: float = 0.05
    """Longest pause of a client between two requests."""
    fault_share: float = 0.15
    troubles: Sequence[str] = tuple(TROUBLES)
    trouble_every: float = 4.0
    sample_every: float = 2.0
    keepalive_expiry: float = 4.0

    @property
    def warm_up(self) -> float:
        """Seconds in which caches fill."""
        return min(120.0, self.seconds / 4)


@dataclass
class Result:
    """What a soak saw."""

    plan: Plan
    ledger: Ledger
    rest: Sample
    """Before the traffic, after a request to each sandbox."""
    prober: Prober
    samples: list[Sample] = field(default_factory=list)
    last: Sample | None = None
    """After the traffic, with every connection closed."""
    troubles: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    """Access lines that may be those of violations."""

    def thirds(self, what: str) -> tuple[float, float]:
        """Return the median of a number in the first and in the last third after the warm-up."""
        values = [value_of(each, what) for each in self.samples if each.at >= self.plan.warm_up]
        third = max(1, len(values) // 3)
        return median(values[:third]), median(values[-third:])

    def wrong(self) -> list[str]:
        """Return whatever must not be, but for what needs a long run on a quiet machine."""
        found = [*self.ledger.violations, *self.complaints]
        found += [f"health: {failure}" for failure in self.prober.failures]
        if self.last is None:
            found.append("the router did not come to rest")
        elif self.last.files > self.rest.files:
            found.append(f"descriptors left open: {self.last.files - self.rest.files}")
        return found

    def drifted(self) -> list[str]:
        """Return what grew or slowed down."""
        found = []
        for what, more in (("resident", 0), ("files", MORE_FILES), ("threads", 0), ("tasks", MORE_FILES)):
            first, last = self.thirds(what)
            if last > first * GROWTH + more:
                found.append(f"{what} grew from {first:.0f} to {last:.0f}")
        if self.prober.slowest() > HEALTH_SECONDS:
            found.append(f"an answer took {self.prober.slowest():.3f} s")
        return found


def value_of(sample: Sample, what: str) -> int:
    """Return a number of a sample by its name."""
    own = {"resident": sample.resident, "files": sample.files, "threads": sample.threads}
    return own[what] if what in own else sample.state.get(what, 0)


async def soak(plan: Plan) -> Result:
    """Run a soak."""
    async with AsyncExitStack() as stack:
        boxes = await stack.enter_async_context(street(plan.boxes))
        dns = await stack.enter_async_context(DnsServer(boxes.zone, record=False))
        router = await stack.enter_async_context(
            watched_router(
                DNS_SERVERS=dns.address,
                PROXY_TIMEOUT_SECONDS="5",
                DIAL_RETRY_SECONDS="0.5",
                KEEPALIVE_EXPIRY_SECONDS=f"{plan.keepalive_expiry}",
                WEBSOCKET_MAX_CONNECTIONS_PER_CLIENT="0",
                SOAK_STATE_SECONDS=f"{plan.sample_every / 4}",
            )
        )
        prober = Prober(router.address, {"/healthz": HEALTH})
        result = Result(plan, Ledger(), await _greet(router, boxes), prober)
        result.troubles, result.answers = boxes.happened, router.answers
        async with prober.asking():
            await _traffic(plan, router, boxes, result)
        await _come_to_rest(router, result.rest.files)
        result.last = router.sample(plan.seconds)
        result.complaints = router.complaints
        suspects = dict.fromkeys((ask.box, ask.target) for ask in result.ledger.suspects)
        result.evidence = [line for box, target in suspects for line in router.about(box, target)]
    return result


def town(router: WatchedRouter, boxes: Street, ledger: Ledger) -> Town:
    """Return what the clients are told."""
    return Town(router.address, boxes.ports, boxes.was_troubled, ledger)


async def _greet(router: WatchedRouter, boxes: Street) -> Sample:
    """Make one request to each sandbox: what the router opens once is open then."""
    talker = Talker("greeting", town(router, boxes, Ledger()), fault_share=0)
    for name, port in boxes.ports.items():
        client = await router.client()
        ask = talker.ask("execute", box=name)
        for piece in ask.pieces(port):
            await client.send(piece)
        assert await read_reply(client.reader, ask) == ("ok", True)
        client.close()
    await _come_to_rest(router, None)
    return router.sample(0.0)


async def _come_to_rest(router: WatchedRouter, files: int | None) -> None:
    """Wait until every connection of the router has ended."""

    def at_rest() -> bool:
        state = router.state
        idle = bool(state) and not (state["clients"] or state["idle"] or state["active"])
        return idle and (files is None or router.files <= files)

    router.state = {}
    await eventually(at_rest)


async def _traffic(plan: Plan, router: WatchedRouter, boxes: Street, result: Result) -> None:
    clock = asyncio.get_running_loop().time
    started = clock()
    until = started + plan.seconds
    all_of_them = town(router, boxes, result.ledger)
    async with asyncio.TaskGroup() as tasks:
        for number in range(plan.talkers):
            talker = Talker(f"{plan.seed}.{number}", all_of_them, fault_share=plan.fault_share)
            tasks.create_task(talker.run(until, plan.pause))
        if plan.troubles:
            draw = random.Random(plan.seed)  # noqa: S311 - a run can be repeated
            tasks.create_task(boxes.make_trouble(until, plan.trouble_every, plan.troubles, draw))
        while clock() < until:
            await asyncio.sleep(min(plan.sample_every, max(0.0, until - clock())))
            result.samples.append(router.sample(clock() - started))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--boxes", type=int, default=Plan.boxes)
    parser.add_argument("--talkers", type=int, default=Plan.talkers)
    parser.add_argument("--report", type=Path, help="write the result as Markdown")
    options = parser.parse_args()
    plan = Plan(options.seconds, options.seed, options.boxes, options.talkers)
    print(f"soaking for {plan.seconds:g} s, seed {plan.seed}", flush=True)
    result = uvloop.run(soak(plan))
    wrong = result.wrong() + result.drifted()
    text = markdown(result, wrong)
    print(text)
    if options.report is not None:
        options.report.write_text(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
