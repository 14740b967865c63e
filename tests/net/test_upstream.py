"""A sandbox that dies, lies, or says too much; and the interface that httpcore knows connections by."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import httpcore
import pytest

from fastrouter.errors import UPSTREAM_CLOSED, UPSTREAM_TIMEOUT, RouterError
from fastrouter.net.upstream import State, Upstream
from fastrouter.policy.target import PoolKey, Target
from tests.support import (
    Client,
    ScriptedSandbox,
    Stage,
    Visit,
    always,
    eventually,
    ok,
    replies,
    request,
    stage,
)

CLOSED = (502, "The backend sandbox closed the connection: box", "upstream_closed")
INVALID = (502, "Invalid response from the backend sandbox: box", "upstream_protocol_error")


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage() as set_:
        yield set_


async def answered(router: Stage, answer: bytes, *, reset: bool = False, method: bytes = b"GET") -> Client:
    """Return a client whose request a sandbox answered with ``answer`` before it closed the connection."""

    async def handle(visit: Visit) -> None:
        await visit.head()
        await visit.send(answer)
        if reset:
            await eventually(lambda: not answer or bool(router.server.response_heads.misses))
            visit.reset()

    box = await router.sandbox(handle)
    client = await router.client()
    await client.send(request(box, method=method))
    return client


class TestDeathBeforeTheHead:
    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.parametrize("method", [b"GET", b"POST"])
    async def test_it_is_a_502(self, router: Stage, reset: bool, method: bytes) -> None:
        client = await answered(router, b"", reset=reset, method=method)
        assert await client.error() == CLOSED

    @pytest.mark.parametrize(
        "answer", [b"H", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"]
    )
    async def test_so_it_is_within_the_head(self, router: Stage, answer: bytes) -> None:
        client = await answered(router, answer)
        assert await client.error() == CLOSED

    async def test_so_it_is_after_an_informational_response(self, router: Stage) -> None:
        client = await answered(router, b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await client.error() == CLOSED

    async def test_the_client_keeps_its_connection(self, router: Stage) -> None:
        client = await answered(router, b"")
        await client.error()
        other = await router.sandbox(always(ok(b"alive")), "other")
        await client.send(request(other, name=b"other"))
        assert (await client.response())[1] == b"alive"

    async def test_a_sandbox_that_closes_while_the_upload_goes_on_is_a_502(self, router: Stage) -> None:
        async def leave(visit: Visit) -> None:
            await visit.head()
            await visit.exactly(10)
            visit.reset()

        box = await router.sandbox(leave)
        client = await router.client()
        await client.send(request(box, b"Content-Length: 1000000", method=b"POST") + b"x" * 10)
        assert await client.error() == CLOSED


class TestDeathAfterTheHead:
    """The client must see truncation: no final chunk, too few bytes, or a reset; never a clean end."""

    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        ],
    )
    async def test_a_framed_body_stays_unfinished(self, router: Stage, answer: bytes, reset: bool) -> None:
        client = await answered(router, answer, reset=reset)
        head = await client.head()
        body = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := await client.reader.read(1):
                body += piece
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not body.endswith(b"0\r\n\r\n")
        assert len(body) < 10
        line = router.access_lines()[0]
        assert (line["status"], line["bytes_out"], line["error"]) == (200, 3, "upstream_closed")

    async def test_a_body_until_close_that_was_reset_is_reset(self, router: Stage) -> None:
        client = await answered(router, b"HTTP/1.1 200 OK\r\n\r\nabc", reset=True)
        with pytest.raises(ConnectionResetError):
            await client.rest()

    async def test_a_malformed_chunk_is_truncation_too(self, router: Stage) -> None:
        client = await answered(
            router, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"
        )
        assert await client.rest() == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert router.access_lines()[0]["error"] == "upstream_protocol_error"


class TestGarbage:
    @pytest.mark.parametrize(
        "answer",
        [
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"garbage",
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"HTTP/1.1 99 Low\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 0\n\n" + b"x" * 65536,
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 65536 + b"\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        ],
        ids=range(12),
    )
    async def test_what_is_no_response_is_a_502(self, router: Stage, answer: bytes) -> None:
        async def handle(visit: Visit) -> None:
            await visit.head()
            await visit.send(answer)
            await visit.gone()  # the router closes, and does not wait for the sandbox to do it

        box = await router.sandbox(handle)
        client = await router.client()
        await client.send(request(box))
        assert await client.error() == INVALID
        assert router.server.pool.statistics()["upstream_idle"] == 0


class TestReuse:
    async def gets_next(self, router: Stage, client: Client, box: ScriptedSandbox) -> bytes:
        await client.send(request(box))
        return (await client.response())[1]

    @pytest.mark.parametrize("method", [b"GET", b"HEAD"])
    async def test_bytes_after_the_end_never_reach_the_next_request(
        self, router: Stage, method: bytes
    ) -> None:
        poison = ok(b"poison")
        answer = ok(b"one") + poison if method == b"GET" else ok(b"one")
        box = await router.sandbox(replies(answer, poison))
        client = await router.client()
        await client.send(request(box, method=method))
        head = await client.head()
        if method == b"GET":
            assert await client.exactly(3) == b"one"
        box.handler = always(ok(b"two"))
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert await self.gets_next(router, client, box) == b"two"
        assert len(box.visits) == 2

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        ],
    )
    async def test_a_sandbox_that_will_close_is_not_used_again(self, router: Stage, answer: bytes) -> None:
        box = await router.sandbox(always(answer))
        client = await router.client()
        for _ in range(2):
            assert await self.gets_next(router, client, box) == b"ok"
        assert len(box.visits) == 2
        await eventually(lambda: box.visits[0].ended)

    async def test_a_connection_carries_many_exchanges(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        for _ in range(20):
            assert await self.gets_next(router, client, box) == b"ok"
        assert len(box.visits) == 1


class TestConnectionInterface:
    """httpcore.AsyncConnectionInterface, as its pools use it."""

    async def test_it_tells_its_state(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        target = Target(PoolKey("box", "default", box.port), "box.default.svc.cluster.local")
        lease = await router.server.pool.acquire(target, 1.0)
        connection: httpcore.AsyncConnectionInterface = lease.connection
        assert isinstance(connection, Upstream)
        assert connection.info() == f"{target.host}:{box.port}, HTTP/1.1, ACTIVE, exchanges: 1"
        assert (connection.is_idle(), connection.is_available(), connection.is_closed()) == (
            False,
            False,
            False,
        )
        lease.release()
        assert (connection.is_idle(), connection.is_available(), connection.has_expired()) == (
            True,
            True,
            False,
        )
        host = target.host.encode()
        assert connection.can_handle_request(httpcore.Origin(b"http", host, box.port))
        assert not connection.can_handle_request(httpcore.Origin(b"http", host, box.port + 1))
        assert not connection.can_handle_request(httpcore.Origin(b"http", b"other", box.port))
        await connection.aclose()
        assert router.server.pool.statistics()["upstream_idle"] == 0
        await eventually(connection.is_closed)
        assert "CLOSED" in repr(connection)

    async def test_httpcores_own_client_can_use_it(self, router: Stage) -> None:
        box = await router.sandbox(always(ok(b"answer")))
        target = Target(PoolKey("box", "default", box.port), "box.default.svc.cluster.local")
        lease = await router.server.pool.acquire(target, 1.0)
        lease.release()
        ask = httpcore.Request("GET", f"http://{target.host}:{box.port}/path", headers={"Host": "h"})
        response = await lease.connection.handle_async_request(ask)
        assert await response.aread() == b"answer"
        assert box.received == b"GET /path HTTP/1.1\r\nHost: h\r\n\r\n"
        assert router.server.pool.statistics()["upstream_idle"] == 0
        await response.aclose()
        await lease.connection.aclose()

    async def test_the_first_failure_wins(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        target = Target(PoolKey("box", "default", box.port), "box.default.svc.cluster.local")
        lease = await router.server.pool.acquire(target, 1.0)
        lease.connection.fail(RouterError(UPSTREAM_TIMEOUT))
        lease.connection.fail(RouterError(UPSTREAM_CLOSED))
        with pytest.raises(RouterError) as caught:
            await lease.connection.changed()
        assert caught.value.cause is UPSTREAM_TIMEOUT
        assert not lease.connection.reusable
        lease.release()
        assert router.server.pool.statistics()["discarded"] == 1
        await eventually(lambda: lease.connection.state is State.CLOSED)
