"""The router as a whole: many sandboxes, many clients, and how it shuts down."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from fastrouter.server import Server
from fastrouter.settings import Settings
from tests.processes import router_process
from tests.support import (
    Client,
    Handler,
    Stage,
    Visit,
    always,
    eventually,
    ok,
    request,
    stage,
)

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n"
IDLE_CLIENTS = 2000
MAX_GROWTH = 20 * 1024 * 1024


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage() as set_:
        yield set_


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have as many sockets as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
class TestMany:
    async def test_three_hundred_sandboxes_answer_three_hundred_clients_at_once(self, router: Stage) -> None:
        waiting = 0
        all_there = asyncio.Event()

        def sandbox(name: bytes) -> Handler:
            async def answer(visit: Visit) -> None:
                nonlocal waiting
                await visit.head()
                waiting += 1
                if waiting == 300:
                    all_there.set()
                await all_there.wait()  # no answer before every request has reached its sandbox
                await visit.send(ok(name))
                await visit.gone()

            return answer

        requests: list[tuple[Client, bytes, bytes]] = []
        for number in range(300):
            name = b"box-%d" % number
            host = f"127.0.{1 + number // 200}.{1 + number % 200}"
            box = await router.sandbox(sandbox(name), name.decode(), host=host)
            requests.append((await router.client(), request(box, name=name), name))
        await asyncio.gather(*[client.send(raw) for client, raw, _ in requests])
        answers = await asyncio.gather(*[client.response() for client, _, _ in requests])
        assert [body for _, body in answers] == [name for _, _, name in requests]
        assert len(router.dns.questions) == 300

    async def test_two_thousand_idle_clients_cost_little_and_nobodys_time(self) -> None:
        async with router_process() as router:
            first = await router.client()
            await first.send(HEALTH)
            await first.response()
            before = router.resident
            clients = [await router.client() for _ in range(IDLE_CLIENTS)]
            for client in clients:
                await client.send(HEALTH)
            for client in clients:
                await client.response()
            assert router.resident - before < MAX_GROWTH
            began = time.monotonic()
            await first.send(HEALTH)
            await first.response()
            assert time.monotonic() - began < 0.25
            for client in [first, *clients]:
                client.close()


class TestHealth:
    @pytest.mark.parametrize("target", [b"/healthz", b"/healthz?probe=1", b"http://any/healthz"])
    async def test_get_and_head_are_the_routers_own(self, router: Stage, target: bytes) -> None:
        client = await router.client()
        await client.send(b"HEAD %b HTTP/1.1\r\nHost: r\r\n\r\n" % target)
        head = await client.head()
        await client.send(b"GET %b HTTP/1.1\r\nHost: r\r\n\r\n" % target)
        assert await client.response() == (head, b'{"status":"ok"}')
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")

    @pytest.mark.parametrize(
        ("method", "target"),
        [(b"POST", b"/healthz"), (b"OPTIONS", b"/healthz"), (b"GET", b"/healthz/"), (b"GET", b"/x/healthz")],
    )
    async def test_everything_else_is_proxied(self, router: Stage, method: bytes, target: bytes) -> None:
        box = await router.sandbox(always(ok(b"sandbox")))
        client = await router.client()
        await client.send(request(box, method=method, target=target))
        assert (await client.response())[1] == b"sandbox"


class TestLife:
    async def test_it_knows_its_address_and_its_numbers(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box) + b"GET / HTTP/1.1\r\nHost: r\r\n\r\n")
        await client.response()
        await client.error()
        numbers = router.server.statistics()
        expected = {
            "requests": 2,
            "errors": 1,
            "downstream_connections": 1,
            "upstream_idle": 1,
            "upstream_active": 0,
            "pool_keys": 1,
            "dial_attempts": 1,
        }
        assert {name: numbers[name] for name in expected} == expected
        assert router.server.address[0] == "127.0.0.1"
        assert repr(router.server).endswith("connections=1>")

    async def test_a_taken_address_is_an_error(self, router: Stage) -> None:
        host, port = router.server.address
        other = Server(Settings(host=host, port=port, dns_servers=(router.dns.address,)))
        with pytest.raises(OSError, match="address"):
            await other.start()
        await other.shutdown()


class Slow:
    """A sandbox that answers when it may."""

    def __init__(self, answer: bytes = ok(b"late")) -> None:
        self.may_answer = asyncio.Event()
        self._answer = answer

    async def __call__(self, visit: Visit) -> None:
        await visit.head()
        await self.may_answer.wait()
        await visit.send(self._answer)
        await visit.gone()


class TestShutdown:
    async def test_an_exchange_may_finish_and_is_the_last_of_its_connection(self) -> None:
        async with stage(shutdown_grace=10.0) as router:
            slow = Slow()
            box = await router.sandbox(slow)
            client = await router.client()
            await client.send(request(box))
            await eventually(lambda: bool(box.received))
            shutdown = asyncio.create_task(router.server.shutdown())
            await eventually(lambda: router.server.shutting_down)
            slow.may_answer.set()
            assert await client.rest() == (
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate"
            )
            await asyncio.wait_for(shutdown, 5.0)

    async def test_a_response_that_has_begun_is_finished_too(self) -> None:
        async with stage(shutdown_grace=10.0) as router:
            half = asyncio.Event()

            async def halting(visit: Visit) -> None:
                await visit.head()
                await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
                await half.wait()
                await visit.send(b"def")
                await visit.gone()

            client = await router.client()
            await client.send(request(await router.sandbox(halting)))
            await client.head()
            shutdown = asyncio.create_task(router.server.shutdown())
            await eventually(lambda: router.server.shutting_down)
            half.set()
            assert await client.rest() == b"abcdef"
            await asyncio.wait_for(shutdown, 5.0)

    async def test_new_requests_are_a_503_and_new_connections_refused(self) -> None:
        async with stage(shutdown_grace=10.0) as router:
            slow, address = Slow(), router.server.address
            box = await router.sandbox(slow)
            busy, kept = await router.client(), await router.client()
            await kept.send(HEALTH)
            await kept.response()
            await busy.send(request(box))
            await eventually(lambda: bool(box.received))
            shutdown = asyncio.create_task(router.server.shutdown())
            await eventually(lambda: router.server.shutting_down)
            await kept.send(request(box))
            reply = await kept.rest()
            assert reply.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"\r\nX-Sandbox-Router-Error: shutting_down\r\nConnection: close\r\n" in reply
            assert reply.endswith(b'{"detail":"The router is shutting down."}')
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)
            assert box.received.count(b"GET") == 1
            slow.may_answer.set()
            await shutdown

    async def test_idle_connections_do_not_hold_it_up(self) -> None:
        async with stage(shutdown_grace=30.0) as router:
            clients = [await router.client() for _ in range(10)]
            await clients[0].send(HEALTH)
            await clients[0].response()
            await asyncio.wait_for(router.server.shutdown(), 1.0)
            assert [await client.rest() for client in clients] == [b""] * 10

    async def test_after_the_grace_time_exchanges_are_cut(self) -> None:
        async with stage(shutdown_grace=0.3) as router:
            box = await router.sandbox(Slow())
            client = await router.client()
            await client.send(request(box))
            await eventually(lambda: bool(box.received))
            began = time.monotonic()
            await router.server.shutdown()
            assert 0.2 < time.monotonic() - began < 1.5
            assert await client.rest() == b""
            await eventually(lambda: box.visits[0].ended)
            (line,) = router.access_lines()
            # By the router, not by its client; and it may have run, so it is no refusal.
            assert (line["status"], line["error"]) == (499, "cut_off")
            assert router.server.metrics.rejected == {}

    @pytest.mark.parametrize("last", [b"", b"Connection: close"])
    async def test_a_client_that_takes_nothing_cannot_hold_it_up_for_ever(self, last: bytes) -> None:
        async with stage(shutdown_grace=0.3) as router:
            box = await router.sandbox(always(ok(b"x" * 10_000_000)))
            client = await router.client()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(request(box, *filter(None, [last])))
            await eventually(lambda: any(c.writing_paused for c in router.server.connections))
            await asyncio.wait_for(router.server.shutdown(), 3.0)
            assert not router.server.connections

    async def test_pooled_connections_are_closed(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box))
        await client.response()
        await router.server.shutdown()
        await eventually(lambda: box.visits[0].ended)
        assert router.server.statistics()["upstream_idle"] == 0
