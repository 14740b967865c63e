"""One request, end to end: its bytes, its framing, early answers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support import (
    Handler,
    Stage,
    Visit,
    always,
    eventually,
    ok,
    request,
    stage,
    unchunk,
)


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage() as set_:
        yield set_


def added(port: int) -> bytes:
    """Return the end of every head that a sandbox gets."""
    return b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: router\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"


class TestRequestBytes:
    async def test_the_sandbox_gets_the_head_and_the_body_byte_for_byte(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        fields = (
            b"x-Dup: 1",
            b"Accept:  a, b ",
            b"X-dup: 2",
            b"X-Obs: \xe4\xff\x80",
            b"X-Empty:",
            b"Cookie: a=b",
        )
        body = bytes(range(256))
        await client.send(request(box, *fields, method=b"POST", target=b"/execute?a=%20", body=body))
        await client.response()
        assert box.received == (
            b"POST /execute?a=%%20 HTTP/1.1\r\nHost: box.default.svc.cluster.local:%d\r\n"
            b"Content-Length: 256\r\n"
            b"x-Dup: 1\r\nAccept: a, b\r\nX-dup: 2\r\nX-Obs: \xe4\xff\x80\r\nX-Empty: \r\nCookie: a=b\r\n%b%b"
        ) % (box.port, added(box.port), body)

    @pytest.mark.parametrize(
        "method", [b"GET", b"OPTIONS", b"DELETE", b"PROPFIND", b"get", b"!#$%&'*+-.^_`|~9"]
    )
    async def test_any_method_is_forwarded(self, router: Stage, method: bytes) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box, method=method))
        assert (await client.response())[1] == b"ok"
        assert box.received.startswith(method + b" / HTTP/1.1\r\n")

    @pytest.mark.parametrize(
        ("sent", "forwarded"),
        [
            (b"/a%2Fb/%2E%2E/../c", b"/a%2Fb/%2E%2E/../c"),
            (b"//double//slash//", b"//double//slash//"),
            (b"/?", b"/?"),
            (b"/q?x=/../%00&y=?&z=[]{}|^\"<>'", b"/q?x=/../%00&y=?&z=[]{}|^\"<>'"),
            (b"http://elsewhere:1/p//%2f?q", b"/p//%2f?q"),
            (b"http://elsewhere", b"/"),
        ],
    )
    async def test_the_target_is_not_normalised(self, router: Stage, sent: bytes, forwarded: bytes) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box, target=sent))
        await client.response()
        assert box.received.startswith(b"GET " + forwarded + b" HTTP/1.1\r\n")

    async def test_options_star_stays(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box, method=b"OPTIONS", target=b"*"))
        await client.response()
        assert box.received.startswith(b"OPTIONS * HTTP/1.1\r\n")

    @pytest.mark.parametrize("method", [b"GET", b"POST"])
    async def test_no_body_gets_no_framing_header(self, router: Stage, method: bytes) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box, method=method))
        await client.response()
        lower = box.received.lower()
        assert b"content-length" not in lower
        assert b"transfer-encoding" not in lower

    async def test_a_chunked_body_stays_chunked_and_keeps_its_trailers(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(
            request(box, b"Transfer-Encoding: chunked", b"Trailer: X-Sum", method=b"POST")
            + b"3;ext=1\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 1\r\nX-sum: \xff\r\n\r\n"
        )
        # `always` reads up to an empty trailer section: the answer comes on the second half.
        await eventually(lambda: box.received.endswith(b"X-sum: \xff\r\n\r\n"))
        head, _, body = box.received.partition(b"\r\n\r\n")
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        assert b"content-length" not in head.lower()
        assert unchunk(body) == (b"abcdefg", b"X-Sum: 1\r\nX-sum: \xff\r\n")

    async def test_a_body_in_pieces_is_forwarded_piece_by_piece(self, router: Stage) -> None:
        pieces: list[bytes] = []

        async def collect(visit: Visit) -> None:
            await visit.head()
            for _ in range(3):
                pieces.append(await visit.exactly(4))
                await visit.send(b"HTTP/1.1 103 Early Hints\r\nX-N: %d\r\n\r\n" % len(pieces))
            await visit.send(ok())
            await visit.gone()

        box = await router.sandbox(collect)
        client = await router.client()
        await client.send(request(box, b"Content-Length: 12", method=b"PUT"))
        for number, piece in enumerate([b"abcd", b"efgh", b"ijkl"], start=1):
            await client.send(piece)
            assert b"X-N: %d\r\n" % number in await client.head()  # before the next piece was sent
        await client.response()
        assert pieces == [b"abcd", b"efgh", b"ijkl"]


class TestEarlyAnswers:
    async def test_a_final_response_is_delivered_while_the_upload_goes_on(self, router: Stage) -> None:
        box = await router.sandbox(replies_to_the_head(ok(b"early")))
        client = await router.client()
        await client.send(request(box, b"Content-Length: 100000000", method=b"POST") + b"x" * 1000)
        assert (await client.response())[1] == b"early"
        await client.send(b"x" * 1000)
        assert await client.rest() == b""  # the rest is too long to wait for

    async def test_a_short_rest_is_read_and_the_connection_kept(self, router: Stage) -> None:
        box = await router.sandbox(replies_to_the_head(ok(b"early")))
        client = await router.client()
        for _ in range(2):
            await client.send(request(box, b"Content-Length: 100000", method=b"POST") + b"x" * 1000)
            assert (await client.response())[1] == b"early"
            await client.send(b"x" * 99000)
        assert len(box.visits) == 2  # a sandbox that was cut off is not used again

    async def test_a_response_and_a_request_may_stream_at_the_same_time(self, router: Stage) -> None:
        async def echo(visit: Visit) -> None:
            await visit.head()
            await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
            for _ in range(3):
                await visit.send((await visit.exactly(10)).upper())
            await visit.gone()

        box = await router.sandbox(echo)
        client = await router.client()
        await client.send(request(box, b"Content-Length: 30", method=b"POST"))
        await client.head()
        for letter in (b"a", b"b", b"c"):
            await client.send(letter * 10)
            assert await client.exactly(10) == letter.upper() * 10
        await client.send(request(box, b"Content-Length: 30", method=b"POST"))
        await eventually(lambda: box.received.count(b"POST") == 2)
        assert len(box.visits) == 1

    async def test_an_answer_in_place_of_100_ends_the_connection(self, router: Stage) -> None:
        answer = b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"
        box = await router.sandbox(replies_to_the_head(answer))
        client = await router.client()
        await client.send(request(box, b"Content-Length: 5", b"Expect: 100-continue", method=b"POST"))
        assert await client.rest() == answer[:-2] + b"Connection: close\r\n\r\n"


def replies_to_the_head(answer: bytes) -> Handler:
    async def handle(visit: Visit) -> None:
        await visit.head()
        await visit.send(answer)
        await visit.gone()

    return handle
