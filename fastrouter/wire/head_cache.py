"""Each distinct head is parsed once: exact bytes -> what follows from them alone.

Nothing that depends on time, peer or a decision may be the value. Two generations bound the memory without
book-keeping per hit: when the young one is full it becomes the old one, and the old one is dropped. What is
hit in the old one moves to the young one, so a flood of heads cannot push out those in use.

A head is kept when it comes the second time: one with a random value never does, and keeping it would cost
memory, collections of garbage, and a pause when thousands of such heads are dropped at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MAX_KEPT_HEAD: Final = 8 * 1024
# Heads noted as seen once; 64 bytes each.
MAX_ONCE: Final = 32 * 1024
# What an entry holds besides its bytes (measured with tracemalloc, rounded up).
_OVERHEAD: Final = 1024
# Where the value keeps the fields: a tuple and three small objects a line. 250 short lines weigh 50 KiB.
FIELD_WEIGHT: Final = 256


class HeadCache(Generic[T]):
    """A bounded map from the bytes of a head to ``parse`` of them."""

    __slots__ = ("_limit", "_line_weight", "_old", "_once", "_parse", "_weight", "misses", "young")

    def __init__(
        self, parse: Callable[[bytes], T], *, limit: int = 24 * 1024 * 1024, line_weight: int = FIELD_WEIGHT
    ) -> None:
        """Keep ``limit`` bytes in each of the two generations; ``line_weight`` 0: values hold no fields."""
        self._parse = parse
        self._limit = limit
        self._line_weight = line_weight
        self._weight = 0
        self._once: set[int] = set()
        self._old: dict[bytes, T] = {}
        self.young: dict[bytes, T] = {}
        self.misses = 0

    def __repr__(self) -> str:
        return f"<HeadCache young={len(self.young)} old={len(self._old)} misses={self.misses}>"

    def known(self, raw: bytes) -> T | None:
        """Return what is kept of a head that came before, None for any other."""
        value = self.young.get(raw)
        if value is None:
            value = self._old.get(raw)
            if value is not None:
                self._keep(raw, value)
        return value

    def get(self, raw: bytes) -> T:
        """Return the parsed head; raises what ``parse`` raises, and keeps no failure."""
        value = self.known(raw)
        if value is None:
            self.misses += 1
            value = self._parse(raw)
            if self._came_before(raw) and len(raw) <= MAX_KEPT_HEAD:
                self._keep(raw, value)
        return value

    def _came_before(self, raw: bytes) -> bool:
        """Note a head; a hash is all that is kept of it (a collision keeps a head too early, no more)."""
        mark = hash(raw)
        if mark in self._once:
            return True
        if len(self._once) >= MAX_ONCE:
            self._once.clear()
        self._once.add(mark)
        return False

    def _keep(self, raw: bytes, value: T) -> None:
        weight = 2 * len(raw) + self._line_weight * raw.count(b"\n") + _OVERHEAD
        self._weight += weight
        if self._weight > self._limit:
            self._old = self.young
            self.young = {}
            self._weight = weight
        self.young[raw] = value
