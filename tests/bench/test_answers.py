"""Where answers end."""

from __future__ import annotations

import pytest

from bench.answers import Chunks, whole

BODY = b"\r\n3\r\nabc\r\n0A;name=value\r\n0123456789\r\n0\r\n\r\n"
TRAILED = b"\r\n3\r\nabc\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "payload"), [(BODY, b"abc0123456789"), (TRAILED, b"abc"), (b"\r\n0\r\n\r\n", b"")]
)
def test_chunks_are_read_wherever_the_pieces_are_cut(body: bytes, payload: bytes) -> None:
    for size in range(1, len(body) + 1):
        pieces: list[bytes] = []
        chunks = Chunks(pieces.append)
        ends = [chunks.feed(body[start : start + size]) for start in range(0, len(body), size)]
        assert ends == [False] * (len(ends) - 1) + [True]
        assert b"".join(pieces) == payload
        assert chunks.payload == len(payload)


@pytest.mark.parametrize(
    "body",
    [
        b"\r\nx\r\n",
        b"\r\n-1\r\n",
        b"\r\n0x1\r\na",
        b"\r\n\r\n",
        b"\r\n1\r\nab\r\n0\r\n\r\n",
        b"\r\n12345678901234567\r\n",
        b"\r\n" + b"0" * 2000,
        b"\r\n0\r\n\r\nHTTP/1.1 200 OK",
    ],
)
def test_malformed_chunks_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"chunk"):
        Chunks().feed(body)


def test_small_answers_are_whole_at_their_last_byte() -> None:
    for head, body in (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"12345"),
        (b"HTTP/1.1 204 No Content\r\ncontent-length:0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", BODY[2:]),
    ):
        answer = head + body
        assert [whole(answer[:end]) for end in range(len(answer) + 1)] == [False] * len(answer) + [True]


def test_answers_without_an_end_or_with_more_behind_it_are_refused() -> None:
    with pytest.raises(ValueError, match="without a length"):
        whole(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    with pytest.raises(ValueError, match="more than one"):
        whole(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab")
