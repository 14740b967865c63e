"""Heads that differ only in values which nobody here reads: cut out, kept apart, put back.

Most clients send the same head again and again but for an id of the request, a trace, a date. What such a
value says changes nothing for a router that only passes it on, so all heads that are equal without these
values share one parsed head. A value is cut out only where it stands in the plainest form there is: on its
own line, behind ``name: ``, without white space at its ends. Everything else stays in the key byte for byte,
so whether a head is well-formed, and what it means, follows from the key alone (docs/decisions/0009).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Final

from fastrouter.wire.fields import TOKEN

_VALUE: Final = rb"[\x21-\x7e\x80-\xff]++(?:[\t ]++[\x21-\x7e\x80-\xff]++)*+(?=\r\n)"
# No head holds it (the strict grammar), so no key can be read in two ways.
_GAP: Final = b"\0"

Cut = tuple[bytes, list[bytes]]
"""A head in two parts: its key, with a gap in the place of each value, and the values."""


class Knife:
    """Cuts heads. The values of the names in ``read`` (lower case) stay in the key.

    ``numbers`` are names whose values are read too, but easily: they are cut out where they match the pattern
    that is given for each.
    """

    __slots__ = ("_pattern",)

    def __init__(self, read: Iterable[bytes], numbers: Mapping[bytes, bytes]) -> None:
        kept = [_any_of(sorted(set(read) - set(numbers))) + b":"]
        kept += [_spelled(name) + rb":(?! " + number + rb"\r)" for name, number in numbers.items()]
        name = rb"\r\n(?!" + b"|".join(kept) + rb")" + TOKEN + rb": "
        self._pattern = re.compile(rb"(" + name + rb")(" + _VALUE + rb")")

    def cut(self, raw: bytes) -> Cut | None:
        """Cut a whole head; None where there is nothing to cut out, or no head can be."""
        pieces = self._pattern.split(raw)
        if len(pieces) == 1 or _GAP in raw:
            return None
        values = pieces[2::3]
        del pieces[2::3]
        return _GAP.join(pieces), values


def restore(key: bytes, values: Iterable[bytes]) -> bytes:
    """Return the head that was cut into ``key`` and ``values``."""
    # Pieces come as text, name, text, name, ...: a value goes behind each name.
    pieces = key.split(_GAP)
    for place, value in enumerate(values):
        pieces[2 * place + 1] += value
    return b"".join(pieces)


def lengths_between(key: bytes) -> list[int]:
    """Return how many bytes of a head stand before each of its values, and behind the one before it."""
    pieces = [len(piece) for piece in key.split(_GAP)]
    # Text, name, text, name, ...: see ``restore``.
    return [text + name for text, name in zip(pieces[0::2], pieces[1::2], strict=False)]


def places_of(key: bytes, name: bytes) -> list[int]:
    """Return which of the values are those of ``name`` (lower case)."""
    names = [piece[2:-2].lower() for piece in key.split(_GAP)[1::2]]
    return [place for place, found in enumerate(names) if found == name]


class Text:
    """A text with places for values: where ``stem``, the number of a value and a full stop are, it goes."""

    __slots__ = ("_pieces", "_places")

    def __init__(self, marked: bytes, stem: bytes) -> None:
        """Find the marks; the stem must be nowhere else in ``marked``."""
        first, *rest = marked.split(stem)
        pieces, places = [first], []
        for piece in rest:
            number, _, text = piece.partition(b".")
            places.append(int(number))
            pieces += (b"", text)
        self._hold(pieces, places)

    def _hold(self, pieces: list[bytes], places: list[int]) -> None:
        self._pieces = pieces
        self._places = None if places == list(range(len(places))) else places

    def narrow(self, values: list[bytes], open_places: list[int]) -> Text:
        """Return the text with ``values`` in all places but ``open_places``, which are counted anew."""
        places = self._places or range(len(self._pieces) // 2)
        pieces, left = [self._pieces[0]], []
        for place, text in zip(places, self._pieces[2::2], strict=True):
            if place in open_places:
                left.append(open_places.index(place))
                pieces += (b"", text)
            else:
                pieces[-1] += values[place] + text
        narrowed = copy(self)
        narrowed._hold(pieces, left)
        return narrowed

    def fill(self, values: Sequence[bytes]) -> bytes:
        """Return the text with the values in their places."""
        pieces = self._pieces.copy()
        places = self._places
        if places is None:
            pieces[1::2] = values[: len(pieces) // 2]
        else:
            pieces[1::2] = [values[place] for place in places]
        return b"".join(pieces)


def _any_of(names: list[bytes]) -> bytes:
    """Return a pattern for any of the names, in any case, that looks at each letter once.

    A plain ``a|b|c`` with IGNORECASE tries each name in turn: three times as slow.
    """
    branches = []
    for first in sorted({name[:1] for name in names if name}):
        rest = [name[1:] for name in names if name[:1] == first]
        branches.append(_spelled(first) + _any_of(rest))
    if b"" in names:
        branches.append(b"")
    return branches[0] if len(branches) == 1 else b"(?:" + b"|".join(branches) + b")"


def _spelled(name: bytes) -> bytes:
    """Return a pattern for a name in any case."""
    letters = [name[place : place + 1] for place in range(len(name))]
    return b"".join(
        b"[" + letter + letter.upper() + b"]" if letter.isalpha() else re.escape(letter) for letter in letters
    )
