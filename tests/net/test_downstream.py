"""One client connection: keep-alive, pipelining, its deadlines, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from fastrouter.accounts import Accounts
from fastrouter.net.connection import MAX_UNREAD
from fastrouter.net.downstream import Downstream
from fastrouter.net.inbound import Phase
from fastrouter.policy.target import PoolKey
from tests.properties.mute import Mute
from tests.support import (
    Client,
    Stage,
    Visit,
    always,
    eventually,
    ok,
    replies,
    request,
    settled,
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


class TestKeepAlive:
    async def test_one_connection_serves_many_requests(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        for _ in range(3):
            await client.send(request(box))
            assert await client.response() == (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok")

    async def test_connection_close_is_obeyed(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box, b"Connection: close") + request(box))
        assert await client.rest() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        assert box.received.count(b"GET") == 1

    async def test_empty_lines_before_a_request_are_skipped(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(b"\r\n\r\n" + request(box) + b"\r\n")
        await client.response()
        await client.send(b"\r\n" + request(box))
        assert (await client.response())[1] == b"ok"

    async def test_a_head_may_come_byte_by_byte(self, router: Stage) -> None:
        client = await router.client()
        for byte in b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n":
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await client.exactly(len(HEALTHY)) == HEALTHY

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (b"GET / HTTP/1.1\r\nHost: r\r\n\r\n", "missing_sandbox_id"),
            (b"POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\n\r\nabc", "missing_sandbox_id"),
            (
                b"POST / HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                "missing_sandbox_id",
            ),
            (b"GET / HTTP/1.1\r\nHost: r\r\nX-Sandbox-ID: unknown\r\n\r\n", "dns_not_found"),
        ],
    )
    async def test_an_error_reply_keeps_the_connection_where_the_end_is_known(
        self, router: Stage, bad: bytes, reason: str
    ) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(bad)
        assert (await client.error())[2] == reason
        await client.send(request(box))
        assert (await client.response())[1] == b"ok"

    async def test_a_malformed_head_closes_the_connection(self, router: Stage) -> None:
        client = await router.client()
        await client.send(
            b"GET / HTTP/1.1\r\nHost: r\r\nbad line\r\n\r\nGET /healthz HTTP/1.1\r\nHost: r\r\n\r\n"
        )
        reply = await client.rest()
        assert b"\r\nX-Sandbox-Router-Error: bad_request\r\nConnection: close\r\n" in reply
        assert reply.count(b"HTTP/1.1") == 1

    async def test_an_error_reply_to_head_has_no_body(self, router: Stage) -> None:
        client = await router.client()
        await client.send(b"HEAD / HTTP/1.1\r\nHost: r\r\n\r\nGET /healthz HTTP/1.1\r\nHost: r\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 400 ")
        assert await client.exactly(len(HEALTHY)) == HEALTHY


class TestPipelining:
    async def test_requests_are_answered_in_order_one_at_a_time(self, router: Stage) -> None:
        under_way: list[bytes] = []

        async def handle(visit: Visit) -> None:
            while True:
                path = (await visit.head()).split()[1]
                under_way.append(path)
                await asyncio.sleep(0.01)  # time in which a second one would show
                assert under_way == [path]
                under_way.clear()
                await visit.send(ok(path))

        box = await router.sandbox(handle)
        client = await router.client()
        await client.send(b"".join(request(box, target=b"/%d" % number) for number in range(10)))
        assert [(await client.response())[1] for _ in range(10)] == [b"/%d" % number for number in range(10)]

    async def test_bodies_are_told_from_the_requests_behind_them(self, router: Stage) -> None:
        async def echo(visit: Visit) -> None:
            while True:
                await visit.head()
                await visit.send(ok(await visit.exactly(3)))

        box = await router.sandbox(echo)
        client = await router.client()
        pieces = [request(box, method=b"POST", body=b"abc"), request(box, method=b"PUT", body=b"def")]
        raw = b"".join(pieces)
        await client.send(raw[: len(pieces[0]) - 1])
        await client.send(raw[len(pieces[0]) - 1 :])
        assert [(await client.response())[1] for _ in pieces] == [b"abc", b"def"]

    async def test_an_exchange_that_breaks_takes_nothing_of_the_answer_before(self, router: Stage) -> None:
        async def handle(visit: Visit) -> None:
            await visit.head()
            await visit.send(ok(b"x" * 60_000))
            await visit.head()
            visit.writer.write(ok(b"y" * 9_000_000))
            await visit.gone()

        box = await router.sandbox(handle)
        client = Mute(router)
        side = await client.connect()
        await client.send(request(box) + request(box, b"Transfer-Encoding: chunked", method=b"POST"))
        await eventually(lambda: side.writing_paused)
        await client.send(b"no size\r\n")
        await eventually(lambda: side.phase is not Phase.EXCHANGE)
        got = b""
        with client.socket:
            while piece := await client.read():
                got += piece
        first = ok(b"x" * 60_000)
        assert got[: len(first)] == first
        assert len(got) < 9_000_000

    async def test_reading_pauses_while_an_exchange_is_under_way(self, router: Stage) -> None:
        release = asyncio.Event()

        async def hold(visit: Visit) -> None:
            await visit.head()
            await release.wait()
            await always(ok())(visit)

        box = await router.sandbox(hold)
        client = await router.client()
        client.writer.write(request(box, target=b"/first"))
        one = request(box, target=b"/next", method=b"POST", body=b"x" * 100_000)
        client.writer.write(one * 60)
        await eventually(lambda: only_connection(router).reading_paused)
        assert len(only_connection(router).buffer) <= MAX_UNREAD + ONE_READ
        await eventually(lambda: bool(box.visits))
        release.set()
        await box.visits[0].send(ok(b"first"))
        assert (await client.response())[1] == b"first"
        for _ in range(60):
            assert (await client.response())[1] == b"ok"

    async def test_a_client_that_reads_nothing_is_not_answered_on_and_on(self, router: Stage) -> None:
        body = b"x" * 60_000
        box = await router.sandbox(always(ok(body)))
        client = await router.client()
        client.writer.write(request(box) * 2000)
        await eventually(lambda: router.server.metrics.requests > 10)
        assert await settled(lambda: router.server.metrics.requests) < 1000
        assert only_connection(router).transport.get_write_buffer_size() < 2 * ONE_READ
        for _ in range(2000):
            assert len((await client.response())[1]) == len(body)


class TestAccount:
    """One access line per request, for every outcome."""

    async def line(self, router: Stage) -> dict[str, object]:
        await eventually(lambda: router.server.metrics.requests == 1)
        (line,) = router.access_lines()
        assert isinstance(line.pop("duration_ms"), float)
        assert str(line.pop("time")).endswith("Z")
        return line

    async def test_an_answered_request(self, router: Stage) -> None:
        box = await router.sandbox(always(ok(b"answer")))
        client = await router.client()
        await client.send(request(box, method=b"POST", target=b"/p?secret=1", body=b"abc"))
        await client.response()
        line = await self.line(router)
        assert isinstance(line.pop("dial_ms"), float)
        assert line == {
            "method": "POST",
            "path": "/p",
            "sandbox_id": "box",
            "namespace": "default",
            "status": 200,
            "bytes_in": 3,
            "bytes_out": 6,
            "upstream": f"127.0.0.1:{box.port}",
            "connection": "fresh",
            "dials": 1,
            "error": None,
        }

    async def test_a_streamed_request_counts_its_bytes_without_framing(self, router: Stage) -> None:
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        box = await router.sandbox(always(answer))
        client = await router.client()
        await client.send(request(box, b"Transfer-Encoding: chunked", method=b"POST"))
        await eventually(lambda: bool(box.received))
        await client.send(b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n")
        await client.head()
        line = await self.line(router)
        assert (line["bytes_in"], line["bytes_out"]) == (4, 5)

    async def test_a_reused_connection_is_told(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box) * 2)
        for _ in range(2):
            await client.response()
        assert [line["connection"] for line in router.access_lines()] == ["fresh", "reused"]

    @pytest.mark.parametrize(
        ("raw", "status", "reason"),
        [
            (b"GET / HTTP/1.1\r\nHost: r\r\n\r\n", 400, "missing_sandbox_id"),
            (b"nonsense\r\n\r\n", 400, "bad_request"),
            (b"GET / HTTP/1.1\r\nHost: r\r\nX-Sandbox-ID: nobody\r\n\r\n", 502, "dns_not_found"),
            (b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n", 200, None),
        ],
    )
    async def test_the_routers_own_replies(
        self, router: Stage, raw: bytes, status: int, reason: str | None
    ) -> None:
        client = await router.client()
        await client.send(raw)
        await client.head()
        line = await self.line(router)
        assert (line["status"], line["error"], line["upstream"]) == (status, reason, None)

    async def test_a_client_that_left_before_the_head_is_a_499(self, router: Stage) -> None:
        box = await router.sandbox(mute)
        client = await router.client()
        await client.send(request(box))
        await eventually(lambda: bool(box.received))
        client.close()
        line = await self.line(router)
        assert (line["status"], line["error"]) == (499, "client_closed")

    async def test_a_client_that_left_within_the_body_keeps_its_status(self, router: Stage) -> None:
        async def half(visit: Visit) -> None:
            await visit.head()
            await visit.send(b"HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\nabc")
            await visit.gone()

        box = await router.sandbox(half)
        client = await router.client()
        await client.send(request(box))
        await client.head()
        client.close()
        line = await self.line(router)
        assert (line["status"], line["bytes_out"], line["error"]) == (201, 3, "client_closed")

    async def test_the_log_off_writes_nothing(self) -> None:
        async with stage() as router:
            log = router.server.accounts.access_log
            router.server.accounts.access_log = None
            client = await router.client()
            await client.send(b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n")
            await client.head()
            router.server.accounts.access_log = log
            assert router.access_lines() == []


async def mute(visit: Visit) -> None:
    await visit.gone()


async def test_who_is_told_to_finish_ends_with_any_answer(router: Stage) -> None:
    for asked in (b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n", request(1, name=b"nobody")):
        client = await router.client()
        await client.send(asked)
        await client.response()
        for side in router.server.connections:
            side.finish()
        await client.send(asked)
        assert b"\r\nConnection: close\r\n" in await client.rest()
        await eventually(lambda: not router.server.connections)


class TestInternalErrors:
    async def test_a_bug_is_a_500_with_its_traceback_in_the_log(
        self, router: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(_target: object) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(router.server.pool, "reuse", broken)
        client = await router.client()
        with caplog.at_level(logging.ERROR):
            await client.send(request(1))
            reply = await client.rest()
        assert b'{"detail":"An internal error occurred in the proxy."}' in reply
        assert b"\r\nX-Sandbox-Router-Error: internal_error\r\nConnection: close\r\n" in reply
        (record,) = caplog.records
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ZeroDivisionError)

    async def test_what_is_told_of_a_request_never_fails_it(
        self, router: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_facts: object) -> None:
            raise ZeroDivisionError("a bug")

        box = await router.sandbox(always(ok()))
        client = await router.client()
        monkeypatch.setattr(Accounts, "settle", broken)
        for _ in range(4):  # the last ones without the task
            await client.send(request(box))
            assert (await client.response())[1] == b"ok"
        assert only_connection(router).phase is Phase.IDLE
        assert len(caplog.records) == 4
        assert router.server.pool.counters.in_use == 0

    async def test_it_reaches_no_other_client(self, router: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        box = await router.sandbox(always(ok()))
        reuse = router.server.pool.reuse
        key = PoolKey("broken", "default", box.port)
        monkeypatch.setattr(
            router.server.pool,
            "reuse",
            lambda target, *now: reuse(target, *now) if target.key != key else 1 / 0,
        )
        bad, good = await router.client(), await router.client()
        await bad.send(request(box, name=b"broken"))
        assert b"internal_error" in await bad.rest()
        await good.send(request(box))
        assert (await good.response())[1] == b"ok"


class TestPhase:
    async def test_the_connection_tells_what_it_waits_for(self, router: Stage) -> None:
        box = await router.sandbox(replies(ok()))
        client: Client = await router.client()
        await eventually(lambda: len(router.server.connections) == 1)
        connection = only_connection(router)
        assert (connection.phase, connection.busy) == (Phase.HEAD, False)
        await client.send(request(box)[:-2])
        await eventually(lambda: connection.busy)
        await client.send(b"\r\n")
        await client.response()
        await eventually(lambda: connection.phase is Phase.IDLE)
        assert not connection.busy
        assert repr(connection) == "<Downstream 127.0.0.1 idle unread=0>"


async def test_a_half_closed_client_counts_as_gone(router: Stage) -> None:
    async def silent(visit: Visit) -> None:
        await visit.head()
        await visit.gone()

    box = await router.sandbox(silent)
    client = await router.client()
    await client.send(request(box))
    await eventually(lambda: bool(box.received))
    client.writer.write_eof()
    assert await client.rest() == b""
    await eventually(lambda: box.visits[0].ended)
    assert router.access_lines()[0]["error"] == "client_closed"
