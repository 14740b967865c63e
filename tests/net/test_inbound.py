"""The reading half of a client connection: deadlines, rests of bodies, lingering closes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from fastrouter.net.downstream import Downstream
from fastrouter.net.inbound import Phase
from tests.support import (
    Stage,
    Visit,
    always,
    eventually,
    free_port,
    ok,
    request,
    stage,
)

ONE_READ = 256 * 1024
TIMED_OUT = (408, "Timed out reading the request.", "request_timeout")
HEALTHY = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage() as set_:
        yield set_


def only_connection(router: Stage) -> Downstream:
    (connection,) = router.server.connections
    return connection


class TestDeadlines:
    async def test_a_request_that_comes_with_the_end_of_the_idle_time_begins_nothing(self) -> None:
        async with stage() as router:
            box = await router.sandbox(always(ok()))
            client = await router.client()
            for _ in range(3):
                await client.send(request(box))
                await client.response()
            (side,) = router.server.connections
            sent = len(box.received)
            side.tick(side.deadline + 1)
            side.data_received(request(box))
            assert await client.error() == (408, "Timed out reading the request.", "request_timeout")
            assert len(box.received) == sent

    async def test_a_head_that_came_in_part_is_a_408(self) -> None:
        async with stage(request_head_timeout=0.3) as router:
            client = await router.client()
            await client.send(b"GET / HTT")
            began = time.monotonic()
            assert await client.error() == TIMED_OUT
            assert time.monotonic() - began < 1.3
            assert await client.rest() == b""

    async def test_the_time_for_a_head_runs_from_its_first_byte(self) -> None:
        async with stage(request_head_timeout=0.5) as router:
            client = await router.client()
            await client.send(b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n")
            await client.exactly(len(HEALTHY))
            await asyncio.sleep(0.8)
            await client.send(b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\nGET /h")
            await client.exactly(len(HEALTHY))
            assert await client.error() == TIMED_OUT

    async def test_a_connection_without_a_byte_is_closed_silently(self) -> None:
        async with stage(request_head_timeout=0.3) as router:
            client = await router.client()
            assert await client.rest() == b""
            assert router.access_lines() == []

    async def test_an_idle_connection_is_closed_silently_after_its_time(self) -> None:
        async with stage(client_keepalive=0.5, request_head_timeout=30.0) as router:
            client = await router.client()
            await client.send(b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n")
            assert await client.rest() == HEALTHY
            assert len(router.access_lines()) == 1

    async def test_a_drained_connection_is_idle_not_awaited(self) -> None:
        async with stage() as router:
            client = await router.client()
            await client.send(b"POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 1000\r\n\r\nabc")
            assert (await client.error())[2] == "missing_sandbox_id"
            await client.send(b"x" * 997)
            await eventually(lambda: only_connection(router).phase is Phase.IDLE)
            assert only_connection(router).deadline > time.monotonic() + 60

    async def test_a_rest_that_never_comes_ends_the_connection(self) -> None:
        async with stage(request_head_timeout=0.3) as router:
            client = await router.client()
            await client.send(b"POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 1000\r\n\r\nabc")
            assert (await client.error())[2] == "missing_sandbox_id"
            assert await client.rest() == b""


class TestEnds:
    async def test_a_reply_to_an_unfinished_upload_is_received_whole(self, router: Stage) -> None:
        client = await router.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 600_000)
        reply = await client.rest()  # a reset would raise here
        assert b"\r\nConnection: close\r\n" in reply
        assert reply.endswith(b'{"detail":"X-Sandbox-ID header is required."}')

    async def test_an_endless_upload_after_the_reply_is_cut(self, router: Stage) -> None:
        client = await router.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(ConnectionError):
            await client.send(b"8000\r\n%b\r\n" % (b"x" * 0x8000) * 1000)

    async def test_a_rest_that_came_during_the_dial_is_drained(self, router: Stage) -> None:
        router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
        router.dns.mode = "silent"
        client = await router.client()
        raw = request(free_port(), b"Content-Length: 1000", method=b"POST")
        await client.send(raw + b"x" * 10)
        await eventually(lambda: router.dns.asked > 0)
        await client.send(b"x" * 990)
        await eventually(lambda: len(only_connection(router).buffer) == 990)
        assert (await client.error())[0] == 502
        await eventually(lambda: only_connection(router).phase is Phase.IDLE)
        assert only_connection(router).buffer == b""

    async def test_a_client_that_awaits_100_loses_the_connection_with_the_error(self, router: Stage) -> None:
        client = await router.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        reply = await client.rest()
        assert b"\r\nConnection: close\r\n" in reply
        assert b"missing_sandbox_id" in reply

    async def test_malformed_chunks_are_answered_and_the_sandbox_let_go(self, router: Stage) -> None:
        async def sandbox(visit: Visit) -> None:
            await visit.until(b"abc")
            await visit.gone()

        box = await router.sandbox(sandbox)
        client = await router.client()
        await client.send(request(box, b"Transfer-Encoding: chunked", method=b"POST") + b"3\r\nabc\r\n")
        await eventually(lambda: b"abc" in box.received)
        await client.send(b"nonsense\r\n")
        assert (await client.error()) == (400, "Malformed HTTP request.", "bad_request")
        await eventually(lambda: box.visits[0].ended)

    async def test_malformed_chunks_that_came_with_the_head_reach_no_sandbox(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(
            request(box, b"Transfer-Encoding: chunked", method=b"POST") + b"+3\r\nabc\r\n0\r\n\r\n"
        )
        assert (await client.error())[2] == "bad_request"
        assert box.visits == []
