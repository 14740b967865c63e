"""Frame boundaries and message sizes, compared with the websockets library's frames."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from fastrouter.wire.websocket import GOING_AWAY, MESSAGE_TOO_BIG, FrameMeter, close_frame

SIZES = [0, 1, 125, 126, 127, 65535, 65536]


def frame(opcode: Opcode, size: int, *, fin: bool = True, masked: bool = False) -> bytes:
    return Frame(opcode, bytes(size), fin).serialize(mask=masked)


def in_bytes(meter: FrameMeter, data: bytes) -> bytes:
    return b"".join(meter.feed(data[index : index + 1]) for index in range(len(data)))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [Opcode.CONT, Opcode.TEXT, Opcode.BINARY])
def test_frames_pass_unchanged_and_end_at_a_boundary(opcode: Opcode, size: int, masked: bool) -> None:
    data = frame(opcode, size, masked=masked)
    whole = FrameMeter()
    assert (whole.feed(data), whole.at_boundary, whole.total) == (data, True, len(data))
    twice = FrameMeter()
    assert (twice.feed(data + data[:1]), twice.at_boundary) == (data, True)
    assert twice.feed(data[1:]) == data
    single = FrameMeter()
    assert in_bytes(single, data) == data
    assert single.at_boundary


@pytest.mark.parametrize("size", [1, 126, 65536])
def test_the_boundary_is_the_end_of_the_payload_and_nothing_before(size: int) -> None:
    data = frame(Opcode.BINARY, size, masked=True)
    meter = FrameMeter()
    assert meter.feed(data[:-1]) == data[:-1]
    assert not meter.at_boundary
    assert meter.feed(data[-1:]) == data[-1:]
    assert meter.at_boundary


def test_the_start_of_a_header_waits_for_its_rest() -> None:
    data = frame(Opcode.BINARY, 65536, masked=True)
    meter = FrameMeter()
    for index in range(13):
        assert meter.feed(data[index : index + 1]) == b""
        assert meter.at_boundary
    assert meter.feed(data[13:14]) == data[:14]
    assert not meter.at_boundary


def test_a_close_frame_is_noted() -> None:
    meter = FrameMeter()
    meter.feed(frame(Opcode.TEXT, 3))
    assert not meter.closed
    meter.feed(frame(Opcode.CLOSE, 2))
    assert meter.closed


@pytest.mark.parametrize("feed", [FrameMeter.feed, in_bytes])
def test_a_message_over_the_limit_stops_before_the_frame_that_makes_it_so(feed: object) -> None:
    first = frame(Opcode.BINARY, 60, fin=False) + frame(Opcode.PING, 100)
    assert callable(feed)
    meter = FrameMeter(100)
    assert feed(meter, first + frame(Opcode.CONT, 41)) == first
    assert (meter.too_big, meter.at_boundary) == (True, True)
    assert meter.feed(frame(Opcode.PING, 1)) == b""


def test_messages_are_counted_one_by_one() -> None:
    meter = FrameMeter(100)
    data = (frame(Opcode.BINARY, 60, fin=False) + frame(Opcode.CONT, 40)) * 3 + frame(Opcode.TEXT, 100)
    assert meter.feed(data) == data
    assert not meter.too_big


def test_without_a_limit_any_message_passes() -> None:
    meter = FrameMeter()
    assert meter.feed(b"\x82\x7f" + b"\xff" * 8 + b"x") == b"\x82\x7f" + b"\xff" * 8 + b"x"
    assert not meter.too_big


def test_the_end_of_the_bytes_is_the_end() -> None:
    meter = FrameMeter()
    meter.feed(b"\x82\x05ab")
    meter.eof()
    assert meter.done
    assert repr(meter) == "<FrameMeter total=4 boundary=False closed=False>"


def test_a_close_frame_is_the_librarys() -> None:
    payload = b"\x03\xe9idle timeout exceeded"
    assert close_frame(GOING_AWAY, "idle timeout exceeded") == Frame(Opcode.CLOSE, payload).serialize(
        mask=False
    )
    mask = b"\x01\x02\x03\x04"
    masked = close_frame(MESSAGE_TOO_BIG, "message too big", mask)
    assert masked[:6] == bytes([0x88, 0x80 | 17]) + mask
    plain = bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked[6:]))
    assert plain == b"\x03\xf1message too big"


@pytest.mark.parametrize("size", [0, 125])
@pytest.mark.parametrize("opcode", range(16))
def test_every_opcode_passes_even_those_that_mean_nothing_yet(opcode: int, size: int) -> None:
    data = bytes([0x80 | opcode, size]) + bytes(size)
    for feed in (FrameMeter.feed, in_bytes):
        meter = FrameMeter()
        assert feed(meter, data + data[:1]) == data
        assert (meter.at_boundary, meter.closed) == (True, opcode == 8)
