"""Any split of a WebSocket stream leaves the same bytes and the same decisions, at the places by the book."""

from __future__ import annotations

from itertools import takewhile
from typing import Final, NamedTuple

from fastrouter.wire.websocket import FrameMeter, close_frame
from tests.fuzz import inputs
from tests.fuzz.oracles import Frame, read_frames

_CLOSE: Final = 8
_LIMITS: Final = (0, 1, 5, 100, 126, 4096, 65536, 2**40)


class State(NamedTuple):
    """What a meter has decided."""

    total: int
    at_boundary: bool
    closed: bool
    too_big: bool


def check(data: bytes) -> None:
    """Compare the meter with frames that were read whole; the options choose a limit of messages."""
    drawn = inputs.read(data)
    limit = _LIMITS[drawn.options]
    frames = read_frames(drawn.data)
    too_big = too_big_at(frames, limit)
    for pieces in drawn.cuts():
        meter = FrameMeter(limit)
        came, left = 0, b""
        for piece in pieces:
            left += meter.feed(piece)
            came += len(piece)
            state = State(meter.total, meter.at_boundary, meter.closed, meter.too_big)
            assert state == expected(frames, too_big, came), (state, came)
            assert left == drawn.data[: meter.total]
        assert (meter.done, meter.excess) == (False, b"")
        if meter.at_boundary:
            last_words_fit(left, meter.closed)


def too_big_at(frames: list[Frame], limit: int) -> Frame | None:
    """Return the first frame that makes a message longer than ``limit``."""
    message = 0
    for frame in frames:
        if frame.opcode >= _CLOSE:
            continue
        message += frame.end - frame.payload
        if 0 < limit < message:
            return frame
        if frame.final:
            message = 0
    return None


def expected(frames: list[Frame], too_big: Frame | None, came: int) -> State:
    """Return what has to be decided when ``came`` bytes have come, however they came."""
    begun = list(takewhile(lambda frame: frame.payload <= came, frames))
    stopped = too_big is not None and too_big in begun
    if stopped and too_big is not None:
        begun = begun[: begun.index(too_big)]
    closed = any(frame.opcode == _CLOSE for frame in begun)
    end = begun[-1].end if begun else 0
    return State(min(end, came), end <= came, closed, stopped)


def last_words_fit(left: bytes, closed: bool) -> None:
    """A close frame of the router's own stands at a frame's start, and is whole."""
    if closed:
        return
    for mask in (b"", b"mask"):
        written = left + close_frame(1009, "message too big", mask)
        last = read_frames(written)[-1]
        assert (last.start, last.end, last.opcode) == (len(left), len(written), _CLOSE)
