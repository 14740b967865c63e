"""Properties of the whole router over real sockets: any bytes, any pieces, any order."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.corpus import CHUNKS, HEADS
from tests.conformance.recorder import PROBE, Recorder, recorder
from tests.properties.strategies import Sent, bodies, chunked, cut, places, requests
from tests.support import Visit, request, unchunk

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Real sockets take longer than values: a part of what the profile says.
_SOME = settings(max_examples=settings.default.max_examples * 2 // 5)  # type: ignore[union-attr]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router() -> AsyncIterator[Recorder]:
    async with recorder() as set_:
        yield set_


async def send_in_pieces(writer: asyncio.StreamWriter, pieces: list[bytes]) -> None:
    """Send each piece by itself: the router has a turn of the event loop after each."""
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@_SOME
@given(sent=st.lists(requests(), min_size=1, max_size=4), where=places)
async def test_the_sandbox_sees_each_of_pipelined_requests_once_whole_and_in_order(
    router: Recorder, sent: list[Sent], where: list[int]
) -> None:
    before = len(router.complete)
    client = await router.client()
    await send_in_pieces(client.writer, cut(router.fill_in(b"".join(one.raw for one in sent)), where))
    for _ in sent:
        head, body = await client.response()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b"ok"
    client.close()
    seen = router.complete[before:]
    assert [head.split(b"\r\n")[0] for head, _ in seen] == [one.line for one in sent]
    for (head, raw), one in zip(seen, sent, strict=True):
        assert (unchunk(raw)[0] if b"\r\nTransfer-Encoding: chunked\r\n" in head else raw) == one.body


@_SOME
@given(
    body=bodies,
    framing=st.sampled_from(["length", "chunked", "until close"]),
    where=places,
    http10=st.booleans(),
)
async def test_a_response_body_arrives_unchanged_in_every_framing_and_every_split(
    router: Recorder, body: bytes, framing: str, where: list[int], http10: bool
) -> None:
    start = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body),
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "until close": b"HTTP/1.1 200 OK\r\n\r\n",
    }[framing]
    raw = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if framing == "chunked" and body else body
    raw = b"0\r\n\r\n" if framing == "chunked" and not body else raw

    async def handle(visit: Visit) -> None:
        await visit.head()
        await send_in_pieces(visit.writer, cut(start + raw, where))
        visit.close()

    box = await router.router.sandbox(handle, "answers")
    client = await router.client()
    ask = request(box, b"Connection: close", name=b"answers")
    await client.send(ask.replace(b"HTTP/1.1", b"HTTP/1.0") if http10 else ask)
    head, _, received = (await client.rest()).partition(b"\r\n\r\n")
    client.close()
    await box.close()
    is_chunked = b"\r\nTransfer-Encoding: chunked" in head
    assert is_chunked == (framing == "chunked" and not http10)
    assert (unchunk(received)[0] if is_chunked else received) == body


_hostile = (
    st.sampled_from(HEADS + CHUNKS).filter(lambda case: len(case.raw) < 2000).map(lambda case: case.raw)
)
_valid = requests().map(lambda one: one.raw)
_damaged = st.tuples(st.one_of(_valid, _hostile), places, st.binary(max_size=3)).map(
    lambda drawn: drawn[2].join(cut(drawn[0], drawn[1][:3]))
)
_shuffled = st.tuples(_valid, places, st.randoms(use_true_random=False)).map(
    lambda drawn: b"".join(drawn[2].sample(pieces := cut(drawn[0], drawn[1]), len(pieces)))
)
_anything = st.lists(
    st.one_of(
        st.binary(max_size=40), _hostile, _valid, _damaged, _shuffled, chunked().map(lambda body: body.raw)
    ),
    min_size=1,
    max_size=3,
).map(b"".join)
_REPLY = re.compile(
    rb"HTTP/1\.1 [2-5][0-9]{2} [A-Za-z -]+\r\n(?:[A-Za-z-]+: [^\r\n]+\r\n)+\r\n(?:ok|\{[^{}]*\})?"
)


@given(data=_anything, where=places)
async def test_whatever_comes_is_answered_or_closed_and_nothing_malformed_passes(
    router: Recorder, data: bytes, where: list[int]
) -> None:
    server = router.router.server
    client = await router.client()
    rest = asyncio.ensure_future(client.reader.read())
    with contextlib.suppress(ConnectionError):  # closed before the end: that is an answer
        await send_in_pieces(client.writer, cut(router.fill_in(data), where))
    async with asyncio.timeout(10):
        while not rest.done():
            # What waits for more is told that its time is over, again and again.
            for connection in list(server.connections):
                connection.tick(math.inf)
            await asyncio.sleep(0.001)
    answer = b"" if rest.exception() else rest.result()
    assert _REPLY.sub(b"", answer) == b""
    assert b" 500 " not in answer
    client.close()
    assert server.pool.statistics()["upstream_active"] == 0
    # A request that was given up may be completed by the sandbox as late as this.
    assert (await router.probe()).count(PROBE) == 1
