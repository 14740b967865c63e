"""Frame boundaries and message sizes of a WebSocket connection (RFC 6455 section 5.2).

A tunnel passes raw bytes. What the router needs to know of them is where a frame ends, since a close frame of
its own may stand nowhere else, and how long a message is. Payloads are not looked at, let alone unmasked.
"""

from __future__ import annotations

from typing import Final

_FIN: Final = 0x80
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_TWO_BYTES: Final = 126
_EIGHT_BYTES: Final = 127
_CLOSE: Final = 8
_FIRST_CONTROL: Final = 8
_MASK_SIZE: Final = 4

GOING_AWAY: Final = 1001
MESSAGE_TOO_BIG: Final = 1009


class FrameMeter:
    """Follows the frames of one direction; a meter for a splice (``wire.framing.Body``).

    Bytes leave as they came, except that the start of a frame header waits for its rest: what has left
    always ends within a payload or at a frame's end. With ``max_message`` the frame that makes a message too
    long does not leave, nor anything after it: ``too_big`` is set, and the direction stands at a boundary.
    """

    __slots__ = ("_held", "_left", "_max_message", "_message", "closed", "done", "excess", "too_big", "total")

    backlog = False

    def __init__(self, max_message: int = 0) -> None:
        """Limit messages to ``max_message`` bytes of payload over their fragments; 0: any length."""
        self._max_message = max_message
        self._held = b""
        self._left = 0  # bytes of the open payload still to come
        self._message = 0
        self.closed = False
        """Set when a close frame has begun to leave: nothing may follow it (RFC 6455 5.5.1)."""
        self.too_big = False
        self.done = False
        self.excess = b""
        self.total = 0

    def __repr__(self) -> str:
        return f"<FrameMeter total={self.total} boundary={self.at_boundary} closed={self.closed}>"

    @property
    def at_boundary(self) -> bool:
        """True where a frame of the router's own may stand."""
        return self._left == 0

    def feed(self, data: bytes) -> bytes:
        """Pass on what is no unfinished frame header."""
        size = len(data)
        if size <= self._left:  # the usual piece of a long frame
            self._left -= size
            self.total += size
            return data
        if self.too_big:
            return b""
        if self._held:
            data = self._held + data
        position = self._left
        self._left = 0
        while position < len(data):
            end = self._header(data, position)
            if end < 0:
                break
            available = len(data) - end
            taken = min(self._left, available)
            self._left -= taken
            position = end + taken
        self._held = data[position:]
        out = data[:position]
        self.total += len(out)
        return out

    def eof(self) -> None:
        """End the direction: at a boundary or not, raw bytes end where they end."""
        self.done = True

    def _header(self, data: bytes, start: int) -> int:
        """Read the header at ``start`` into ``_left``; return its end, or -1 if it must not leave (yet)."""
        if len(data) < start + 2:
            return -1
        first, second = data[start], data[start + 1]
        length = second & _LENGTH
        end = start + 2 + (_MASK_SIZE if second & _MASKED else 0)
        if length == _TWO_BYTES:
            length = int.from_bytes(data[start + 2 : start + 4])
            end += 2
        elif length == _EIGHT_BYTES:
            length = int.from_bytes(data[start + 2 : start + 10])
            end += 8
        if len(data) < end or self._is_too_long(first, length):
            return -1
        self.closed = self.closed or first & _OPCODE == _CLOSE
        self._left = length
        return end

    def _is_too_long(self, first: int, length: int) -> bool:
        """Count a data frame into its message (control frames may stand between fragments)."""
        if first & _OPCODE >= _FIRST_CONTROL:
            return False
        self._message += length
        self.too_big = 0 < self._max_message < self._message
        if first & _FIN:
            self._message = 0
        return self.too_big


def close_frame(code: int, reason: str, mask: bytes = b"") -> bytes:
    """Return a close frame; with ``mask``, four random bytes, a client's (RFC 6455 5.1, 5.3, 5.5.1)."""
    payload = code.to_bytes(2) + reason.encode("utf-8")
    if not mask:
        return bytes([_FIN | _CLOSE, len(payload)]) + payload
    hidden = bytes(byte ^ mask[index % _MASK_SIZE] for index, byte in enumerate(payload))
    return bytes([_FIN | _CLOSE, _MASKED | len(payload)]) + mask + hidden
