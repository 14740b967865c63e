"""What a hostile or broken sandbox sends: a 502 or truncation, and its connection is never used again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support import Client, Handler, ScriptedSandbox, Stage, Visit, eventually, ok, request, stage

pytestmark = pytest.mark.asyncio(loop_scope="module")

_BODY = b"Content-Length: 2\r\n\r\nok"
_LAST = b"\r\n0\r\n\r\n"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router() -> AsyncIterator[Stage]:
    async with stage() as set_:
        yield set_


def first(answer: bytes, *, close: bool = False) -> Handler:
    """Return a handler that gives the very first request ``answer`` and every later one a plain 200."""
    given: list[bytes] = []

    async def handle(visit: Visit) -> None:
        while True:
            await visit.head()
            if given:
                await visit.send(ok(b"next"))
                continue
            given.append(answer)
            await visit.send(answer)
            if close:
                visit.close()
                return

    return handle


async def assert_next_request_is_fresh(router: Stage, box: ScriptedSandbox, client: Client | None) -> None:
    """Send another request: it has to come over another connection, the first one being closed."""
    client = client or await router.client()
    await client.send(request(box, target=b"/next"))
    assert (await client.response())[1] == b"next"
    client.close()
    assert len(box.visits) == 2
    assert b"/next" not in box.visits[0].received
    assert box.visits[1].received.startswith(b"GET /next HTTP/1.1\r\n")
    # The handler's end closes its side, and it ends when the router has closed.
    await eventually(box.visits[0].writer.is_closing)


NO_RESPONSE = {
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "bare LF behind the status line": b"HTTP/1.1 200 OK\n" + _BODY,
    "bare LF behind a field": b"HTTP/1.1 200 OK\r\nA: b\n" + _BODY,
    "bare LF at the end of the head": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
    "bare CR behind a field": b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n" + _BODY,
    "obs-fold": b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n" + _BODY,
    "NUL in a value": b"HTTP/1.1 200 OK\r\nA: b\x00\r\n" + _BODY,
    "DEL in a value": b"HTTP/1.1 200 OK\r\nA: b\x7f\r\n" + _BODY,
    "NUL in a name": b"HTTP/1.1 200 OK\r\nA\x00: b\r\n" + _BODY,
    "escape in the reason": b"HTTP/1.1 200 \x1b[31m\r\n" + _BODY,
    "space before the colon": b"HTTP/1.1 200 OK\r\nA : b\r\n" + _BODY,
    "no colon": b"HTTP/1.1 200 OK\r\nword\r\n" + _BODY,
    "empty name": b"HTTP/1.1 200 OK\r\n: b\r\n" + _BODY,
    "length and coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + _BODY,
    "coding and length": _CHUNKED.replace(b"\r\nT", b"\r\nContent-Length: 2\r\nT") + b"0\r\n\r\n",
    "differing lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n" + _BODY,
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "a length in hex": b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
    "a length of 20 digits": b"HTTP/1.1 200 OK\r\nContent-Length: 00000000000000000002\r\n\r\nok",
    "an empty length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
    "coding gzip": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "coding gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding identity": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "coding twice": _CHUNKED.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked in HTTP/1.0": _CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n" + _BODY,
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n" + _BODY,
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n" + _BODY,
    "no minor version": b"HTTP/1 200 OK\r\n" + _BODY,
    "two digits of status": b"HTTP/1.1 20 OK\r\n" + _BODY,
    "four digits of status": b"HTTP/1.1 2000 OK\r\n" + _BODY,
    "a status below 100": b"HTTP/1.1 099 OK\r\n" + _BODY,
    "a status that is a word": b"HTTP/1.1 OK\r\n" + _BODY,
    "two spaces": b"HTTP/1.1  200 OK\r\n" + _BODY,
    "no space behind the status": b"HTTP/1.1 200OK\r\n" + _BODY,
    "another protocol": b"ICY 200 OK\r\n" + _BODY,
    "an SSH banner": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "no status line": b"Content-Length: 2\r\n\r\nok",
    "only a body": b"<html>hello</html>",
    "an empty line first": b"\r\nHTTP/1.1 200 OK\r\n" + _BODY,
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a switch that nobody asked for": b"HTTP/1.1 101 -\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "a head over 64 KiB": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 65536 + b"\r\n" + _BODY,
    "a head that does not end": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 11000,
    "257 fields": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 256 + _BODY,
    "a status line that does not end": b"HTTP/1.1 200 " + b"a" * 65536,
    "a flood of informational responses": b"HTTP/1.1 102 Processing\r\n\r\n" * 10000,
    "a malformed informational response": b"HTTP/1.1 103 \r\nA : b\r\n\r\n" + ok(),
    "a malformed response behind a good 103": b"HTTP/1.1 103 \r\n\r\nHTTP/1.1 200 OK\r\nA : b\r\n\r\n",
}


@pytest.mark.parametrize("answer", NO_RESPONSE.values(), ids=NO_RESPONSE.keys())
@pytest.mark.parametrize("close", [False, True], ids=["kept open", "closed"])
async def test_what_is_no_response_is_a_502_and_the_next_request_works(
    router: Stage, answer: bytes, close: bool
) -> None:
    box = await router.sandbox(first(answer, close=close))
    client = await router.client()
    await client.send(request(box, method=b"POST", body=b"x"))
    while (head := await client.head()).startswith(b"HTTP/1.1 10"):
        assert b"\n" not in head.replace(b"\r\n", b"")
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"\r\nX-Sandbox-Router-Error: upstream_protocol_error\r\n" in head
    body = await client.exactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
    assert body == b'{"detail":"Invalid response from the backend sandbox: box"}'
    await assert_next_request_is_fresh(router, box, client)


BROKEN_BODIES = {
    "a chunk size in words": (_CHUNKED + b"5\r\nhello\r\nzz\r\n", False),
    "a negative chunk size": (_CHUNKED + b"5\r\nhello\r\n-1\r\n", False),
    "a chunk size of 17 digits": (_CHUNKED + b"5\r\nhello\r\n00000000000000001\r\nx" + _LAST, False),
    "a chunk size with a prefix": (_CHUNKED + b"5\r\nhello\r\n0x1\r\nx" + _LAST, False),
    "no CRLF behind a chunk": (_CHUNKED + b"5\r\nhello\r\n1\r\nxx" + _LAST, False),
    "bare LF behind a size": (_CHUNKED + b"5\r\nhello\r\n1\nx" + _LAST, False),
    "a NUL in an extension": (_CHUNKED + b"5\r\nhello\r\n1;\x00\r\nx" + _LAST, False),
    "a malformed trailer": (_CHUNKED + b"5\r\nhello\r\n0\r\nA : b\r\n\r\n", False),
    "a trailer with bare LF": (_CHUNKED + b"5\r\nhello\r\n0\r\nA: b\n\n", False),
    "trailers that do not end": (_CHUNKED + b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 4000, False),
    "the end within a chunk": (_CHUNKED + b"5\r\nhello\r\n5\r\nhe", True),
    "the end between chunks": (_CHUNKED + b"5\r\nhello\r\n", True),
    "the end before the last line": (_CHUNKED + b"5\r\nhello\r\n0\r\n", True),
    "the end before the length": (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", True),
}


@pytest.mark.parametrize(("answer", "close"), BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
async def test_a_body_that_breaks_is_cut_off_and_never_ends_well(
    router: Stage, answer: bytes, close: bool
) -> None:
    box = await router.sandbox(first(answer, close=close))
    client = await router.client()
    await client.send(request(box, method=b"POST", body=b"x"))
    received = b""
    try:
        while piece := await asyncio.wait_for(client.reader.read(65536), 10):
            received += piece
    except ConnectionResetError:
        pass  # truncation told by RST: as good as a missing end
    head, _, body = received.partition(b"\r\n\r\n")
    assert not head or head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not body.endswith(b"0\r\n\r\n")
    assert len(body) < 6 or b"chunked" in head
    client.close()
    await assert_next_request_is_fresh(router, box, None)


USED_ONCE = {
    "HTTP/1.0": (b"GET", b"HTTP/1.0 200 OK\r\n" + _BODY, b"ok"),
    "HTTP/1.0 with keep-alive": (b"GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + _BODY, b"ok"),
    "Connection: close": (b"GET", ok(b"ok", b"Connection: close"), b"ok"),
    "Connection: close among others": (b"GET", ok(b"ok", b"Connection: x, CLOSE , y"), b"ok"),
    "bytes behind the body": (b"GET", ok() + b"!", b"ok"),
    "a response behind the response": (b"GET", ok() + ok(b"smuggled"), b"ok"),
    "an empty line behind the body": (b"GET", ok() + b"\r\n", b"ok"),
    "bytes behind the last chunk": (
        b"GET",
        _CHUNKED + b"2\r\nok" + _LAST + ok(b"smuggled"),
        b"2\r\nok" + _LAST,
    ),
    "a body for HEAD": (b"HEAD", ok(b"smuggled"), b""),
    "a chunked body for HEAD": (b"HEAD", _CHUNKED + b"2\r\nok" + _LAST, b""),
    "a body of 204": (b"GET", b"HTTP/1.1 204 No Content\r\n" + _BODY, b""),
    "a body of 304": (b"GET", b"HTTP/1.1 304 Not Modified\r\n" + _BODY, b""),
    "a chunked body of 304": (b"GET", _CHUNKED.replace(b"200 OK", b"304 -") + b"2\r\nok" + _LAST, b""),
}


@pytest.mark.parametrize(("method", "answer", "body"), USED_ONCE.values(), ids=USED_ONCE.keys())
@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "the excess later"])
async def test_such_a_connection_serves_one_request_and_gives_the_client_one_response(
    router: Stage, method: bytes, answer: bytes, body: bytes, apart: bool
) -> None:
    sent = answer.find(body) + len(body) if apart and body else len(answer)
    box = await router.sandbox(first(answer[:sent]))
    client = await router.client()
    await client.send(request(box, method=method))
    assert await client.head()
    assert await client.exactly(len(body)) == body
    if sent < len(answer):
        await box.visits[0].send(answer[sent:])
        await eventually(box.visits[0].writer.is_closing)
    await assert_next_request_is_fresh(router, box, client)


@pytest.mark.parametrize(
    ("answer", "received"),
    [
        (b"HTTP/1.1 200\r\n" + _BODY, b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
        (b"HTTP/1.1 200 \r\n" + _BODY, b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
        (b"HTTP/1.1 999 \xe4\t\r\n" + _BODY, b"HTTP/1.1 999 \xe4\t\r\nContent-Length: 2\r\n\r\nok"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + _BODY,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
        (b"HTTP/1.1 103 \r\nA: b\r\n\r\n" + ok(), b"HTTP/1.1 103 \r\nA: b\r\n\r\n" + ok()),
        (
            _CHUNKED + b"002;a=b\r\nok\r\n00\r\nContent-Length: 9\r\nX: y\r\n\r\n",
            _CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\n\r\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nConnection: Content-Length, X-Hop\r\nX-Hop: 1\r\n" + _BODY,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
    ],
    ids=[
        "no reason",
        "empty reason",
        "obs-text",
        "one length twice",
        "early hints",
        "chunks",
        "nominated length",
    ],
)
async def test_odd_but_valid_responses_pass_and_the_connection_is_kept(
    router: Stage, answer: bytes, received: bytes
) -> None:
    box = await router.sandbox(first(answer))
    client = await router.client()
    await client.send(request(box))
    assert await client.exactly(len(received)) == received
    await client.send(request(box, target=b"/next"))
    assert (await client.response())[1] == b"next"
    client.close()
    assert len(box.visits) == 1


async def test_ten_thousand_tiny_chunks_before_a_close_all_arrive(router: Stage) -> None:
    box = await router.sandbox(first(_CHUNKED + b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n", close=True))
    client = await router.client()
    await client.send(request(box, b"Connection: close"))
    raw = (await client.rest()).partition(b"\r\n\r\n")[2]
    assert raw.endswith(b"\r\n0\r\n\r\n")
    data = b""
    while (size := int(raw.partition(b"\r\n")[0], 16)) > 0:
        start = raw.index(b"\r\n") + 2
        data, raw = data + raw[start : start + size], raw[start + size + 2 :]
    assert data == b"a" * 10_000
