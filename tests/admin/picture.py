"""Makes docs/status.png: ``python -m tests.admin.picture``. The page with five busy minutes behind it.

The router's life is made up, but the same each time. With a folder, it writes there how the page looks in the
dark and on a phone, too.
"""

from __future__ import annotations

import asyncio
import io
import math
import random
import sys
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from PIL import Image

from fastrouter.admin.http import AdminServer, Reply
from fastrouter.admin.status import status_json, status_page
from fastrouter.telemetry.families import FAMILIES
from fastrouter.telemetry.snapshot import MAX_FAILURES, Failure, Labels, Snapshot, empty
from fastrouter.wire.heads import RequestHead
from tests.browser import browser

DOCS: Final = Path(__file__).parents[2] / "docs"
SECONDS: Final = 300
HASTE: Final = 100.0
START: Final = 1_795_528_800.0  # 2026-11-24 14:00 UTC
NAMESPACES: Final = {"agents-prod": 52, "notebooks": 21, "evals": 13, "agents-staging": 8, "ci": 4, "demo": 2}
REASONS: Final = {"dns_not_found": 5, "connect_refused": 6, "upstream_closed": 3, "upstream_timeout": 1}
PLAIN: Final = {"downstream_connections": 640.0, "inflight_requests": 96.0, "tunnels": 41.0, "accepting": 1.0}
TAKEN: Final = {  # in seconds, half of them below
    "time_to_first_byte_seconds": 0.028,
    "request_duration_seconds": 0.041,
    "dial_duration_seconds": 0.0016,
    "dns_lookup_duration_seconds": 0.0021,
    "event_loop_lag_seconds": 0.0004,
}
_BOUNDS: Final = {family.name: family.buckets for family in FAMILIES}


class Life:
    """One worker's invented life, a second at a time."""

    def __init__(self, pid: int, started: float) -> None:
        self.snapshot = empty(pid, "0.1.0", started)
        self.chance = random.Random(pid)  # noqa: S311 - a picture has no secrets
        self.snapshot.values["build_info"] = {("0.1.0", "3.13.1"): 1.0}
        for name, value in PLAIN.items():
            self.snapshot.values[name] = {(): value}
        self.snapshot.values["process_max_fds"] = {(): 10_000.0}
        self.snapshot.values["process_resident_memory_bytes"] = {(): 88e6 + pid * 1e5}

    def add(self, name: str, labels: Labels, value: float) -> None:
        """Count."""
        rows = self.snapshot.values[name]
        rows[labels] = rows.get(labels, 0.0) + value

    def live(self, now: float, seconds: float = 1.0) -> None:
        """Go on for some seconds, with a wave, some noise and a burst of trouble four minutes into it."""
        chance, age = self.chance, now - START
        trouble = 12.0 if 205 < age < 232 else 1.0
        rate = 410 + 90 * math.sin(age / 55) + chance.gauss(0, 14)
        requests = round(max(40.0, rate) * seconds)
        for namespace, weight in NAMESPACES.items():
            for code, part in {"200": 0.953, "204": 0.021, "304": 0.006, "404": 0.018, "500": 0.002}.items():
                self.add("requests", ("POST", code, namespace), round(requests * weight * part / 100))
        for reason, weight in REASONS.items():
            times = sum(chance.random() < weight * trouble / 60 for _ in range(4)) * max(
                1, round(seconds / 4)
            )
            for namespace in chance.choices([*NAMESPACES], [*NAMESPACES.values()], k=min(times, 3)):
                self.fail(now, namespace, reason, times / min(times, 3))
        if chance.random() < 0.015:
            self.fail(now, "none", "request_timeout", 1)
        self.rest(requests)

    def rest(self, requests: int) -> None:
        """Count what goes with so many requests."""
        chance = self.chance
        fresh = round(requests * 0.018)
        self.add("authz_decisions", ("allowed",), requests)
        self.add("upstream_acquired", ("fresh",), fresh)
        self.add("upstream_acquired", ("reused",), requests - fresh)
        self.add("head_cache_hits", ("request",), requests * 1.96)
        self.add("head_cache_misses", ("request",), requests * 0.04)
        self.add("downstream_connections_accepted", (), round(requests * 0.03))
        self.add("dns_lookups", ("found",), fresh)
        self.add("upstream_retries", (), round(chance.random() * fresh / 4))
        self.add("body_bytes", ("in",), requests * 2_300 * chance.uniform(0.8, 1.2))
        self.add("body_bytes", ("out",), requests * 31_000 * chance.uniform(0.6, 1.5))
        self.add("process_cpu_seconds", (), requests * 0.00021)
        self.snapshot.values["upstream_connections"] = {("active",): 137.0, ("idle",): 2_204.0}
        self.snapshot.values["downstream_connections"] = {(): 640.0 + round(chance.gauss(0, 9))}
        self.snapshot.values["inflight_requests"] = {(): 96.0 + round(chance.gauss(0, 12))}
        self.snapshot.values["process_open_fds"] = {(): 3_024.0 + round(chance.gauss(0, 12))}
        for name, middle in TAKEN.items():
            histogram, times = self.snapshot.histograms[name], min(fresh, 40) if name[0] == "d" else 200
            for _ in range(times):
                seconds = middle * math.exp(chance.gauss(0, 0.9))
                share = (fresh if name[0] == "d" else requests) / times
                histogram.counts[bisect_left(_BOUNDS[name], seconds)] += max(1, round(share))
                histogram.sum += seconds

    def fail(self, now: float, namespace: str, reason: str, times: float) -> None:
        """Count and remember a failure."""
        status = {"upstream_timeout": 504, "request_timeout": 408}.get(reason, 502)
        self.add("requests", ("POST", str(status), namespace), times)
        if reason == "dns_not_found":
            self.add("dns_lookups", ("not_found",), times * 4)  # asked again while it was retried
        if status == 408:
            self.add("rejected", (reason,), times)
        else:
            self.add("upstream_errors", (namespace, reason), times)
        sandbox = f"sandbox-{self.chance.randrange(16**6):06x}" if status != 408 else ""
        method = self.chance.choice(["POST", "POST", "GET"]) if sandbox else "none"
        failures = self.snapshot.failures
        failures.append(Failure(now - self.chance.random(), method, sandbox, namespace, status, reason))
        del failures[:-MAX_FAILURES]


def two_workers() -> list[Life]:
    """Return two lives of nine days."""
    lives = [Life(17, START - 9 * 86_400 - 4 * 3_600), Life(18, START - 9 * 86_400 - 4 * 3_600 + 0.2)]
    for life in lives:
        for hour in range(-220, 0):
            life.live(START + hour * 3_600, 3_600.0)
    return lives


@asynccontextmanager
async def serving(lives: list[Life]) -> AsyncIterator[str]:
    """Serve the page of these lives; each time it asks, a second has gone by, until its history is full."""
    now = START

    async def page(_: RequestHead) -> Reply:
        return Reply(200, "text/html; charset=utf-8", status_page())

    async def numbers(_: RequestHead) -> Reply:
        nonlocal now
        if now < START + SECONDS:
            now += 1
            for life in lives:
                life.live(now)
        told: list[Snapshot] = [life.snapshot for life in lives]
        return Reply(200, "application/json", status_json(told, [], now))

    server = AdminServer("127.0.0.1", 0, {b"/": page, b"/status.json": numbers})
    await server.start()
    try:
        yield "http://{}:{}/".format(*server.address)
    finally:
        await server.close()


async def draw(folder: Path, *, others: bool) -> None:
    """Write status.png, and with ``others`` how it looks in the dark and on a phone."""
    async with serving(two_workers()) as url, browser() as page:
        await page.look(1280)
        await page.go(url, haste=HASTE)
        await page.holds(f"points.length >= {SECONDS - 1}", limit=60)
        keep(folder / "status.png", await page.picture())
        if others:
            await page.look(1280, dark=True)
            keep(folder / "status-dark.png", await page.picture())
            for dark in (False, True):
                await page.look(390, dark=dark)
                keep(folder / f"status-phone{'-dark' * dark}.png", await page.picture())


def keep(path: Path, picture: bytes) -> None:
    """Write a picture with as many colours as the page has: a third of the bytes for the repository."""
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(
        256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    ).save(path, optimize=True)


if __name__ == "__main__":
    asyncio.run(draw(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS, others=len(sys.argv) > 1))
