"""What each page of the admin ports says."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from fastrouter.admin.http import AdminServer
from fastrouter.admin.pages import Shared, routes_for_health, routes_for_metrics
from fastrouter.telemetry.snapshot import Snapshot, empty
from tests.admin.asking import Told, ask

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def address(told: Told) -> AsyncIterator[tuple[str, int]]:
    server = AdminServer("127.0.0.1", 0, routes_for_health(told) | routes_for_metrics(told))
    await server.start()
    yield server.address
    await server.close()


class TestProbes:
    async def test_alive_is_all_that_healthz_says(self, address: tuple[str, int], told: Told) -> None:
        told.reasons, told.all = ["DNS does not answer: refused"], []
        answer = await ask(address, "/healthz")
        assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})
        assert answer.fields["content-type"] == "application/json"

    async def test_readyz_says_ready(self, address: tuple[str, int]) -> None:
        answer = await ask(address, "/readyz")
        assert (answer.status, json.loads(answer.body)) == (200, {"status": "ready"})

    async def test_readyz_says_why_not(self, address: tuple[str, int], told: Told) -> None:
        told.reasons = ["not listening", "DNS does not answer: refused"]
        answer = await ask(address, "/readyz")
        assert answer.status == 503
        assert json.loads(answer.body) == {"status": "not ready", "reasons": told.reasons}
        told.reasons = []
        assert (await ask(address, "/readyz")).status == 200

    async def test_probes_answer_head(self, address: tuple[str, int], told: Told) -> None:
        told.reasons = ["shutting down"]
        assert (await ask(address, "/healthz", method="HEAD")).status == 200
        assert (await ask(address, "/readyz", method="HEAD")).status == 503


class TestStatus:
    async def test_the_page_is_html_that_asks_for_status_json(self, address: tuple[str, int]) -> None:
        answer = await ask(address, "/")
        assert (answer.status, answer.fields["content-type"]) == (200, "text/html; charset=utf-8")
        assert b"status.json" in answer.body
        assert "content-security-policy" in answer.fields

    async def test_the_numbers_are_json(self, address: tuple[str, int], told: Told) -> None:
        told.reasons = ["shutting down"]
        answer = await ask(address, "/status.json")
        assert (answer.status, answer.fields["content-type"]) == (200, "application/json")
        assert "1.2.3" in answer.body.decode()
        assert "shutting down" in json.dumps(json.loads(answer.body))


class TestMetrics:
    @pytest.mark.parametrize(
        ("accept", "kind", "parse"),
        [
            ((), "text/plain", read_text),
            (("Accept: text/plain",), "text/plain", read_text),
            ((f"Accept: {OPENMETRICS}",), "application/openmetrics-text", read_openmetrics),
            (("Accept: x/y", f"Accept: {OPENMETRICS}"), "application/openmetrics-text", read_openmetrics),
        ],
    )
    async def test_prometheus_gets_the_format_that_it_asks_for(
        self,
        address: tuple[str, int],
        accept: tuple[str, ...],
        kind: str,
        parse: Callable[[str], Iterable[Metric]],
    ) -> None:
        answer = await ask(address, "/metrics?name[]=x", *accept)
        assert answer.status == 200
        assert answer.fields["content-type"].split(";")[0] == kind
        families = list(parse(answer.body.decode()))
        assert "sandbox_router_inflight_requests" in {family.name for family in families}

    async def test_workers_are_one_router(self, address: tuple[str, int], told: Told) -> None:
        for open_ in (2.0, 3.0):
            told.all.append(empty(os.getpid(), "1.2.3", 1000.0))
            told.all[-1].values["tunnels"][()] = open_
        families = {
            family.name: family for family in read_text((await ask(address, "/metrics")).body.decode())
        }
        assert [sample.value for sample in families["sandbox_router_tunnels"].samples] == [5.0]

    async def test_no_worker_at_all_is_a_503(self, address: tuple[str, int], told: Told) -> None:
        told.all = []
        answer = await ask(address, "/metrics")
        assert (answer.status, answer.body) == (503, b"No worker process answers.\n")


async def test_all_who_ask_at_once_share_one_look() -> None:
    class Counting(Told):
        looks = 0

        async def snapshots(self) -> list[Snapshot]:
            self.looks += 1
            await asyncio.sleep(0)
            return await super().snapshots()

    source = Counting()
    shared = Shared(source)
    first, *others = await asyncio.gather(*(shared.snapshots() for _ in range(10)))
    assert all(other is first for other in others)
    assert source.looks == 1
    shared._until = 0.0  # half a second later
    await shared.snapshots()
    assert source.looks == 2
    assert await shared.unready() == source.reasons
