"""Contract section 7, requests: the named reply, the connection closed, and the sandbox saw nothing of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conformance.corpus import CHUNKS, HEADS, LAST, SMUGGLED, START, TE, Case
from tests.conformance.recorder import PROBE, Recorder, recorder
from tests.support import Client, eventually, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

_DETAILS = {
    "bad_request": "Malformed HTTP request.",
    "unsupported_coding": "Transfer coding not supported.",
    "unsupported_version": "HTTP version not supported.",
    "target_too_long": "Request target too long.",
    "headers_too_large": "Request header fields too large.",
    "method_not_allowed": "Method not allowed.",
}
# Longer ones would take seconds byte by byte, and their fault is their length.
_SHORT = 2000


def ids(case: Case) -> str:
    return case.name


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router() -> AsyncIterator[Recorder]:
    async with recorder() as set_:
        yield set_


async def assert_refused(client: Client, expected: tuple[int, str]) -> None:
    """Read one error reply and the end of the connection."""
    answer = await client.rest()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, reason = expected
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 %d " % status)
    assert b"X-Sandbox-Router-Error: " + reason.encode() in lines
    assert b"Connection: close" in lines
    # One reply, and no more of anything: a second request in the same bytes was not answered.
    assert json.loads(body) == {"detail": _DETAILS[reason]}
    client.close()


async def trickle(client: Client, data: bytes) -> None:
    """Send byte by byte, with a turn of the event loop for the router after each."""
    try:
        for position in range(len(data)):
            client.writer.write(data[position : position + 1])
            await asyncio.sleep(0)
    except ConnectionError:
        pass  # the router has heard enough: its reply tells


@pytest.mark.parametrize("case", HEADS + CHUNKS, ids=ids)
async def test_a_hostile_request_is_refused_and_no_byte_reaches_the_sandbox(
    router: Recorder, case: Case
) -> None:
    before, dials = router.sandbox.received, router.router.server.pool.dialer.attempts
    client = await router.client()
    await client.send(router.fill_in(case.raw))
    await assert_refused(client, case.reply)
    assert router.sandbox.received == before
    assert router.router.server.pool.dialer.attempts == dials
    assert await router.probe() == [PROBE]


@pytest.mark.parametrize("case", [case for case in HEADS if len(case.raw) < _SHORT], ids=ids)
async def test_a_hostile_head_that_comes_byte_by_byte_is_refused_the_same(
    router: Recorder, case: Case
) -> None:
    before = router.sandbox.received
    client = await router.client()
    await trickle(client, router.fill_in(case.raw))
    await assert_refused(client, case.reply)
    assert router.sandbox.received == before
    assert await router.probe() == [PROBE]


@pytest.mark.parametrize("case", [case for case in CHUNKS if len(case.raw) < _SHORT], ids=ids)
async def test_a_chunked_body_that_goes_wrong_under_way_never_becomes_a_whole_request(
    router: Recorder, case: Case
) -> None:
    complete = len(router.complete)
    client = await router.client()
    await trickle(client, router.fill_in(case.raw))
    await assert_refused(client, case.reply)
    assert len(router.complete) == complete
    assert router.router.server.pool.statistics()["upstream_active"] == 0
    assert await router.probe() == [PROBE]


@pytest.mark.parametrize("case", HEADS + CHUNKS, ids=ids)
async def test_a_hostile_request_behind_a_good_one_is_refused_in_its_turn(
    router: Recorder, case: Case
) -> None:
    complete = len(router.complete)
    client = await router.client()
    await client.send(request(router.sandbox, target=b"/first") + router.fill_in(case.raw))
    assert (await client.response())[1] == b"ok"
    await assert_refused(client, case.reply)
    assert [head.split(b" ")[1] for head, _ in router.complete[complete:]] == [b"/first"]


@pytest.mark.parametrize("case", HEADS, ids=ids)
async def test_nothing_behind_a_hostile_head_is_answered_or_forwarded(router: Recorder, case: Case) -> None:
    complete = len(router.complete)
    client = await router.client()
    # For a case without an end the request behind becomes part of it, which is refused as well.
    await client.send(router.fill_in(case.raw + SMUGGLED))
    await assert_refused(client, case.reply)
    assert len(router.complete) == complete


ONE_BODY = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
SENDS_AS_BODY = [
    pytest.param(b"Content-Length: %d\r\n\r\n%b" % (len(ONE_BODY), ONE_BODY), ONE_BODY, id="length"),
    pytest.param(
        b"%b\r\n\r\n%x\r\n%b\r\n%b" % (TE, len(ONE_BODY), ONE_BODY, LAST),
        b"%x\r\n%b\r\n%b" % (len(ONE_BODY), ONE_BODY, LAST),
        id="chunked",
    ),
    pytest.param(
        b"Connection: Content-Length, Host, X-Sandbox-ID\r\nContent-Length: %d\r\n\r\n%b"
        % (len(ONE_BODY), ONE_BODY),
        ONE_BODY,
        id="length nominated by Connection",
    ),
    pytest.param(
        b"Connection: Transfer-Encoding\r\n%b\r\n\r\n%x\r\n%b\r\n%b" % (TE, len(ONE_BODY), ONE_BODY, LAST),
        b"%x\r\n%b\r\n%b" % (len(ONE_BODY), ONE_BODY, LAST),
        id="chunked nominated by Connection",
    ),
    pytest.param(
        b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n%b" % (len(ONE_BODY), len(ONE_BODY), ONE_BODY),
        ONE_BODY,
        id="one length twice",
    ),
    pytest.param(
        b"Content_Length: 0\r\nContent-Length: %d\r\n\r\n%b" % (len(ONE_BODY), ONE_BODY),
        ONE_BODY,
        id="beside a look-alike",
    ),
]


@pytest.mark.parametrize(("rest", "body"), SENDS_AS_BODY)
async def test_a_request_inside_a_body_stays_a_body(router: Recorder, rest: bytes, body: bytes) -> None:
    complete = len(router.complete)
    client = await router.client()
    await client.send(router.fill_in(START + rest) + request(router.sandbox, target=b"/second"))
    assert (await client.response())[1] == b"ok"
    assert (await client.response())[1] == b"ok"
    client.close()
    (head, sent), (second, _) = router.complete[complete:]
    assert head.startswith(b"POST /hostile HTTP/1.1\r\n")
    assert head.lower().count(b"\r\ncontent-length:") + head.lower().count(b"\r\ntransfer-encoding:") == 1
    assert head.count(b"\r\nHost: box.default.svc.cluster.local:") == 1
    assert b"\r\nconnection:" not in head.lower()
    assert b"\r\nx-sandbox-" not in head.lower()
    assert sent == body
    assert second.startswith(b"GET /second HTTP/1.1\r\n")


async def test_a_body_on_get_is_no_next_request(router: Recorder) -> None:
    complete = len(router.complete)
    client = await router.client()
    await client.send(request(router.sandbox, body=ONE_BODY) + request(router.sandbox, target=b"/second"))
    await client.response()
    await client.response()
    client.close()
    assert [body for _, body in router.complete[complete:]] == [ONE_BODY, b""]


async def test_an_unframed_body_is_the_next_request_and_is_refused_as_one(router: Recorder) -> None:
    complete = len(router.complete)
    client = await router.client()
    await client.send(router.fill_in(START) + b"\r\nhello=world\r\n\r\n")
    assert (await client.response())[1] == b"ok"
    await assert_refused(client, (400, "bad_request"))
    assert [body for _, body in router.complete[complete:]] == [b""]


GOOD_CHUNKS = [
    pytest.param(b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", id="plain"),
    pytest.param(b"005\r\nhello\r\n00\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", id="leading zeros"),
    pytest.param(b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", id="16 digits"),
    pytest.param(b"A\r\n0123456789\r\n0\r\n\r\n", b"a\r\n0123456789\r\n0\r\n\r\n", id="upper case"),
    pytest.param(b"5  \t\r\nhello\r\n0 \r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", id="padding behind the size"),
    pytest.param(b"5;a=b\r\nhello\r\n0;c\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", id="extensions are dropped"),
    pytest.param(b'5;a="0\t;"\r\nhello\r\n0\r\n\r\n', b"5\r\nhello\r\n0\r\n\r\n", id="quoted extension"),
    pytest.param(b"2\r\n\r\n\r\n0\r\n\r\n", b"2\r\n\r\n\r\n0\r\n\r\n", id="CRLF as data"),
    pytest.param(b"0\r\n\r\n", b"0\r\n\r\n", id="empty"),
    pytest.param(
        b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nx-sum:  2 \r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n",
        id="trailers survive",
    ),
    pytest.param(
        b"0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: x\r\nX-Sandbox-ID: x\r\n"
        b"Connection: x\r\nAuthorization: x\r\nX-Forwarded-For: x\r\nOk: 1\r\n\r\n",
        b"0\r\nOk: 1\r\n\r\n",
        id="trailers that steer are dropped",
    ),
]


@pytest.mark.parametrize(("sent", "forwarded"), GOOD_CHUNKS)
async def test_unusual_chunks_pass_in_their_plain_form(
    router: Recorder, sent: bytes, forwarded: bytes
) -> None:
    client = await router.client()
    await client.send(router.fill_in(START + TE + b"\r\n\r\n") + sent)
    assert (await client.response())[1] == b"ok"
    client.close()
    assert router.complete[-1][1] == forwarded


GOOD_HEADS = [
    pytest.param(START + b"A: \x80\xff\t~ !\r\n", b"\r\nA: \x80\xff\t~ !\r\n", id="obs-text and tab"),
    pytest.param(START + b"A:\r\nB: \t \r\n", b"\r\nA: \r\nB: \r\n", id="empty values"),
    pytest.param(START + b"A:b\r\nA: \tb\t \r\n", b"\r\nA: b\r\nA: b\r\n", id="white space around values"),
    pytest.param(
        START + b"!#$%&'*+-.^_`|~09az: b\r\n", b"\r\n!#$%&'*+-.^_`|~09az: b\r\n", id="every name byte"
    ),
    pytest.param(START + b"Content-Length: 0\r\n", b"\r\nContent-Length: 0\r\n", id="length 0"),
    pytest.param(START + b"Content-Length:\t0 \r\n", b"\r\nContent-Length: 0\r\n", id="length amid space"),
    pytest.param(
        START + b"A: " + b"a: b; " * 9 + b"\r\n", b"\r\nA: " + b"a: b; " * 8, id="colons in a value"
    ),
    pytest.param(b"\r\n" + START, b"POST /hostile HTTP/1.1\r\n", id="an empty line first"),
    pytest.param(b"\r\n" * 5 + START, b"POST /hostile HTTP/1.1\r\n", id="five empty lines first"),
    pytest.param(
        START.replace(b"/hostile", b'/%00/../%2e?"<>\\^`{|}'), b'POST /%00/../%2e?"<>\\^`{|} ', id="target"
    ),
    pytest.param(
        START.replace(b"/hostile", b"HTTP://u@h:1/p?q"), b"POST /p?q HTTP/1.1\r\n", id="absolute form"
    ),
    pytest.param(START.replace(b"/hostile", b"http://h?q"), b"POST /?q HTTP/1.1\r\n", id="absolute, no path"),
    pytest.param(START.replace(b"POST /hostile", b"OPTIONS *"), b"OPTIONS * HTTP/1.1\r\n", id="OPTIONS *"),
    pytest.param(START.replace(b"POST", b"BREW"), b"BREW /hostile HTTP/1.1\r\n", id="an unknown method"),
    pytest.param(START.replace(b"router", b"[::1]:80"), b"X-Forwarded-Host: [::1]:80\r\n", id="an IPv6 host"),
    pytest.param(
        START.replace(b"Host: router\r\n", b"").replace(b"/1.1", b"/1.0"),
        b"\r\nHost: box.",
        id="1.0, no Host",
    ),
    pytest.param(START + b"F: v\r\n" * 253, b"\r\nF: v\r\n" * 1, id="256 fields"),
    pytest.param(
        START.replace(b"/hostile", b"/" + b"a" * (16384 - 15)), b"a HTTP/1.1\r\n", id="16 KiB of target"
    ),
]


@pytest.mark.parametrize(("start", "forwarded"), GOOD_HEADS)
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "byte by byte"])
async def test_valid_but_unusual_heads_pass(
    router: Recorder, start: bytes, forwarded: bytes, bytewise: bool
) -> None:
    client = await router.client()
    raw = router.fill_in(start + b"\r\n")
    await (trickle if bytewise else Client.send)(client, raw)
    assert (await client.response())[1] == b"ok"
    client.close()
    head, body = router.complete[-1]
    assert forwarded in head
    assert body == b""


async def test_a_head_of_exactly_64_kib_passes_and_one_byte_more_does_not(router: Recorder) -> None:
    start = router.fill_in(START)
    room = 65536 - len(start) - len(b"A: \r\n\r\n")
    client = await router.client()
    await client.send(start + b"A: " + b"a" * room + b"\r\n\r\n")
    assert (await client.response())[1] == b"ok"
    await client.send(start + b"A: " + b"a" * (room + 1) + b"\r\n\r\n")
    await assert_refused(client, (431, "headers_too_large"))


async def test_a_refused_client_that_goes_on_sending_still_reads_its_reply(router: Recorder) -> None:
    client = await router.client()
    await client.send(b"GET / HTTP/9.9\r\n\r\n" + b"x" * 700_000)
    await assert_refused(client, (505, "unsupported_version"))


async def test_a_client_that_goes_on_sending_behind_its_last_request_still_reads_its_answer(
    router: Recorder,
) -> None:
    client = await router.client()
    await client.send(request(router.sandbox, b"Connection: close") + b"x" * 700_000)
    assert (await client.rest()).endswith(b"\r\nConnection: close\r\n\r\nok")
    client.close()


async def test_no_connection_or_lease_is_left_behind(router: Recorder) -> None:
    server = router.router.server
    await eventually(lambda: not server.connections)
    statistics = server.pool.statistics()
    assert statistics["upstream_active"] == 0
    assert statistics["acquired"] == statistics["released"] + statistics["discarded"]
