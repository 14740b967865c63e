"""What the property tests draw: bodies in every framing, the pieces that they arrive in, and valid heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from hypothesis import strategies as st

NAME_BYTES = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

tokens = st.text(NAME_BYTES, min_size=1, max_size=12).map(str.encode)
targets = st.binary(max_size=30).map(lambda raw: b"/" + bytes(33 + byte % 94 for byte in raw))
values = st.binary(max_size=30).map(
    lambda raw: bytes(byte for byte in raw if byte == 9 or 32 <= byte < 127 or byte > 127).strip(b" \t")
)
bodies = st.one_of(st.binary(max_size=60), st.integers(0, 1000).map(lambda size: b"0\r\n\r\n7" * size))


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut ``data`` at ``places`` (taken modulo its length)."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


places = st.lists(st.integers(0, 2**16), max_size=12)


class Chunked(NamedTuple):
    """A chunked body: what it says, and how it is spelled."""

    data: bytes
    raw: bytes
    trailers: list[tuple[bytes, bytes]]


@st.composite
def chunked(draw: st.DrawFn) -> Chunked:
    """Draw a valid chunked body in any spelling: leading zeros, upper case, extensions, trailers."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
    repeat = draw(st.sampled_from([1, 1, 1, 80]))  # 80: more chunks than are read in one go
    spell = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"%016x"]))
    extension = draw(st.sampled_from([b"", b" ", b";a", b';a="\t0;"', b";\xff"]))
    trailers = draw(st.lists(st.tuples(tokens.map(lambda name: b"X-" + name), values), max_size=3))
    raw = b"".join(spell % len(chunk) + extension + b"\r\n" + chunk + b"\r\n" for chunk in chunks) * repeat
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in trailers)
    return Chunked(b"".join(chunks) * repeat, raw + b"0" + extension + b"\r\n" + lines + b"\r\n", trailers)


class Sent(NamedTuple):
    """A valid request, and what of it must reach the sandbox."""

    raw: bytes
    line: bytes
    fields: list[bytes]
    body: bytes


_OURS = (b"content-", b"transfer-", b"connection", b"x-sandbox-", b"x-forwarded-")
_HOPS = frozenset({b"te", b"host", b"upgrade", b"keep-alive", b"authorization", b"expect"})


def _passes(field: tuple[bytes, bytes]) -> bool:
    name = field[0].lower()
    return not (name.startswith((*_OURS, b"proxy-")) or name in _HOPS)


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """Draw a valid request for the sandbox ``box`` with its body in any framing; ``<port>`` is open."""
    method, target = (
        draw(tokens.filter(lambda name: name.upper() not in {b"CONNECT", b"HEAD"})),
        draw(targets),
    )
    fields = draw(st.lists(st.tuples(tokens, values).filter(_passes), max_size=6))
    lines = [name + b": " + value for name, value in fields]
    framing, body = b"", b""
    raw_body = b""
    match draw(st.sampled_from(["none", "length", "chunked"])):
        case "length":
            body = raw_body = draw(bodies)
            framing = b"Content-Length: %d\r\n" % len(body)
        case "chunked":
            drawn = draw(chunked())
            body, raw_body = drawn.data, drawn.raw
            framing = b"Transfer-Encoding: chunked\r\n"
    start = b"Host: router\r\nX-Sandbox-ID: box\r\nX-Sandbox-Port: <port>\r\n" + framing
    head = b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, start, b"".join(line + b"\r\n" for line in lines))
    return Sent(head + raw_body, b"%b %b HTTP/1.1" % (method, target), lines, body)
