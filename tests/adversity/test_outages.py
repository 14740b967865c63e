"""Whole parts of the cluster go away under load and come back: the DNS server, every sandbox."""

from __future__ import annotations

import asyncio
import errno
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from fastrouter.net import resolver as resolver_module
from tests.support import (
    LIMIT,
    ScriptedSandbox,
    Stage,
    always,
    eventually,
    free_port,
    ok,
    request,
    stage,
)

STALE_SECONDS = 0.5
CALLERS = 10
Boxes = list[tuple[bytes, ScriptedSandbox]]

# Its end makes every request dial, and so ask for the name.
ONE_REQUEST = ok(b"ok", b"Connection: close")


@dataclass
class Load:
    """Callers that never pause, and what each of their requests came to: `ok` or a reason word."""

    router: Stage
    boxes: Boxes
    method: bytes
    over: bool = False
    outcomes: list[str] = field(default_factory=list)

    async def call(self, number: int) -> None:
        name, box = self.boxes[number % len(self.boxes)]
        client = await self.router.client()
        while not self.over:
            await client.send(request(box, name=name, method=self.method))
            head, _ = await client.response()
            reason = re.search(rb"\r\nX-Sandbox-Router-Error: (\w+)\r\n", head)
            self.outcomes.append(reason[1].decode() if reason else "ok")
            await asyncio.sleep(0.01)

    async def some(self, outcome: str, count: int = 1) -> None:
        """Wait until an outcome has come ``count`` times from now on."""
        goal = self.outcomes.count(outcome) + count
        await eventually(lambda: self.outcomes.count(outcome) >= goal)

    async def only(self, outcome: str) -> None:
        """Wait until there is nothing but one outcome: what was under way has ended, and so it stays."""
        await self.some(outcome, 2 * CALLERS)
        seen = len(self.outcomes)
        await self.some(outcome, 3 * CALLERS)
        assert set(self.outcomes[seen:]) == {outcome}


@asynccontextmanager
async def load(router: Stage, boxes: Boxes, method: bytes) -> AsyncIterator[Load]:
    """Call while the context lasts; a connection that breaks fails the test."""
    made = Load(router, boxes, method)
    callers = [asyncio.create_task(made.call(number)) for number in range(CALLERS)]
    try:
        await made.some("ok", 2 * CALLERS)
        yield made
    finally:
        made.over = True
        await asyncio.gather(*callers)


async def goes_down(router: Stage, fault: str) -> None:
    if fault == "gone":
        await router.dns.close()
    else:
        router.dns.mode = "servfail" if fault == "servfail" else "silent"


async def comes_back(router: Stage, fault: str) -> None:
    if fault == "gone":
        await router.dns.start(port=int(router.dns.address.rpartition(":")[2]))
    else:
        router.dns.mode = "answer"


class TestDns:
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resolver_module, "_TIMEOUT_SECONDS", 0.05)
        monkeypatch.setattr(resolver_module, "_TRIES", 1)
        monkeypatch.setattr(resolver_module, "STALE_SECONDS", STALE_SECONDS)
        monkeypatch.setattr(resolver_module, "NEGATIVE_SECONDS", 0.1)

    @pytest.mark.parametrize("fault", ["servfail", "silent", "gone"])
    async def test_stale_answers_then_clear_errors_then_recovery(self, fault: str) -> None:
        async with stage() as router:
            router.dns.ttl = 0
            box = await router.sandbox(always(ONE_REQUEST))
            async with load(router, [(b"box", box)], b"POST") as calls:
                began = time.monotonic()
                before, asked = len(calls.outcomes), router.dns.asked
                await goes_down(router, fault)
                await calls.some("dns_failure")
                assert time.monotonic() - began > STALE_SECONDS
                served = calls.outcomes[before:].index("dns_failure")
                assert served > CALLERS  # with the last answer
                assert router.dns.asked - asked < served / 2  # a failing server is not pressed
                await calls.only("dns_failure")
                await comes_back(router, fault)
                await calls.only("ok")
            assert set(calls.outcomes) == {"ok", "dns_failure"}

    async def test_a_name_that_was_never_known_is_a_clear_error_while_known_ones_work(self) -> None:
        async with stage() as router:
            router.dns.ttl = 0
            box = await router.sandbox(always(ONE_REQUEST))
            async with load(router, [(b"box", box)], b"POST") as calls:
                router.dns.mode = "servfail"
                client = await router.client()
                await client.send(request(box, name=b"newcomer"))
                assert await client.error() == (
                    502,
                    "Could not connect to the backend sandbox: newcomer",
                    "dns_failure",
                )
                assert set(calls.outcomes) == {"ok"}
                router.dns.mode = "answer"
                router.zone["newcomer.default.svc.cluster.local"] = ["127.0.0.1"]
                await client.send(request(box, name=b"newcomer"))
                assert (await client.response())[1] == b"ok"

    async def test_warm_connections_need_no_dns(self) -> None:
        async with stage() as router:
            router.dns.ttl = 0
            box = await router.sandbox(always(ok()))
            async with load(router, [(b"box", box)], b"POST") as calls:
                await router.dns.close()
                began = time.monotonic()
                await eventually(lambda: time.monotonic() - began > 2 * STALE_SECONDS)
                await calls.only("ok")
            assert set(calls.outcomes) == {"ok"}
            assert len(box.visits) <= CALLERS


async def all_down(boxes: Boxes) -> None:
    """End every sandbox's listener and connections, as its death does."""
    for _, box in boxes:
        box.stop_listening()
    await eventually(lambda: all(cut_off(box) for _, box in boxes))


def cut_off(box: ScriptedSandbox) -> bool:
    """Cut off who is connected; tell whether all had left before."""
    for visit in box.visits:
        visit.writer.transport.abort()
    return not box._tasks


async def all_back(boxes: Boxes) -> None:
    async with asyncio.timeout(LIMIT):
        for _, box in boxes:
            while not await came_back(box):  # noqa: ASYNC110 - no event tells that a port is free again
                await asyncio.sleep(0.005)


async def came_back(box: ScriptedSandbox) -> bool:
    """Listen again where the sandbox was; False while a connection of another process leaves by that port."""
    try:
        await box.start(port=box.port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


async def five(router: Stage) -> Boxes:
    return [(b"box-%d" % number, await router.sandbox(always(ok()), f"box-{number}")) for number in range(5)]


class TestSandboxes:
    async def test_all_sandboxes_go_down_and_come_back(self) -> None:
        async with stage() as router:
            boxes = await five(router)
            async with load(router, boxes, b"POST") as calls:
                await all_down(boxes)
                await calls.only("connect_refused")
                assert router.server.statistics()["upstream_idle"] == 0
                await all_back(boxes)
                await calls.only("ok")
            # What was under way when a sandbox died may have run: it is told apart from what never left.
            assert set(calls.outcomes) <= {"ok", "connect_refused", "upstream_closed"}
            assert calls.outcomes.count("upstream_closed") <= CALLERS

    async def test_a_second_without_any_sandbox_costs_no_idempotent_request(self) -> None:
        async with stage(dial_retry=3.0) as router:
            boxes = await five(router)
            async with load(router, boxes, b"PUT") as calls:
                await all_down(boxes)
                attempts = router.server.pool.dialer.attempts
                await asyncio.sleep(1.0)  # the time without sandboxes
                assert router.server.pool.dialer.attempts - attempts <= 10 * len(boxes)
                await all_back(boxes)
                await calls.only("ok")
            assert set(calls.outcomes) == {"ok"}

    async def test_two_hundred_who_wait_for_one_sandbox_delay_no_other(self) -> None:
        async with stage(dial_retry=3.0) as router:
            box = await router.sandbox(always(ok()))
            router.zone["late.default.svc.cluster.local"] = ["127.0.0.1"]
            port = free_port()
            waiting = [await router.client() for _ in range(200)]
            for client in waiting:
                await client.send(request(port, name=b"late", method=b"POST"))
            await eventually(lambda: router.server.pool.dialer.attempts > 0)
            client = await router.client()
            waits = []
            for _ in range(20):
                began = time.monotonic()
                await client.send(request(box))
                assert (await client.response())[1] == b"ok"
                waits.append(time.monotonic() - began)
            assert sorted(waits)[len(waits) // 2] < 0.2  # the worst of them tells of the machine
            assert router.server.pool.dialer.attempts <= 11
            for client in waiting:
                client.close()
            await eventually(lambda: len(router.server.connections) == 1)
            # Nobody waits for it any more, so nobody dials it.
            await eventually(lambda: repr(router.server.pool.dialer).startswith("<Dialer gates=0 "))
