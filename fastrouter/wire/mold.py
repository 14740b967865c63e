"""The shape of heads: the next one often differs from the last in the same places only.

To find the values in a head takes longer than all else that is done with it. Clients send heads of one shape,
though: what differs between two of them is an id here and a length there, at the same offsets. A mold
compares everything else with the head before, byte for byte, and looks at nothing but those places. What it
lets pass has the same template as that head: see ``wire.template``.
"""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

from fastrouter.wire.template import lengths_between

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# A value of these bytes alone is cut out whole, whatever its name: there is no white space at its ends.
_VISIBLE: Final = bytes(range(0x21, 0x7F))
_ZERO: Final = ord("0")
_MOST_HOLES: Final = 8
# Shapes that fit hardly any head: after so many, heads for this sandbox and of this length have none.
_MOST_TRIES: Final = 16
_WORTH_IT: Final = 4


class Template(Protocol[T_co]):
    """What the heads of one shape have in common."""

    numbers: frozenset[int]
    """The places of values that have to be numbers."""

    def fill(self, raw: bytes, values: list[bytes]) -> T_co | None:
        """Return what the head with these values comes to; None: it needs a closer look."""


class Mold(Generic[T]):
    """A head with its template; with ``holes``, the places where the one before it differed."""

    __slots__ = ("_holes", "_solid", "_values", "hits", "raw", "template", "tries")

    def __init__(self, raw: bytes, template: Template[T], values: list[bytes], tries: int) -> None:
        self.raw = raw
        self.template = template
        self.tries = tries
        self.hits = 0
        self._values = values
        self._solid: list[tuple[int, int, bytes]] = []
        self._holes: list[tuple[int, int, int, bool]] = []

    def next(self, raw: bytes, template: Template[T], key: bytes, values: list[bytes]) -> Mold[T]:
        """Return the mold of a head that this one did not fit."""
        mold = Mold(raw, template, values, 0 if self.hits >= _WORTH_IT else self.tries + 1)
        if template is self.template and len(raw) == len(self.raw):
            mold._open(key, self._values)
        return mold

    @property
    def hopeless(self) -> bool:
        """Whether it is time to stop making molds for such heads."""
        return self.tries > _MOST_TRIES

    def _open(self, key: bytes, before: list[bytes]) -> None:
        """Make holes where the values differ from those of the head before."""
        raw, at = self.raw, 0
        start = 0
        for place, (length, value) in enumerate(zip(lengths_between(key), self._values, strict=False)):
            start += length
            end = start + len(value)
            if value != before[place]:
                self._solid.append((at, start, raw[at:start]))
                self._holes.append((place, start, end, place in self.template.numbers))
                at = end
            start = end
        self._solid.append((at, len(raw), raw[at:]))
        if len(self._holes) > _MOST_HOLES or [*map(len, before)] != [*map(len, self._values)]:
            self._solid.clear()

    def read(self, raw: bytes) -> T | None:
        """Return what a head comes to that has this shape; None for any other."""
        if len(raw) != len(self.raw) or not self._solid:
            return None
        for start, end, solid in self._solid:
            if raw[start:end] != solid:
                return None
        values = self._values.copy()
        for place, start, end, number in self._holes:
            value = raw[start:end]
            if value.translate(None, _VISIBLE) or (number and (not value.isdigit() or value[0] == _ZERO)):
                return None
            values[place] = value
        self.hits += 1
        return self.template.fill(raw, values)
