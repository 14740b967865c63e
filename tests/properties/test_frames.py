"""Frames in any order and any pieces: what leaves is what came, and boundaries are where frames end."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from fastrouter.wire.websocket import FrameMeter
from tests.properties.strategies import cut, places

SIZES = st.sampled_from([0, 1, 2, 124, 125, 126, 127, 300, 65535, 65536])
CONTROL = st.sampled_from([Opcode.PING, Opcode.PONG, Opcode.CLOSE])
DATA = st.sampled_from([Opcode.CONT, Opcode.TEXT, Opcode.BINARY])


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Draw one frame of any kind; a control frame is short and whole (RFC 6455 5.5)."""
    if draw(st.booleans()):
        return Frame(draw(CONTROL), bytes(draw(st.sampled_from([0, 2, 125]))))
    return Frame(draw(DATA), bytes(draw(SIZES)), draw(st.booleans()))


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Frame], list[bytes]]:
    """Draw frames and how each is written: masked or not."""
    drawn = draw(st.lists(frames(), max_size=6))
    return drawn, [frame.serialize(mask=draw(st.booleans())) for frame in drawn]


@given(streams(), places)
def test_every_byte_leaves_in_its_order(stream: tuple[list[Frame], list[bytes]], at: list[int]) -> None:
    data = b"".join(stream[1])
    meter = FrameMeter()
    assert b"".join(meter.feed(piece) for piece in cut(data, at)) == data
    assert (meter.at_boundary, meter.total) == (True, len(data))
    assert meter.closed is any(frame.opcode is Opcode.CLOSE for frame in stream[0])


@given(streams(), places)
def test_what_has_left_stands_at_a_boundary_exactly_where_a_frame_ends(
    stream: tuple[list[Frame], list[bytes]], at: list[int]
) -> None:
    ends = {0, *accumulate(len(raw) for raw in stream[1])}
    meter = FrameMeter()
    for piece in cut(b"".join(stream[1]), at):
        meter.feed(piece)
        assert meter.at_boundary is (meter.total in ends)


@given(streams(), places, st.sampled_from([1, 126, 300, 65536]))
def test_a_limit_stops_before_the_first_frame_of_too_much_and_for_good(
    stream: tuple[list[Frame], list[bytes]], at: list[int], limit: int
) -> None:
    allowed, message = b"", 0
    too_big = False
    for frame, raw in zip(*stream, strict=True):
        if frame.opcode in {Opcode.CONT, Opcode.TEXT, Opcode.BINARY}:
            message += len(frame.data)
            too_big = too_big or message > limit
            message = 0 if frame.fin else message
        allowed += b"" if too_big else raw
    meter = FrameMeter(limit)
    assert b"".join(meter.feed(piece) for piece in cut(b"".join(stream[1]), at)) == allowed
    assert (meter.too_big, meter.at_boundary) == (too_big, True)
