"""What a router tells of itself, after real traffic."""

from __future__ import annotations

import asyncio

from fastrouter.telemetry.families import FAMILIES
from fastrouter.telemetry.snapshot import Snapshot
from tests.support import Visit, always, eventually, ok, read_request, request, stage

TOKEN = b"Authorization: Bearer t"


def value(snapshot: Snapshot, family: str, *labels: str) -> float:
    return snapshot.values[family].get(labels, 0)


def observed(snapshot: Snapshot, family: str) -> int:
    return sum(snapshot.histograms[family].counts)


async def test_every_family_is_told() -> None:
    async with stage() as router:
        snapshot = router.server.snapshot()
    told = snapshot.values.keys() | snapshot.histograms.keys()
    assert {family.name for family in FAMILIES} <= told
    assert all(
        len(labels) == len(family.labels)
        for family in FAMILIES
        for labels in snapshot.values.get(family.name, {})
    )


async def test_traffic_is_told() -> None:
    async with stage(auth_token="t") as router:
        box = await router.sandbox(always(ok(b"12345")), namespace="team")
        client = await router.client()
        for _ in range(3):
            await client.send(request(box, TOKEN, b"X-Sandbox-Namespace: team", method=b"POST", body=b"123"))
            await client.response()
        await client.send(request(box, b"X-Sandbox-Namespace: team"))
        await client.error()
        await client.send(request(1, TOKEN, name=b"nobody"))
        await client.error()
        await eventually(lambda: router.server.metrics.requests == 5)
        told = router.server.snapshot()
    assert told.values["requests"] == {
        ("POST", "200", "team"): 3,
        ("GET", "401", "team"): 1,
        ("GET", "502", "other"): 1,
    }
    assert value(told, "authz_decisions", "allowed") == 4
    assert value(told, "authz_decisions", "denied") == 1
    assert value(told, "rejected", "missing_token") == 1
    assert value(told, "upstream_errors", "other", "dns_not_found") == 1
    assert value(told, "upstream_acquired", "fresh") == 1
    assert value(told, "upstream_acquired", "reused") == 2
    assert value(told, "upstream_connections", "idle") == 1
    assert value(told, "downstream_connections") == value(told, "downstream_connections_accepted") == 1
    assert (value(told, "body_bytes", "in"), value(told, "body_bytes", "out")) == (9, 15)
    assert value(told, "dns_lookups", "found") == value(told, "dns_lookups", "not_found") == 1
    assert value(told, "head_cache_hits", "request") + value(told, "head_cache_misses", "request") == 5
    assert value(told, "head_cache_hits", "response") + value(told, "head_cache_misses", "response") == 3
    assert observed(told, "request_duration_seconds") == observed(told, "time_to_first_byte_seconds") == 5
    assert observed(told, "dial_duration_seconds") == 2
    assert observed(told, "dns_lookup_duration_seconds") == 2
    assert value(told, "accepting") == 1
    assert value(told, "process_resident_memory_bytes") > 2**20
    assert [failure.reason for failure in told.failures] == ["missing_token", "dns_not_found"]


async def test_what_is_under_way_is_told() -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def hold(visit: Visit) -> None:
        await read_request(visit)
        asked.set()
        await release.wait()
        await visit.send(ok())

    async with stage() as router:
        box = await router.sandbox(hold)
        client = await router.client()
        await client.send(request(box))
        await asked.wait()
        told = router.server.snapshot()
        assert value(told, "inflight_requests") == value(told, "upstream_connections", "active") == 1
        release.set()
        await client.response()
        assert value(router.server.snapshot(), "inflight_requests") == 0


async def test_a_request_that_is_sent_once_more_is_a_retry() -> None:
    async def once(visit: Visit) -> None:
        await visit.head()
        await visit.send(ok())
        await visit.head()  # and nothing: the connection turns out dead

    async with stage() as router:
        box = await router.sandbox(once)
        client = await router.client()
        for _ in range(2):
            await client.send(request(box))
            await client.response()
        assert value(router.server.snapshot(), "upstream_retries") == 1


async def test_a_name_that_comes_late_is_retried() -> None:
    async with stage(dial_retry=5.0) as router:
        client = await router.client()
        box = await router.sandbox(always(ok()))
        del router.zone["box.default.svc.cluster.local"]
        await client.send(request(box))
        await eventually(lambda: router.server.pool.dialer.attempts > 0)
        router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
        await client.response()
        assert value(router.server.snapshot(), "upstream_retries") >= 1


async def test_a_shutdown_accepts_nothing() -> None:
    async with stage() as router:
        await router.server.shutdown()
        assert value(router.server.snapshot(), "accepting") == 0
