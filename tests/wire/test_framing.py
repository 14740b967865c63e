"""Meters: where a body ends, what leaves of it, and what came behind it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrouter.errors import BAD_REQUEST, MalformedMessageError, TruncatedMessageError
from fastrouter.wire.fields import Fields
from fastrouter.wire.framing import (
    CHUNKED,
    NONE,
    UNTIL_CLOSE,
    Body,
    ChunkedBody,
    Framing,
    Kind,
    LengthBody,
    UntilCloseBody,
    body_for,
)
from tests.wire.ways import Way, byte_by_byte, each_way


def all_trailers(fields: Fields) -> Fields:
    return fields


def run(body: Body, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """Feed ``pieces``; return what leaves and what came behind the body."""
    out = behind = b""
    for piece in pieces:
        if body.done:
            behind += piece
            continue
        out += body.feed(piece)
        while body.backlog:
            out += body.feed(b"")
    return out, body.excess + behind


def dechunk(wire: bytes) -> tuple[bytes, bytes]:
    """Return data and trailer lines of exact chunks, as this router writes them."""
    data = b""
    while True:
        match = re.match(rb"([1-9a-f][0-9a-f]*|0)\r\n", wire)
        assert match
        size, wire = int(match[1], 16), wire[match.end() :]
        if not size:
            assert wire.endswith(b"\r\n")
            return data, wire[:-2]
        assert wire[size : size + 2] == b"\r\n"
        data, wire = data + wire[:size], wire[size + 2 :]


class TestLength:
    @each_way
    @pytest.mark.parametrize("data", [b"x", b"\r\n", b"hello", bytes(range(256))])
    def test_exactly_its_bytes_leave(self, way: Way, data: bytes) -> None:
        body = LengthBody(len(data))
        pieces, rest = way(data)
        assert run(body, pieces) == (data, rest)
        assert body.done
        assert body.total == len(data)
        body.eof()

    def test_a_body_of_length_0_is_done_before_it_begins(self) -> None:
        body = LengthBody(0)
        assert body.done
        body.eof()
        assert body.feed(b"next") == b""
        assert (body.excess, body.total) == (b"next", 0)

    @pytest.mark.parametrize(("size", "done", "excess"), [(4, False, b""), (5, True, b""), (6, True, b"5")])
    def test_the_last_byte_ends_it_and_no_other(self, size: int, done: bool, excess: bytes) -> None:
        body = LengthBody(5)
        body.feed(b"012345"[:size])
        assert (body.done, body.excess, body.remaining) == (done, excess, max(0, 5 - size))

    def test_a_piece_that_ends_with_the_body_is_not_copied(self) -> None:
        data = b"x" * 1000
        assert LengthBody(1000).feed(data) is data

    def test_an_end_before_its_last_byte_is_truncation(self) -> None:
        body = LengthBody(5)
        body.feed(b"four")
        with pytest.raises(TruncatedMessageError, match="closed 1 bytes before the end"):
            body.eof()


class TestUntilClose:
    @each_way
    def test_everything_leaves_until_the_close(self, way: Way) -> None:
        pieces, rest = way(b"hello")
        body = UntilCloseBody()
        assert run(body, pieces) == (b"hello" + rest, b"")
        assert not body.done
        assert body.total == len(b"hello" + rest)
        body.eof()
        assert body.done


BIG = b"%x\r\n%b\r\n0\r\n\r\n" % (70000, b"x" * 70000)


class TestChunked:
    @each_way
    @pytest.mark.parametrize(
        ("raw", "data", "trailers"),
        [
            (b"0\r\n\r\n", b"", b""),
            (b"000\r\n\r\n", b"", b""),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
            (b"2\r\n\r\n\r\n1\r\n\n\r\n0\r\n\r\n", b"\r\n\n", b""),
            (b"a\r\n0123456789\r\nB\r\n0123456789A\r\n0\r\n\r\n", b"01234567890123456789A", b""),
            (b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello", b""),
            (b'5;name="a\\"b";x\r\nhello\r\n0;last\r\n\r\n', b"hello", b""),
            (b"5;x=\xe9 \t\r\nhello\r\n0 \t\r\n\r\n", b"hello", b""),
            (b"0\r\nX-Sum: 1\r\n\r\n", b"", b"X-Sum: 1\r\n"),
            (b"1\r\nx\r\n0\r\na:1\r\nA: 2 \r\n\r\n", b"x", b"a: 1\r\nA: 2\r\n"),
            (BIG, b"x" * 70000, b""),
        ],
    )
    def test_data_and_trailers_stay_and_extensions_go(
        self, way: Way, raw: bytes, data: bytes, trailers: bytes
    ) -> None:
        if way is byte_by_byte and raw is BIG:
            raw = b"400\r\n%b\r\n0\r\n\r\n" % (b"x" * 1024)
            data = b"x" * 1024
        body = ChunkedBody(all_trailers)
        pieces, rest = way(raw)
        out, behind = run(body, pieces)
        assert body.done
        assert dechunk(out) == (data, trailers)
        assert behind == rest
        assert body.total == len(data)
        body.eof()

    @each_way
    def test_the_bare_data_leaves_without_reframing(self, way: Way) -> None:
        body = ChunkedBody(all_trailers, reframe=False)
        pieces, rest = way(b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n")
        assert run(body, pieces) == (b"abcde", rest)
        assert (body.done, body.total) == (True, 5)

    def test_the_chunks_of_one_piece_leave_as_one(self) -> None:
        body = ChunkedBody(all_trailers)
        assert body.feed(b"3;x\r\nabc\r\n02\r\nde\r\n4\r\nfg") == b"7\r\nabcdefg\r\n"
        assert body.feed(b"hi\r\n0\r\n\r\n") == b"2\r\nhi\r\n0\r\n\r\n"

    @each_way
    @pytest.mark.parametrize(
        "raw",
        [
            b"\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5 5\r\nhello\r\n0\r\n\r\n",
            b"5_0\r\nhello\r\n0\r\n\r\n",
            b"g\r\nhello\r\n0\r\n\r\n",
            b"00000000000000005\r\nhello\r\n0\r\n\r\n",
            b"FFFFFFFFFFFFFFFFFFFF\r\nhello\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\rhello\r\n0\r\n\r\n",
            b"5;\x00\r\nhello\r\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n0\r\n\r\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhelloXX0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello\r\n\r\n0\r\n\r\n",
            b"5;" + b"x" * 5000,
            b"5;" + b"x" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
            b"0\r\na b: c\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\nA : b\r\n\r\n",
            b"0\r\nA: b\r\n fold\r\n\r\n",
            b"0\r\nA: b\nB: c\r\n\r\n",
            b"0\r\nA: b\n\n",
            b"0\r\nA: \x00\r\n\r\n",
            b"0\r\nA: " + b"x" * 17000 + b"\r\n\r\n",
            b"0\r\nA: " + b"x" * 17000,
        ],
        ids=lambda raw: repr(raw[:24]),
    )
    def test_whatever_two_parsers_may_read_differently_is_refused(self, way: Way, raw: bytes) -> None:
        with pytest.raises(MalformedMessageError) as caught:
            run(ChunkedBody(all_trailers), way(raw)[0])
        assert caught.value.cause is BAD_REQUEST

    def test_a_trailer_that_only_h11_refuses_is_refused(self) -> None:
        with pytest.raises(MalformedMessageError, match="chunked body"):
            ChunkedBody(all_trailers).feed(b"0\r\nContent-Length: x\r\n\r\n")

    @pytest.mark.parametrize(
        "raw", [b"", b"5", b"5\r\nhel", b"5\r\nhello", b"5\r\nhello\r\n0\r\n", b"0\r\nA: b\r\n"]
    )
    def test_an_end_before_the_last_chunk_is_truncation(self, raw: bytes) -> None:
        body = ChunkedBody(all_trailers)
        body.feed(raw)
        assert not body.done
        with pytest.raises(TruncatedMessageError):
            body.eof()

    def test_a_chunk_line_and_trailers_up_to_the_limits_are_taken(self) -> None:
        line = b"5;" + b"x" * (4096 - 4) + b"\r\n"
        section = b"A: " + b"x" * (16 * 1024 - 7) + b"\r\n\r\n"
        body = ChunkedBody(all_trailers)
        assert body.feed(line + b"hello\r\n0\r\n" + section) == b"5\r\nhello\r\n0\r\n" + section

    @pytest.mark.parametrize("behind", [b"", b"next"])
    def test_a_feed_stops_after_many_chunks_and_asks_for_another(self, behind: bytes) -> None:
        body = ChunkedBody(all_trailers)
        out = [body.feed(b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n" + behind)]
        while body.backlog:
            assert not body.done
            out.append(body.feed(b""))
        assert len(out) == 4  # 256 lines each
        assert out[0] == b"100\r\n%b\r\n" % (b"x" * 256)
        assert dechunk(b"".join(out)) == (b"x" * 1000, b"")
        assert (body.done, body.excess) == (True, behind)

    def test_what_arrives_during_a_backlog_keeps_its_place(self) -> None:
        body = ChunkedBody(all_trailers, reframe=False)
        out = body.feed(b"1\r\na\r\n" * 300)
        assert body.backlog
        out += body.feed(b"1\r\nb\r\n0\r\n\r\n")
        assert (out, body.done) == (b"a" * 300 + b"b", True)

    def test_trailers_pass_through_the_rewrite(self) -> None:
        seen: list[Fields] = []

        def only_b(fields: Fields) -> Fields:
            seen.append(fields)
            return fields[1:]

        assert ChunkedBody(only_b).feed(b"0\r\nA: 1\r\nB: \x802\r\n\r\n") == b"0\r\nB: \x802\r\n\r\n"
        assert seen == [((b"a", b"A", b"1"), (b"b", b"B", b"\x802"))]

    @given(
        st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(0, 500), max_size=8)
    )
    def test_any_split_of_any_body_gives_its_bytes(self, chunks: list[bytes], cuts: list[int]) -> None:
        raw = b"".join(b"%X;ext\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nT: x\r\n\r\n"
        edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
        pieces = [raw[start:stop] for start, stop in pairwise(edges)]
        body = ChunkedBody(all_trailers)
        out, behind = run(body, [piece for piece in pieces if piece])
        assert dechunk(out) == (b"".join(chunks), b"T: x\r\n")
        assert (body.done, behind) == (True, b"")


@pytest.mark.parametrize(
    ("framing", "meter", "done"),
    [
        (NONE, LengthBody, True),
        (Framing(Kind.LENGTH, 0), LengthBody, True),
        (Framing(Kind.LENGTH, 7), LengthBody, False),
        (CHUNKED, ChunkedBody, False),
        (UNTIL_CLOSE, UntilCloseBody, False),
    ],
)
def test_each_framing_has_its_meter(framing: Framing, meter: type, done: bool) -> None:
    body = body_for(framing, all_trailers)
    assert type(body) is meter
    assert (body.done, body.total, body.excess, body.backlog) == (done, 0, b"", False)


def test_only_chunked_bodies_are_told_about_reframing() -> None:
    body = body_for(CHUNKED, all_trailers, reframe=False)
    assert body.feed(b"1\r\nx\r\n") == b"x"
