"""Strict readers that share nothing with the router's: what a peer by the book makes of the same bytes.

They read whole messages only, as slowly and plainly as they like.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

Pair = tuple[bytes, bytes]
"""A field: its name as written, its value without white space around it."""

END: Final = b"\r\n\r\n"
MAX_CHUNK_LINE: Final = 4096
MAX_TRAILERS: Final = 16 * 1024

_TOKEN: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(;.*)?", re.DOTALL)
_SPACED: Final = re.compile(rb"[0-9A-Fa-f]+[ \t]+;")
_OPEN_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{0,16}|[0-9A-Fa-f]{1,16}[ \t]*(;[^\x00-\x08\x0a-\x1f\x7f]*)?\r?")


class Head(NamedTuple):
    """A head: its first line, and its fields."""

    start: bytes
    fields: list[Pair]

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of ``name`` (lower case)."""
        return [value for found, value in self.fields if found.lower() == name]

    def members(self, name: bytes) -> set[bytes]:
        """Return the members of a list field, lower case."""
        joined = b",".join(self.values(name)).lower()
        return {member.strip(b" \t") for member in joined.split(b",")} - {b""}

    def body_length(self) -> int | None:
        """Return the stated length, -1 for chunked, None where nothing is stated; fail on two answers."""
        codings, lengths = self.values(b"transfer-encoding"), self.values(b"content-length")
        if codings:
            assert codings[0].lower() == b"chunked", codings
            assert (len(codings), lengths) == (1, []), "two framings"
            return -1
        if not lengths:
            return None
        assert len(set(lengths)) == 1, lengths
        assert re.fullmatch(rb"[0-9]{1,19}", lengths[0]), lengths
        return int(lengths[0])


def read_head(raw: bytes) -> Head:
    """Read one whole head; fail on whatever two readers might read in two ways."""
    assert raw.find(END) == len(raw) - len(END), "not one head"
    start, *lines = raw[: -len(END)].split(b"\r\n")
    assert not _CONTROL.search(start), start
    return Head(start, [read_field(line) for line in lines])


def read_field(line: bytes) -> Pair:
    """Read one field line."""
    name, colon, value = line.partition(b":")
    assert colon, line
    assert _TOKEN.fullmatch(name), line
    assert not _CONTROL.search(value), line
    return name, value.strip(b" \t")


class Chunked(NamedTuple):
    """What a chunked body comes to: ``done``, ``open`` (more may come), ``bad``, or ``doubtful``.

    Doubtful: a reader may refuse it now or wait. It cannot end well any more; or its trailers frame a
    message; or white space stands before an extension, which RFC 9112 7.1.1 lets pass and h11 does not.
    """

    state: str
    data: bytes
    trailers: list[Pair]
    excess: bytes


def read_chunked(raw: bytes) -> Chunked:
    """Read a chunked body, and what is behind it (RFC 9112 7.1)."""
    lines: list[bytes] = []
    found = _read_chunked(raw, lines)
    spaced = any(_SPACED.match(line) for line in lines) and found.state in {"done", "open"}
    return found._replace(state="doubtful") if spaced else found


def _read_chunked(raw: bytes, lines: list[bytes]) -> Chunked:
    """Read a body, and put what stands in the places of chunk sizes into ``lines``."""
    data = b""
    at = 0
    while True:
        end = raw.find(b"\r\n", at)
        lines.append(raw[at:end] if end >= 0 else raw[at:])
        if end < 0:
            return _unfinished_line(raw[at:], data)
        size = _SIZE.fullmatch(raw[at:end])
        if size is None or _CONTROL.search(raw[at:end]) or end + 2 - at > MAX_CHUNK_LINE:
            return Chunked("bad", data, [], b"")
        at = end + 2
        length = int(size[1], 16)
        if not length:
            return _trailers(raw[at:], data)
        data += raw[at : at + length]
        at += length
        after = raw[at : at + 2]
        if after != b"\r\n":
            state = "open" if after in {b"", b"\r"} else "bad" if len(after) > 1 else "doubtful"
            return Chunked(state, data, [], b"")
        at += 2


def _unfinished_line(line: bytes, data: bytes) -> Chunked:
    if len(line) >= MAX_CHUNK_LINE:
        return Chunked("bad", data, [], b"")
    return Chunked("open" if _OPEN_SIZE.fullmatch(line) else "doubtful", data, [], b"")


def _trailers(raw: bytes, data: bytes) -> Chunked:
    if raw.startswith(b"\r\n"):
        return Chunked("done", data, [], raw[2:])
    end = raw.find(END)
    if end + len(END) > MAX_TRAILERS or (end < 0 and len(raw) >= MAX_TRAILERS):
        return Chunked("bad", data, [], b"")
    if end < 0:
        return Chunked("doubtful" if re.search(rb"(?<!\r)\n", raw) else "open", data, [], b"")
    try:
        trailers = [read_field(line) for line in raw[:end].split(b"\r\n")]
    except AssertionError:
        return Chunked("bad", data, [], b"")
    framing = {b"content-length", b"transfer-encoding", b"host"}
    doubtful = any(name.lower() in framing for name, _ in trailers)
    return Chunked("doubtful" if doubtful else "done", data, trailers, raw[end + len(END) :])


class Frame(NamedTuple):
    """One WebSocket frame by its places in the stream; the last one may reach beyond it."""

    start: int
    payload: int
    end: int
    opcode: int
    final: bool


def read_frames(raw: bytes) -> list[Frame]:
    """Read the frames of a stream whose headers have come whole (RFC 6455 5.2)."""
    frames: list[Frame] = []
    at = 0
    while at + 2 <= len(raw):
        length = raw[at + 1] & 127
        extended = {126: 2, 127: 8}.get(length, 0)
        payload = at + 2 + extended + (4 if raw[at + 1] & 128 else 0)
        if payload > len(raw):
            break
        if extended:
            length = int.from_bytes(raw[at + 2 : at + 2 + extended], "big")
        frames.append(Frame(at, payload, payload + length, raw[at] & 15, bool(raw[at] & 128)))
        at = payload + length
    return frames
