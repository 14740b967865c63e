"""From the bytes of a fuzzer to what a target needs: options, data, and the pieces that it comes in.

An input is four bytes that are easy to type, then the data: so the corpus can be read and written by hand.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_START: Final = 4
# `~` may stand in a target, a value, an extension and a payload: limits of 4, 16 and 64 KiB can be reached by
# an input of a few bytes, which a fuzzer still changes in a useful way.
_STRETCHED: Final = b"~" * 1500
_MAX_STRETCHES: Final = 50
# Data longer than this comes in pieces as many times longer: an input takes milliseconds, whatever is in it.
_LONG: Final = 512
_SIZES: Final = (*range(1, 32), 1 << 20)


class Input(NamedTuple):
    """One input: ``options`` 0 to 7, and the data with the sizes of its pieces."""

    options: int
    sizes: tuple[int, ...]
    data: bytes

    def cuts(self) -> list[list[bytes]]:
        """Return the three ways in which the data arrives: whole, byte by byte, and in its pieces."""
        return [[self.data], self._pieces((1,)), self.pieces()]

    def pieces(self) -> list[bytes]:
        """Return the data in pieces of the drawn sizes, in turn."""
        return self._pieces(self.sizes)

    def _pieces(self, sizes: tuple[int, ...]) -> list[bytes]:
        found: list[bytes] = []
        scale = 1 + len(self.data) // _LONG
        at = 0
        while at < len(self.data):
            size = sizes[len(found) % len(sizes)] * scale
            found.append(self.data[at : at + size])
            at += size
        return found


def read(raw: bytes) -> Input:
    """Read an input; a short one has no data.

    The first byte: its lowest three bits are the options, with the fourth every ``~`` is made long. Then
    three sizes, from 1 (``@``) to 31 (``^``), or all that is left (``_``).
    """
    start = raw[:_START].ljust(_START, b"0")
    data = raw[_START:]
    if start[0] & 8:
        data = data.replace(b"~", _STRETCHED, _MAX_STRETCHES)
    return Input(start[0] & 7, tuple(_SIZES[byte & 31] for byte in start[1:]), data)
