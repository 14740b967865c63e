"""The shape of heads: the next one often differs from the last in the same places only.

To find the values in a head takes longer than all else that is done with it. Clients send heads of one shape,
though: what differs between two of them is an id here and a length there, at the same offsets. A mold
compares everything else with the head before, byte for byte, and looks at nothing but those places. What it
lets pass has the same template as that head: see ``wire.template``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
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

    def narrow(self, values: list[bytes], places: list[int]) -> Template[T_co] | None:
        """Return the template of heads that differ from the one with ``values`` in ``places`` only."""

    def fill(self, raw: bytes, values: Sequence[bytes]) -> T_co | None:
        """Return what the head with these values comes to; None: it needs a closer look."""


class Mold(Generic[T]):
    """A head with its template; with a ``_narrow`` one, the places where the one before it differed."""

    __slots__ = ("_narrow", "_numbers", "_solid", "_split", "_values", "hits", "length", "template", "tries")

    def __init__(self, raw: bytes, template: Template[T], values: list[bytes], tries: int) -> None:
        self.length = len(raw)
        self.template = template
        self.tries = tries
        self.hits = 0
        self._values = values
        self._narrow: Template[T] | None = None
        """The template of what is in the holes alone; without it, the three below mean nothing."""
        self._split = _split_at(())
        """Cuts a head of this length into what is solid and, between, the holes."""
        self._solid: tuple[bytes, ...] = ()
        self._numbers: tuple[int, ...] = ()
        """Which of the holes have numbers in them."""

    def next(self, raw: bytes, template: Template[T], key: bytes, values: list[bytes]) -> Mold[T]:
        """Return the mold of a head that this one did not fit."""
        mold = Mold(raw, template, values, 0 if self.hits >= _WORTH_IT else self.tries + 1)
        if template is self.template and [*map(len, values)] == [*map(len, self._values)]:
            mold._open(raw, key, self._values)
        return mold

    @property
    def hopeless(self) -> bool:
        """Whether it is time to stop making molds for such heads."""
        return self.tries > _MOST_TRIES

    def _open(self, raw: bytes, key: bytes, before: list[bytes]) -> None:
        """Make holes where the values differ from those of the head before."""
        places: list[int] = []
        lengths: list[int] = []
        at = start = 0
        for place, (length, value) in enumerate(zip(lengths_between(key), self._values, strict=False)):
            start += length
            end = start + len(value)
            if value != before[place]:
                places.append(place)
                lengths += (start - at, end - start)
                at = end
            start = end
        if len(places) > _MOST_HOLES:
            return
        self._narrow = self.template.narrow(self._values, places)
        self._split = _split_at((*lengths, len(raw) - at))
        self._solid = self._split.unpack(raw)[::2]
        self._numbers = tuple(hole for hole, place in enumerate(places) if place in self.template.numbers)

    def read(self, raw: bytes) -> T | None:
        """Return what a head comes to that has this shape; None for any other."""
        if self._narrow is None or len(raw) != self.length:
            return None
        pieces = self._split.unpack(raw)
        if pieces[::2] != self._solid:
            return None
        found = pieces[1::2]
        if b"".join(found).translate(None, _VISIBLE):
            return None
        for hole in self._numbers:
            if not found[hole].isdigit() or found[hole][0] == _ZERO:
                return None
        self.hits += 1
        return self._narrow.fill(raw, found)


@lru_cache(maxsize=1024)
def _split_at(lengths: tuple[int, ...]) -> Struct:
    """Return what cuts a head into pieces of these lengths: one for the heads of all sandboxes."""
    return Struct("".join(f"{length}s" for length in lengths))
