"""Bytes out are bytes in, whatever the body, its framing and the pieces that it comes in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastrouter.errors import MalformedMessageError
from fastrouter.policy import rewrite
from fastrouter.wire.fields import Fields
from fastrouter.wire.framing import Body, ChunkedBody, LengthBody, UntilCloseBody
from tests.properties.strategies import Chunked, bodies, chunked, cut, places
from tests.support import unchunk


def untouched(fields: Fields) -> Fields:
    return fields


def pump(body: Body, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """Feed a meter as a pipe does; return what it sent on, and what it gave back."""
    out = rest = b""
    for piece in pieces:
        if body.done:
            rest += piece
            continue
        out += body.feed(piece)
        while body.backlog:
            out += body.feed(b"")
    return out, body.excess + rest


@given(bodies, st.binary(max_size=20), places)
def test_a_length_body_passes_unchanged_and_gives_back_what_is_behind_it(
    data: bytes, behind: bytes, where: list[int]
) -> None:
    body = LengthBody(len(data))
    assert pump(body, cut(data + behind, where)) == (data, behind)
    assert body.done
    assert body.total == len(data)


@given(bodies, places)
def test_a_body_until_close_passes_unchanged(data: bytes, where: list[int]) -> None:
    body = UntilCloseBody()
    assert pump(body, cut(data, where)) == (data, b"")
    assert not body.done
    body.eof()
    assert body.done


@given(chunked(), st.binary(max_size=20), places)
def test_a_chunked_body_keeps_its_data_and_trailers_and_gives_back_what_is_behind_it(
    sent: Chunked, behind: bytes, where: list[int]
) -> None:
    body = ChunkedBody(untouched)
    out, rest = pump(body, cut(sent.raw + behind, where))
    data, trailers = unchunk(out)
    assert data == sent.data
    assert trailers == b"".join(name + b": " + value + b"\r\n" for name, value in sent.trailers)
    assert rest == behind
    assert body.done
    assert body.total == len(sent.data)


@given(chunked(), st.binary(max_size=20), places)
def test_a_chunked_body_without_its_framing_is_its_data(
    sent: Chunked, behind: bytes, where: list[int]
) -> None:
    assert pump(ChunkedBody(untouched, reframe=False), cut(sent.raw + behind, where)) == (sent.data, behind)


@given(chunked(), places)
def test_what_leaves_a_chunked_meter_is_a_chunked_body_again(sent: Chunked, where: list[int]) -> None:
    once, _ = pump(ChunkedBody(rewrite.trailers), cut(sent.raw, where))
    twice, _ = pump(ChunkedBody(rewrite.trailers), [once])
    assert unchunk(twice) == unchunk(once)


@given(chunked(), st.integers(0, 2**16))
def test_a_chunked_body_that_ends_early_is_never_done(sent: Chunked, where: int) -> None:
    body = ChunkedBody(untouched)
    pump(body, [sent.raw[: where % len(sent.raw)]])
    assert not body.done


# Bytes that matter to a parser of chunks, so that arbitrary input gets past its first line.
noise = st.lists(
    st.sampled_from(
        [b"0", b"1", b"a", b"F", b"\r\n", b"\r\n\r\n", b"\r", b"\n", b" ", b";", b":", b"X: y", b"-", b"\x00"]
    ),
    max_size=24,
).map(b"".join)


def fate(data: bytes, where: list[int]) -> tuple[str, bytes, bytes]:
    """Tell what a meter makes of ``data`` that comes in pieces: how it ends, its data, and the excess."""
    body = ChunkedBody(untouched, reframe=False)
    out = b""
    pieces = cut(data, where)
    for number, piece in enumerate(pieces):
        try:
            out += body.feed(piece)
            while body.backlog:
                out += body.feed(b"")
        except MalformedMessageError:
            return "malformed", b"", b""
        if body.done:
            return "done", out, body.excess + b"".join(pieces[number + 1 :])
    return "open", out, b""


@given(noise, places)
def test_no_split_changes_what_a_chunked_body_means(data: bytes, where: list[int]) -> None:
    assert fate(data, where) == fate(data, []) == fate(data, list(range(len(data))))
