"""`wire.websocket`: frames that pass through a tunnel."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.samples import expect
from fastrouter.wire.websocket import FrameMeter, close_frame

pytestmark = pytest.mark.benchmark(group="wire.websocket")

LIMIT = 16 * 1024 * 1024
MASK = b"\x01\x02\x03\x04"
SMALL = b"\x82\xfe\x00\x80" + MASK + bytes(128)  # a client's: masked, two bytes of length
HUGE = b"\x82\x7f" + (2**62).to_bytes(8)


def bench_one_small_frame(benchmark: BenchmarkFixture) -> None:
    """128 bytes in a piece of their own."""
    expect(benchmark(FrameMeter(LIMIT).feed, SMALL), SMALL)


def bench_64_small_frames(benchmark: BenchmarkFixture) -> None:
    """Frames that arrive together."""
    data = SMALL * 64
    expect(benchmark(FrameMeter(LIMIT).feed, data), data)


def bench_piece_of_a_long_frame(benchmark: BenchmarkFixture) -> None:
    """64 KB of a payload that has no end; they must not be copied."""
    meter = FrameMeter()
    meter.feed(HUGE)
    piece = bytes(64 * 1024)
    expect(benchmark(meter.feed, piece) is piece, True)


def bench_close_frame(benchmark: BenchmarkFixture) -> None:
    """The router's own, masked as for a sandbox."""
    expect(len(benchmark(close_frame, 1001, "idle timeout exceeded", MASK)), 29)
