"""Limits: connections, requests of one sandbox, request bodies, open files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from fastrouter import server
from fastrouter.net.listener import Room
from tests.processes import router_process
from tests.support import Client, Stage, Visit, always, eventually, ok, request, settled, stage

CHUNKED = b"Transfer-Encoding: chunked"


async def silent(visit: Visit) -> None:
    await visit.head()
    await visit.gone()


class TestConnections:
    async def test_one_too_many_is_told_so_and_the_others_are_served(self) -> None:
        async with stage(max_connections=2) as router:
            box = await router.sandbox(always(ok()))
            first, second = await router.client(), await router.client()
            for client in (first, second):
                await client.send(request(box))
                await client.response()
            third = await router.client()
            assert await third.error() == (503, "The router is at its connection limit.", "overloaded")
            assert await third.rest() == b""
            for client in (first, second):
                await client.send(request(box))
                assert (await client.response())[1] == b"ok"
            second.close()
            await eventually(lambda: router.server._admitted == 1)
            fourth = await router.client()
            await fourth.send(request(box))
            assert (await fourth.response())[1] == b"ok"

    async def test_a_flood_of_refused_ones_takes_no_place(self) -> None:
        async with stage(max_connections=1) as router:
            box = await router.sandbox(always(ok()))
            served = await router.client()
            await served.send(request(box))
            await served.response()
            for client in [await router.client() for _ in range(50)]:
                assert (await client.error())[0] == 503
            served.close()
            await eventually(lambda: router.server._admitted == 0)
            again = await router.client()
            await again.send(request(box))
            assert (await again.response())[1] == b"ok"


class TestOneSandbox:
    async def test_a_busy_one_is_429_and_others_are_served(self) -> None:
        async with stage(max_per_sandbox=2) as router:
            busy = await router.sandbox(silent)
            idle = await router.sandbox(always(ok()), name="idle")
            waiting = [await router.client() for _ in range(2)]
            for client in waiting:
                await client.send(request(busy))
            await eventually(lambda: len(busy.visits) == 2)
            client = await router.client()
            await client.send(request(busy))
            assert await client.error() == (
                429,
                "Too many concurrent connections for this sandbox.",
                "too_many_connections",
            )
            await client.send(request(idle, name=b"idle"))
            assert (await client.response())[1] == b"ok"
            waiting[0].close()
            await eventually(lambda: busy.visits[0].ended or busy.visits[1].ended)
            await client.send(request(busy))
            await eventually(lambda: len(busy.visits) == 3)

    async def test_requests_that_need_no_task_count_too_and_leave_again(self) -> None:
        async with stage(max_per_sandbox=1) as router:
            box = await router.sandbox(always(ok()))
            client = await router.client()
            for _ in range(6):
                await client.send(request(box))
                assert (await client.response())[1] == b"ok"
            assert repr(router.server.bulkhead) == "<Bulkhead 0 requests, 0 sandboxes>"

    async def test_a_failed_dial_leaves_too(self) -> None:
        async with stage(max_per_sandbox=1) as router:
            client = await router.client()
            for _ in range(2):
                await client.send(request(1, name=b"nobody"))
                assert (await client.error())[2] == "dns_not_found"


class TestBodies:
    @pytest.fixture
    async def router(self) -> AsyncIterator[Stage]:
        async with stage(max_body=10) as router:
            yield router

    async def test_a_longer_body_is_413_before_the_sandbox_sees_anything(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        for size in (9, 10, 11, 9, 12, 10):  # heads that differ in the length only: a template serves some
            await client.send(request(box, method=b"POST", body=b"x" * size))
            if size > 10:
                assert await client.error() == (413, "Request body too large.", "body_too_large")
            else:
                assert (await client.response())[1] == b"ok"
        assert b"Content-Length: 11" not in box.received
        assert b"Content-Length: 12" not in box.received

    async def test_one_that_is_too_long_to_be_read_to_its_end_costs_the_connection(
        self, router: Stage
    ) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box, b"Content-Length: 99999999", method=b"POST"))
        assert (await client.error())[0] == 413
        assert await client.rest() == b""

    @pytest.mark.parametrize("pieces", [1, 2])
    async def test_chunks_are_counted_as_they_come(self, pieces: int, router: Stage) -> None:
        async def reads(visit: Visit) -> None:
            await visit.gone()

        await router.sandbox(reads)
        box = router.sandboxes[0]
        client = await router.client()
        head = request(box, CHUNKED, method=b"POST")
        chunks = [b"6\r\nabcdef\r\n", b"5\r\n"]
        if pieces == 1:
            await client.send(head + b"".join(chunks))
        else:
            await client.send(head + chunks[0])
            await eventually(lambda: box.received.endswith(b"6\r\nabcdef\r\n"))
            await client.send(chunks[1])
        assert await client.error() == (413, "Request body too large.", "body_too_large")
        assert await client.rest() == b""

    async def test_chunks_within_the_limit_pass(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box, CHUNKED, method=b"POST") + b"5\r\nabcde\r\n5\r\nfghij\r\n0\r\n\r\n")
        assert (await client.response())[1] == b"ok"


class TestDialsInTheLog:
    async def test_a_dial_is_told_with_its_time_and_reuse_is_not(self) -> None:
        async with stage() as router:
            box = await router.sandbox(always(ok()))
            client = await router.client()
            for _ in range(2):
                await client.send(request(box))
                await client.response()
            fresh, reused = router.access_lines()
            assert fresh["dials"] == 1
            assert 0 < float(str(fresh["dial_ms"])) <= float(str(fresh["duration_ms"]))
            assert "dials" not in reused

    async def test_every_attempt_counts(self) -> None:
        async with stage(dial_retry=0.6) as router:
            client = await router.client()
            await client.send(request(1, name=b"nobody"))
            await client.error()
            (line,) = router.access_lines()
            assert int(str(line["dials"])) > 2
            # The pauses between attempts are part of it; how long they are is chance.
            assert 10 < float(str(line["dial_ms"])) <= float(str(line["duration_ms"]))


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: router\r\n\r\n"


class TestOpenFiles:
    async def test_accepting_pauses_at_the_limit_and_goes_on_below_it(self) -> None:
        async with router_process(files=256) as router:
            clients: list[Client] = []
            for _ in range(300):
                client = await router.client()
                clients.append(client)
                await client.send(HEALTH)
            await eventually(
                lambda: router.line("out of file descriptors: accepting no connections") is not None
            )
            await settled(lambda: len(answered(clients)))
            served = answered(clients)
            waiting = [client for client in clients if client not in served]
            assert 64 < len(served) <= 128  # each may need a second one, for a sandbox
            for client in served:
                client.close()
            for client in waiting:
                assert (await client.response())[1] == b'{"status":"ok"}'
                client.close()
            said = [line["message"] for line in router.lines if "accepting" in line.get("message", "")]
            assert said == [  # once, though clients that come and go make it pause again
                "out of file descriptors: accepting no connections",
                "accepting connections again",
            ]

    async def test_a_pause_that_lasts_is_told_though_one_before_it_was(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(server, "_PAUSE_SECONDS", 0.5)

        def said() -> list[str]:
            return [record.message for record in caplog.records if "accepting" in record.message]

        async with stage() as router:
            router.server._room = Room(140)  # enough for 38 clients
            first = [await router.client() for _ in range(40)]
            await eventually(lambda: router.server._listeners.paused)
            for client in first:
                client.close()
            await eventually(lambda: len(said()) == 2)
            second = [await router.client() for _ in range(40)]
            await eventually(lambda: router.server._listeners.paused)
            await eventually(lambda: len(said()) == 3)
            assert said()[0] == said()[2] != said()[1]
            for client in second:
                client.close()

    async def test_clients_that_have_been_idle_for_longest_make_way_for_others(self) -> None:
        async with stage() as router:
            router.server._room = Room(140)  # enough for 38 clients
            idle = [await router.client() for _ in range(38)]
            for client in idle:
                await client.send(HEALTH)
                await client.response()
            late = await router.client()
            await late.send(HEALTH)
            await eventually(lambda: router.server._listeners.paused)
            oldest = sorted(router.server.connections, key=lambda each: each.deadline)[:15]
            for connection in oldest:
                connection.deadline -= 6  # seconds, of idling
            await late.response()
            await eventually(lambda: sum(client.reader.at_eof() for client in idle) == 15)
            assert all(client.reader.at_eof() for client in idle[:15])
            late.close()

    async def test_idle_connections_to_sandboxes_make_way_for_clients(self) -> None:
        async with stage() as router:
            all_came = asyncio.Event()

            async def waits_for_all(visit: Visit) -> None:
                while True:
                    await visit.head()
                    await all_came.wait()
                    await visit.send(ok())

            box = await router.sandbox(waits_for_all)
            clients = [await router.client() for _ in range(20)]
            for client in clients:
                await client.send(request(box))
            await eventually(lambda: len(box.visits) == 20)
            all_came.set()
            for client in clients:
                await client.response()
            pool = router.server.pool
            assert pool.statistics()["upstream_idle"] == 20
            assert [pool.shed(5), pool.shed(1000)] == [5, 15]
            assert pool.statistics()["upstream_idle"] == 0
            await clients[0].send(request(box))
            assert (await clients[0].response())[1] == b"ok"


def answered(clients: list[Client]) -> list[Client]:
    """Return the clients for whom bytes have come."""
    return [client for client in clients if client.reader._buffer]  # type: ignore[attr-defined]
