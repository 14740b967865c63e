"""Where an answer ends: by length or by chunks, and nothing else.

A load generator that guesses would count half an answer as one, so what is malformed is a ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

HEAD_END: Final = b"\r\n\r\n"
CRLF: Final = b"\r\n"
LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.IGNORECASE)
# The line end before it belongs to it: that of the chunk before, or the last one of the head.
SIZE_LINE: Final = re.compile(rb"\r\n([0-9a-fA-F]{1,16})(?:;[^\r\n]*)?\r\n")
LONGEST_LINE: Final = 1024


class Chunks:
    """Reads a chunked body in pieces of any size; `take`, if given, gets the payload."""

    def __init__(self, take: Callable[[bytes], None] | None = None) -> None:
        self.payload = 0
        self._take = take
        self._owed = 0
        self._rest = b""

    def feed(self, data: bytes) -> bool:
        """Read on; True once the body has ended. The first piece starts with the last CRLF of the head."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        position = self._pass_on(data, 0)
        while position < len(data):
            found = SIZE_LINE.match(data, position)
            if found is None:
                self._keep(data[position:])
                return False
            size = int(found[1], 16)
            if not size:
                return self._ended(data, position, found.end() - len(CRLF))
            self.payload += size
            self._owed = size
            position = self._pass_on(data, found.end())
        return False

    def _pass_on(self, data: bytes, start: int) -> int:
        size = min(self._owed, len(data) - start)
        self._owed -= size
        if size and self._take is not None:
            self._take(data[start : start + size])
        return start + size

    def _keep(self, rest: bytes) -> None:
        if rest[:2] not in (CRLF, b"\r") or CRLF in rest[2:] or len(rest) > LONGEST_LINE:
            msg = f"no chunk size: {rest[:40]!r}"
            raise ValueError(msg)
        self._rest = rest

    def _ended(self, data: bytes, start: int, last_line_end: int) -> bool:
        # Trailers may stand between the last size and the empty line.
        end = data.find(HEAD_END, last_line_end) + len(HEAD_END)
        if end < len(HEAD_END):
            self._rest = data[start:]
            return False
        if end < len(data):
            msg = "bytes after the last chunk"
            raise ValueError(msg)
        return True


def whole(data: bytes) -> bool:
    """Tell whether an answer is all there. For small ones: it starts anew whenever it is asked."""
    end = data.find(HEAD_END) + len(HEAD_END)
    if end < len(HEAD_END):
        return False
    if found := LENGTH.search(data, 0, end):
        owed = end + int(found[1]) - len(data)
        if owed < 0:
            msg = "more than one answer"
            raise ValueError(msg)
        return not owed
    if not CHUNKED.search(data, 0, end):
        msg = "an answer without a length"
        raise ValueError(msg)
    return Chunks().feed(data[end - len(CRLF) :])
