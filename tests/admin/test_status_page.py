"""The status page in a real browser, served as an operator gets it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from fastrouter.admin.http import AdminServer, Reply
from fastrouter.admin.pages import routes_for_health
from fastrouter.admin.status import status_json
from fastrouter.telemetry.snapshot import Failure, Snapshot, empty
from fastrouter.wire.heads import RequestHead
from tests.admin.asking import Told
from tests.browser import CHROMIUM, Page, browser
from tests.support import always, ok, request, stage

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: on Debian `apt-get install chromium`, elsewhere Chrome will do"
)

HASTE = 20.0
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"


@dataclass
class Router:
    """A router whose second goes by each time it is asked."""

    server: AdminServer
    source: Told
    now: float = 5000.0
    each_second: Callable[[Snapshot], None] = lambda _: None

    @property
    def snapshot(self) -> Snapshot:
        return self.source.all[0]

    async def numbers(self, _: RequestHead) -> Reply:
        self.now += 1
        for snapshot in self.source.all:
            self.each_second(snapshot)
        told = status_json(self.source.all, self.source.reasons, self.now)
        return Reply(200, "application/json", told)


@asynccontextmanager
async def shown() -> AsyncIterator[tuple[Router, Page]]:
    """Serve the page, and open it."""
    source = Told([empty(4711, "1.2.3", 1000.0)])
    routes = routes_for_health(source)
    router = Router(AdminServer("127.0.0.1", 0, routes), source)
    routes[b"/status.json"] = router.numbers
    await router.server.start()
    try:
        async with browser() as page:
            await page.go("http://{}:{}/".format(*router.server.address), haste=HASTE)
            yield router, page
    finally:
        await router.server.close()


def traffic(snapshot: Snapshot) -> None:
    """Let a second of traffic happen: 50 requests, 2 of which fail."""
    rows = snapshot.values
    for name, labels, value in (
        ("requests", ("GET", "200", "team-a"), 48),
        ("requests", ("GET", "502", "team-a"), 2),
        ("upstream_errors", ("team-a", "connect_refused"), 2),
        ("upstream_acquired", ("reused",), 45),
        ("upstream_acquired", ("fresh",), 5),
        ("head_cache_hits", ("request",), 99),
        ("head_cache_misses", ("request",), 1),
        ("body_bytes", ("out",), 2_500_000),
        ("dns_lookups", ("not_found",), 3),
    ):
        rows[name][labels] = rows[name].get(labels, 0) + value
    # 90 % between 10 and 25 ms, the rest between 0.5 and 1 s.
    snapshot.histograms["time_to_first_byte_seconds"].counts[2] += 45
    snapshot.histograms["time_to_first_byte_seconds"].counts[7] += 5


async def test_what_runs_is_on_the_page_and_it_asks_nobody_else() -> None:
    async with shown() as (router, page):
        router.snapshot.values["downstream_connections"] = {(): 1234}
        router.snapshot.values["upstream_connections"] = {("active",): 7, ("idle",): 56}
        router.snapshot.values["tunnels"] = {(): 9}
        await page.until("#ready", "Ready")
        about = await page.text("#about")
        assert about.startswith("1.2.3 · Python ")
        assert "1 worker · up 1 h 6 min, since 1970-01-01 00:16 UTC" in about
        await page.until("#connections", "Clients 1,234")
        connections = await page.text("#connections")
        assert "active 7 " in connections
        assert "warm 56 " in connections
        assert "Tunnels 9 " in connections
        assert (await page.text("#workers")).startswith("4711 ")
        origin = "http://{}:{}/".format(*router.server.address)
        assert {url for url in page.requests if not url.startswith("data:")} == {
            origin,
            f"{origin}status.json",
        }
        assert page.complaints == []


async def test_numbers_follow_the_traffic() -> None:
    async with shown() as (router, page):
        await page.until("#requests", "0")
        await page.until("#namespaces", "None yet.")
        router.each_second = traffic
        await page.until("#requests", "50")
        await page.until("#failures", "2")
        await page.until("#traffic", "2.50 MB/s")
        await page.until("#first", "950 ms")  # 0.5 s and nine tenths of the way to 1 s
        assert "p50 18.3 ms" in await page.text("#foot-first")
        # Over the last minute, of which a part was quiet: shares are exact, rates are still growing.
        assert "4.0 % of requests" in await page.text("#foot-failures")
        assert "reused 90.0 %" in await page.text("#work")
        assert "Heads known before 99.0 %" in await page.text("#work")
        assert "DNS: not found" in await page.text("#work")
        assert "2xx 96.0 % 5xx 4.0 %" in await page.text("#legend")
        assert "team-a" in await page.text("#namespaces")
        assert "connect_refused" in await page.text("#reasons")
        assert "18.3 ms" in await page.text("#latencies")
        assert "L" in await page.ask("document.querySelector('#spark-requests .line').getAttribute('d')")
        router.each_second = lambda _: None
        await page.until("#requests", "0")
        assert page.complaints == []


async def test_the_traffic_of_a_real_router_arrives() -> None:
    async with stage() as street, shown() as (router, page):
        sandbox = await street.sandbox(always(ok(b"x" * 1000)))
        client = await street.client()
        for _ in range(10):
            await client.send(request(sandbox))
            await client.response()
        await client.send(request(sandbox, name=b"nobody"))
        assert await client.error()
        router.source.all = [street.server.snapshot()]
        await page.until("#foot-requests", "11 since start · 0 under way")
        await page.until("#foot-failures", "1 in all")
        recent = await page.text("#recent")
        assert "nobody default GET 502 dns_not_found There is no Service with this name" in recent
        assert "of all: 90.0 %" in await page.text("#work")
        assert "Clients 1 " in await page.text("#connections")
        assert page.complaints == []


async def test_what_clients_send_is_shown_as_text() -> None:
    async with shown() as (router, page):
        router.snapshot.failures = [Failure(4000.0, HOSTILE, HOSTILE, HOSTILE, 502, "connect_refused")]
        router.snapshot.values["upstream_errors"] = {(HOSTILE, HOSTILE): 5}
        router.snapshot.values["requests"] = {("GET", "200", HOSTILE): 5}
        router.snapshot.values["dns_lookups"] = {(HOSTILE,): 5}
        router.source.reasons = [HOSTILE]
        await page.until("#recent", "Nothing listens on the sandbox's port")
        for place in ("#recent", "#reasons", "#namespaces", "#work", "#ready"):
            assert HOSTILE.replace("_", " ") in (await page.text(place)).replace("_", " "), place
        assert await page.ask("document.querySelectorAll('script').length") == 1
        assert await page.ask("document.querySelectorAll('img').length") == 0
        assert await page.ask("document.title") == "not ready · fastrouter"
        assert await page.ask("document.querySelector('#recent td').title") == "1970-01-01T01:06:40.000Z"
        assert page.complaints == []


async def test_why_it_is_not_ready_is_on_the_page() -> None:
    async with shown() as (router, page):
        await page.until("#ready", "Ready")
        router.source.reasons = ["DNS does not answer", "shutting down"]
        await page.until("#ready", "Not ready: DNS does not answer; shutting down")
        assert await page.ask("document.title") == "not ready · fastrouter"
        router.source.all.clear()
        await page.until("#workers", "No worker process answers.")
        assert "0 workers" in await page.text("#about")
        assert page.complaints == []


async def test_a_router_that_is_gone_is_told_and_its_return_too() -> None:
    async with shown() as (router, page):
        await page.until("#requests", "0")
        assert page.complaints == []
        host, port = router.server.address
        await router.server.close()
        await page.until("#live", "disconnected since ")
        assert await page.ask("document.title") == "disconnected · fastrouter"
        assert await page.text("#requests") == "0"  # the last that was known stays
        again = AdminServer(host, port, {b"/status.json": router.numbers})
        await again.start()
        try:
            await page.until("#live", "live")
            assert await page.ask("document.title") == "ready · fastrouter"
        finally:
            await again.close()


async def test_a_new_worker_is_no_wave_of_requests() -> None:
    async with shown() as (router, page):
        router.each_second = traffic
        await page.until("#requests", "50")
        fresh = empty(4712, "1.2.3", 5000.0)
        fresh.values["requests"] = {("GET", "200", "team-a"): 1_000_000}
        router.source.all = [fresh]
        await page.until("#workers", "4712")
        await page.until("#requests", "50")
        assert await page.ask("Math.max(...points.map((each) => each.requests))") == 50


async def test_it_does_not_ask_while_nobody_looks() -> None:
    async with shown() as (router, page):
        await page.until("#requests", "0")
        hide = "Object.defineProperty(document, 'hidden', {configurable: true, value: %s})"
        await page.ask(hide % "true")
        # A poll may be under way; it is the last one.
        await page.holds("!asking")
        asked = router.now
        await page.ask(f"new Promise((done) => setTimeout(done, {20 * 1000}))")
        assert router.now <= asked + 1
        asked = router.now
        await page.ask(hide % "false")
        await page.ask("document.dispatchEvent(new Event('visibilitychange'))")
        await page.holds(f"samples.at(-1).now > {asked}")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_text_has_enough_contrast(dark: bool) -> None:
    async with shown() as (_, page):
        await page.look(1280, dark=dark)
        await page.until("#ready", "Ready")
        ratios: dict[str, float] = await page.ask(CONTRASTS)
        assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}  # WCAG 2.1, 1.4.3
        assert len(ratios) == 12


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
async def test_it_fits_the_screen(width: int) -> None:
    async with shown() as (router, page):
        await page.look(width)
        router.snapshot.failures = [Failure(4000.0, "GET", "x" * 63, "y" * 63, 502, "connect_refused")]
        router.snapshot.values["requests"] = {("GET", "200", "z" * 63): 1e9}
        await page.until("#recent", "x" * 63)
        assert await page.ask("document.documentElement.scrollWidth") == width


CONTRASTS = """(() => {
  const style = getComputedStyle(document.documentElement), found = {};
  const light = (name) => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    const full = hex.length === 3 ? [...hex].map((each) => each + each).join("") : hex;
    const [r, g, b] = [0, 2, 4].map((at) => parseInt(full.slice(at, at + 2), 16) / 255)
      .map((each) => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  for (const text of ["--text", "--muted", "--good", "--warn", "--bad", "--accent"]) {
    for (const ground of ["--card", "--ground"]) {
      const [less, more] = [light(text), light(ground)].sort((one, other) => one - other);
      found[`${text} on ${ground}`] = (more + 0.05) / (less + 0.05);
    }
  }
  return found;
})()"""
