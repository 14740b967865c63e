"""However a chunked body is cut, it has the meaning that a strict reader sees, and leaves canonical."""

from __future__ import annotations

import re
from typing import Final

from fastrouter.errors import MalformedMessageError, TruncatedMessageError
from fastrouter.policy import rewrite
from fastrouter.wire.fields import Fields
from fastrouter.wire.framing import ChunkedBody
from tests.fuzz import inputs
from tests.fuzz.oracles import Chunked, read_chunked

# What a receiver that merges trailers into the head must never find there.
_NEVER_A_TRAILER: Final = frozenset(
    b"""authorization connection content-encoding content-length content-range content-type cookie host
    set-cookie trailer transfer-encoding upgrade x-forwarded-for x-forwarded-host x-forwarded-proto
    x-sandbox-id x-sandbox-namespace x-sandbox-port x-sandbox-pod-ip x-sandbox-timeout""".split()
)

_STOPS: Final = _NEVER_A_TRAILER | frozenset(
    b"""http2-settings keep-alive proxy-authenticate proxy-authorization proxy-connection te""".split()
)


def check(data: bytes) -> None:
    """Feed a body in three ways, framed anew and bare."""
    drawn = inputs.read(data)
    expected = read_chunked(drawn.data)
    for pieces in drawn.cuts():
        framed = Fed(pieces, reframe=True)
        bare = Fed(pieces, reframe=False)
        assert (framed.state, framed.excess, framed.body.total) == (bare.state, bare.excess, bare.body.total)
        bare.has_meaning(expected)
        framed.is_canonical(bare.left, expected)
        assert bare.body.total == len(bare.left)
    filtered = Fed([drawn.data], reframe=True, filtered=True)
    if filtered.state == "done":
        trailers = read_chunked(filtered.left).trailers
        assert not _NEVER_A_TRAILER & {name.lower() for name, _ in trailers}
        assert trailers == [one for one in expected.trailers if one[0].lower() not in _STOPS]


class Fed:
    """A meter that was fed as a pipe feeds it, and what came of it."""

    def __init__(self, pieces: list[bytes], *, reframe: bool, filtered: bool = False) -> None:
        self.body = ChunkedBody(rewrite.trailers if filtered else _untouched, reframe=reframe)
        self.left = b""
        self.excess = b""
        self.state = "open"
        for number, piece in enumerate(pieces):
            if not self._feed(piece):
                return
            if self.body.done:
                self.state = "done"
                self.excess = self.body.excess + b"".join(pieces[number + 1 :])
                return
        self._ends_truncated()

    def _feed(self, piece: bytes) -> bool:
        try:
            self.left += self.body.feed(piece)
            while self.body.backlog:
                before = self.body.total
                self.left += self.body.feed(b"")
                assert self.body.total > before or self.body.done or not self.body.backlog, "no progress"
        except MalformedMessageError:
            self.state = "bad"
            assert not self.body.done
            return False
        return True

    def _ends_truncated(self) -> None:
        try:
            self.body.eof()
        except TruncatedMessageError:
            return
        raise AssertionError("an end before the last chunk was taken for a clean one")

    def has_meaning(self, expected: Chunked) -> None:
        """Compare a bare body with what a strict reader reads."""
        if self.state == "bad":
            assert expected.state in {"bad", "doubtful"}, expected
            assert expected.data.startswith(self.left)  # nothing that was never there
            return
        assert expected.state in {self.state, "doubtful"}, (self.state, expected)
        assert self.left == expected.data
        assert self.state != "done" or self.excess == expected.excess

    def is_canonical(self, data: bytes, expected: Chunked) -> None:
        """Read what left again: whole chunks of the same data in their plainest spelling, and the end."""
        again = read_chunked(self.left)
        assert again.data == data
        if self.state == "done":
            assert again.state == expected.state
            assert (again.trailers, again.excess) == (expected.trailers, b"")
        else:
            assert again.state == "open"
            assert not self.left or self.left.endswith(b"\r\n")
        at = 0
        while at < len(self.left):
            line = self.left[at:].partition(b"\r\n")[0]
            assert re.fullmatch(rb"0|[1-9a-f][0-9a-f]*", line), line
            if line == b"0":
                break
            at += len(line) + 2 + int(line, 16) + 2


def _untouched(fields: Fields) -> Fields:
    return fields
