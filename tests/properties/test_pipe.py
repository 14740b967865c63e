"""A pipe between connections whose transports only take notes: every order of bytes, turns and the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrouter.errors import MalformedMessageError
from fastrouter.net.connection import Connection
from fastrouter.net.outbox import Outbox
from fastrouter.net.splice import Pipe
from fastrouter.wire.fields import Fields
from fastrouter.wire.framing import Body, ChunkedBody, LengthBody, UntilCloseBody
from tests.properties.strategies import cut, places

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Notes(asyncio.Transport):
    """Takes what is written; refuses what a transport refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True


def untouched(fields: Fields) -> Fields:
    return fields


def body_of(kind: str, size: int) -> tuple[Body, bytes]:
    """Return a meter, and the bytes of a body of ``size`` bytes that it is for."""
    if kind == "length":
        return LengthBody(size), b"x" * size
    if kind == "until close":
        return UntilCloseBody(), b"x" * size
    return ChunkedBody(untouched, reframe=False), b"1\r\nx\r\n" * size + b"0\r\n\r\n"


@given(
    kind=st.sampled_from(["length", "chunked", "until close"]),
    size=st.integers(1, 1500),
    where=places,
    steps=st.lists(st.sampled_from(["turn", "pause", "resume"]), max_size=12),
    missing=st.integers(0, 3),
)
async def test_a_body_goes_through_whole_or_is_told_to_be_short(
    kind: str, size: int, where: list[int], steps: list[str], missing: int
) -> None:
    loop, outbox = asyncio.get_running_loop(), Outbox()
    source, sink = Connection(loop, outbox), Connection(loop, outbox)
    taps = Notes(), Notes()
    source.connection_made(taps[0])
    sink.connection_made(taps[1])
    body, raw = body_of(kind, size)
    ends: list[str] = []
    errors: list[MalformedMessageError] = []
    pipe = Pipe(source, sink, body, lambda: ends.append("end"), errors.append)
    pipe.attach()
    sent = raw[: max(0, len(raw) - missing)]
    todo = list(steps)
    for piece in cut(sent, where):
        while not taps[0].reading and source.pipe is pipe:
            # Nothing comes on a paused connection: what paused it has to resume it.
            if sink.writing_paused:
                sink.resume_writing()
            await asyncio.sleep(0)
        source.data_received(piece)
        match todo.pop() if todo else "":
            case "turn":
                await asyncio.sleep(0)
            case "pause" if not sink.writing_paused:
                sink.pause_writing()
            case "resume" if sink.writing_paused:
                sink.resume_writing()
    if source.pipe is pipe:
        pipe.eof()  # in the same turn as the last piece: what is still to be read comes first
    for _ in range(10):
        await asyncio.sleep(0)
    whole = not missing or kind == "until close"
    assert (ends, len(errors)) == ((["end"], 0) if whole else ([], 1))
    assert taps[1].written == (b"x" * size if kind == "chunked" else sent)
    assert (source.pipe, sink.source) == (None, None)
