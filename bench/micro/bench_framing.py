"""`wire.framing`: bodies followed piece by piece, without end."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.samples import expect
from fastrouter.policy import rewrite
from fastrouter.wire.framing import CHUNKED, Framing, Kind, LengthBody, UntilCloseBody, body_for

pytestmark = pytest.mark.benchmark(group="wire.framing")

PIECE = bytes(64 * 1024)
ENDLESS = 2**62
SHORT = b'{"stdout": "hello\\n", "stderr": "", "exit_code": 0}'


def chunks(count: int, size: int) -> bytes:
    """Return chunks as they may arrive in one read."""
    return b"%x\r\n%b\r\n" % (size, bytes(size)) * count


def bench_length_body_short(benchmark: BenchmarkFixture) -> None:
    """A whole body in one piece, its meter included: the usual answer."""

    def whole() -> bool:
        body = LengthBody(len(SHORT))
        body.feed(SHORT)
        return body.done

    expect(benchmark(whole), True)


def bench_length_body_64k(benchmark: BenchmarkFixture) -> None:
    """A piece of a long body; it must not be copied."""
    body = body_for(Framing(Kind.LENGTH, ENDLESS), rewrite.trailers)
    expect(benchmark(body.feed, PIECE) is PIECE, True)


def bench_until_close_body_64k(benchmark: BenchmarkFixture) -> None:
    """A piece of a body that ends with its connection."""
    expect(benchmark(UntilCloseBody().feed, PIECE) is PIECE, True)


@pytest.mark.parametrize(
    ("count", "size"), [(1, 64), (1, 64 * 1024), (64, 64)], ids=["1 of 64", "1 of 65536", "64 of 64"]
)
def bench_chunked_body(benchmark: BenchmarkFixture, count: int, size: int) -> None:
    """Chunks in one piece leave as one chunk."""
    body = body_for(CHUNKED, rewrite.trailers)
    expect(benchmark(body.feed, chunks(count, size)), chunks(1, count * size))


def bench_chunked_body_whole(benchmark: BenchmarkFixture) -> None:
    """A short chunked body from its first chunk to its last, its meter included."""
    data = chunks(1, 64) + b"0\r\n\r\n"

    def whole() -> bytes:
        return body_for(CHUNKED, rewrite.trailers).feed(data)

    expect(benchmark(whole), data)
