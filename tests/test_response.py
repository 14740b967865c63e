"""The response, end to end: its bytes, its framing, old clients, informational responses."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest

from tests.support import (
    Stage,
    Visit,
    always,
    ok,
    replies,
    request,
    stage,
    unchunk,
)


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage() as set_:
        yield set_


class TestResponseBytes:
    async def test_the_client_gets_head_and_body_byte_for_byte(self, router: Stage) -> None:
        body = gzip.compress(b"text" * 100)
        answer = (
            b"HTTP/1.1 299 Very  \xfcber Reason\r\nServer: uvicorn\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
            b"Set-Cookie: a=1; Path=/\r\nset-cookie: b=2\r\nSet-Cookie: a=1; Path=/\r\n"
            b"Content-Encoding: gzip\r\nX-Obs: \xe4\r\ncontent-length: %d\r\n\r\n%b"
        ) % (len(body), body)
        box = await router.sandbox(replies(answer))
        client = await router.client()
        await client.send(request(box, b"Connection: close"))
        got = await client.rest()
        assert got == answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)

    @pytest.mark.parametrize("size", [0, 1, 300_000])
    async def test_a_kept_connection_gets_the_answer_unchanged(self, router: Stage, size: int) -> None:
        answer = ok(b"x" * size, b"X-A: 1")
        box = await router.sandbox(always(answer))
        client = await router.client()
        for _ in range(2):
            await client.send(request(box))
            assert await client.exactly(len(answer)) == answer

    @pytest.mark.parametrize(
        ("method", "answer"),
        [
            (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
            (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            (b"HEAD", b"HTTP/1.1 200 OK\r\nX-Neither: 1\r\n\r\n"),
            (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: x\r\n\r\n"),
            (b"GET", b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n"),
        ],
    )
    async def test_a_response_without_body_ends_with_its_head(
        self, router: Stage, method: bytes, answer: bytes
    ) -> None:
        box = await router.sandbox(replies(answer, ok(b"next")))
        client = await router.client()
        await client.send(request(box, method=method))
        assert await client.head() == answer
        await client.send(request(box))
        assert (await client.response())[1] == b"next"
        assert len(box.visits) == 1

    async def test_a_chunked_response_keeps_its_trailers_and_the_connection(self, router: Stage) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        box = await router.sandbox(
            replies(head + b"2\r\nab\r\n1;x\r\nc\r\n0\r\nX-Sum: 7\r\n\r\n", ok(b"next"))
        )
        client = await router.client()
        await client.send(request(box))
        assert await client.head() == head
        body = b""
        while not body.endswith(b"X-Sum: 7\r\n\r\n"):
            body += await client.exactly(1)
        assert unchunk(body) == (b"abc", b"X-Sum: 7\r\n")
        await client.send(request(box))
        assert (await client.response())[1] == b"next"

    async def test_a_response_until_close_ends_the_connection(self, router: Stage) -> None:
        async def stream(visit: Visit) -> None:
            await visit.head()
            await visit.send(b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\nabc")

        box = await router.sandbox(stream)
        client = await router.client()
        await client.send(request(box))
        assert await client.rest() == b"HTTP/1.1 200 OK\r\nX: 1\r\nConnection: close\r\n\r\nabc"

    @pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
    async def test_each_piece_is_forwarded_as_it_arrives(self, router: Stage, framing: str) -> None:
        field = {"length": b"Content-Length: 8\r\n", "chunked": b"Transfer-Encoding: chunked\r\n"}.get(
            framing, b""
        )
        chunked = framing == "chunked"
        seen = [asyncio.Event() for _ in range(4)]

        async def tick(visit: Visit) -> None:
            await visit.head()
            await visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n" % field)
            for event in seen:
                await visit.send(b"2\r\n:)\r\n" if chunked else b":)")
                await event.wait()

        box = await router.sandbox(tick)
        client = await router.client()
        await client.send(request(box))
        await client.head()
        for event in seen:
            assert b":)" in await client.exactly(7 if chunked else 2)
            event.set()


class TestHttp10:
    async def test_an_old_client_gets_no_chunked_framing_and_no_informational_response(
        self, router: Stage
    ) -> None:
        answer = (
            b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
        )
        box = await router.sandbox(replies(answer))
        client = await router.client()
        await client.send(request(box, b"Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert await client.rest() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde"
        assert box.received.startswith(b"GET / HTTP/1.1\r\n")

    async def test_its_keep_alive_is_honoured_where_the_length_is_known(self, router: Stage) -> None:
        box = await router.sandbox(always(ok(b"abc")))
        client = await router.client()
        for _ in range(2):
            await client.send(request(box, b"Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"))
            head, body = await client.response()
            assert b"\r\nConnection: keep-alive\r\n" in head
            assert body == b"abc"
        await client.send(request(box).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b"\r\nConnection: close\r\n" in await client.rest()

    async def test_the_host_is_sent_though_it_sent_none(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box).replace(b"HTTP/1.1\r\nHost: router\r\n", b"HTTP/1.0\r\n"))
        await client.rest()
        assert b"\r\nHost: box.default.svc.cluster.local:%d\r\n" % box.port in box.received


class TestInformational:
    async def test_expect_is_forwarded_and_the_sandboxes_100_relayed(self, router: Stage) -> None:
        async def sandbox(visit: Visit) -> None:
            assert b"\r\nExpect: 100-continue\r\n" in await visit.head()
            await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert await visit.exactly(5) == b"hello"
            await visit.send(ok(b"done"))
            await visit.gone()

        box = await router.sandbox(sandbox)
        client = await router.client()
        await client.send(request(box, b"Content-Length: 5", b"Expect: 100-continue", method=b"POST"))
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        head, body = await client.response()
        assert (body, b"close" in head) == (b"done", False)

    async def test_several_informational_responses_come_before_the_final_one(self, router: Stage) -> None:
        hints = [b"HTTP/1.1 103 Early Hints\r\nLink: </%d>\r\n\r\n" % number for number in range(3)]
        box = await router.sandbox(always(b"".join(hints) + ok()))
        client = await router.client()
        await client.send(request(box))
        assert [await client.head() for _ in hints] == hints
        assert (await client.response())[1] == b"ok"

    async def test_a_flood_of_informational_responses_is_cut(self, router: Stage) -> None:
        async def flood(visit: Visit) -> None:
            await visit.head()
            while True:
                await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

        box = await router.sandbox(flood)
        client = await router.client()
        await client.send(request(box, b"Connection: close"))
        seen = await client.rest()
        assert len(seen) < 128 * 1024
        assert b"\r\nX-Sandbox-Router-Error: upstream_protocol_error\r\n" in seen
