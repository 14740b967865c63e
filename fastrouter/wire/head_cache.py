"""Each distinct head is parsed once: exact bytes -> what follows from them alone.

Nothing that depends on time, peer or a decision may be the value. Two generations bound the memory without
book-keeping per hit: when the young one is full it becomes the old one, and the old one is dropped. What is
hit in the old one moves to the young one, so a flood of heads cannot push out those in use.

A head is kept when it comes the second time: one with a random value never does, and keeping it would cost
memory, collections of garbage, and a pause when thousands of such heads are dropped at once. Heads that keep
coming with other values in the same places are served from a template (``wire.template``), learnt likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from fastrouter.wire.mold import Mold, Template
from fastrouter.wire.template import Cut

T = TypeVar("T")

MAX_KEPT_HEAD: Final = 8 * 1024
# Heads noted as seen once; 64 bytes each.
MAX_ONCE: Final = 32 * 1024
LIMIT: Final = 24 * 1024 * 1024
# Shapes of heads; one of 800 bytes with 16 values holds 9 KB, its template included, which may be in no cache
# any more.
MAX_MOLDS: Final = 8 * 1024
_MAX_MOLD: Final = 1024
_MOST_VALUES: Final = 16
_NAMES: Final = b"andbox-ID: "
# What an entry holds besides its bytes (measured with tracemalloc, rounded up).
_OVERHEAD: Final = 1024
# A template holds its text in pieces, up to four for a value; a line is at most one value.
_TEMPLATE_LINE_WEIGHT: Final = 320


class Templates(Protocol[T]):
    """Makes templates."""

    def cut(self, raw: bytes) -> Cut | None:
        """Return the head's key and values; None where it has no template."""

    def learn(self, cut: Cut, value: T) -> Template[T] | None:
        """Return the template of a head that was parsed into ``value``; None for one that has none."""


class Seen:
    """What came before; a hash is all that is kept of it (a collision keeps a head too early, no more)."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: set[int] = set()

    def before(self, key: bytes) -> bool:
        """Tell whether ``key`` came before, and note it."""
        mark = hash(key)
        if mark in self._marks:
            return True
        if len(self._marks) >= MAX_ONCE:
            self._marks.clear()
        self._marks.add(mark)
        return False


class Generations(Generic[T]):
    """A bounded map: the young generation, and the one before."""

    __slots__ = ("_limit", "_line_weight", "_weight", "old", "young")

    def __init__(self, limit: int, line_weight: int) -> None:
        """Keep ``limit`` bytes in each; each line of a key weighs ``line_weight`` besides its bytes."""
        self._limit = limit
        self._line_weight = line_weight
        self._weight = 0
        self.old: dict[bytes, T] = {}
        self.young: dict[bytes, T] = {}

    def __repr__(self) -> str:
        return f"{len(self.young)}+{len(self.old)}"

    def get(self, key: bytes) -> T | None:
        """Return what is kept under ``key``."""
        value = self.young.get(key)
        if value is None:
            value = self.old.get(key)
            if value is not None:
                self.keep(key, value)
        return value

    def keep(self, key: bytes, value: T) -> None:
        """Keep ``value``, which is not None."""
        # The head itself, and what is kept of it for the other side: with ids and trusted proxies, thrice.
        weight = 4 * len(key) + self._line_weight * key.count(b"\n") + _OVERHEAD
        self._weight += weight
        if self._weight > self._limit:
            self.old = self.young
            self.young = {}
            self._weight = weight
        self.young[key] = value


class HeadCache(Generic[T]):
    """A bounded map from the bytes of a head to ``parse`` of them."""

    __slots__ = (
        *("_cut_of", "_heads", "_keys", "_molds", "_parse", "_templates"),
        *("exact", "hits", "misses", "templates"),
    )

    def __init__(
        self, parse: Callable[[bytes], T], templates: Templates[T] | None = None, *, limit: int = LIMIT
    ) -> None:
        """Keep ``limit`` bytes in each generation of heads, and as many in each of templates."""
        self._parse = parse
        self._templates = templates
        # Apart, since heads that never come again must not push out the keys that they share.
        self._heads = Seen()
        self._keys = Seen()
        self._cut_of: tuple[bytes, Cut | None] = (b"", None)
        self.exact: Generations[T] = Generations(limit, 0)
        self.templates: Generations[Template[T]] = Generations(limit, _TEMPLATE_LINE_WEIGHT)
        self._molds: dict[tuple[bytes, int], Mold[T]] = {}
        self.hits = 0
        """Heads that did not have to be parsed; who asks ``exact`` or ``recall`` counts for himself."""
        self.misses = 0

    def __repr__(self) -> str:
        return f"<HeadCache exact={self.exact} templates={self.templates} misses={self.misses}>"

    def known(self, raw: bytes) -> T | None:
        """Return what ``parse`` makes of a head, where that is known without parsing it."""
        value = self.exact.get(raw)
        if value is None and (cut := self._cut(raw)) is not None:
            template = self.templates.get(cut[0])
            if template is not None:
                value = template.fill(raw, cut[1])
                if value is not None and self._heads.before(raw):
                    self.exact.keep(raw, value)
        return value

    def recall(self, raw: bytes) -> T | None:
        """Return what ``known`` does, sooner for a head of a shape that came before: ``wire.mold``."""
        start = raw.find(_NAMES) + len(_NAMES)
        # Which sandbox it is for, and its length: heads of one shape agree in both.
        key = raw[start : raw.find(b"\r", start)], len(raw)
        mold = self._molds.get(key)
        value = mold.read(raw) if mold is not None else None
        if value is None:
            value = self.known(raw)
            if value is not None and len(raw) <= _MAX_MOLD and not (mold is not None and mold.hopeless):
                self._remould(key, raw, mold)
        return value

    def _remould(self, key: tuple[bytes, int], raw: bytes, before: Mold[T] | None) -> None:
        """Keep the shape of a head that its template was found for, and that ``before`` did not fit."""
        cut = self._cut(raw)
        template = self.templates.get(cut[0]) if cut is not None else None
        if cut is None or template is None or len(cut[1]) > _MOST_VALUES:
            return
        if len(self._molds) >= MAX_MOLDS and before is None:
            self._molds.clear()
        fresh = Mold(raw, template, cut[1], 0) if before is None else before.next(raw, template, *cut)
        self._molds[key] = fresh

    def get(self, raw: bytes) -> T:
        """Return the parsed head; raises what ``parse`` raises, and keeps no failure."""
        value = self.known(raw)
        if value is not None:
            self.hits += 1
            return value
        self.misses += 1
        value = self._parse(raw)
        if len(raw) <= MAX_KEPT_HEAD:
            self._learn(raw, value)
        return value

    def _learn(self, raw: bytes, value: T) -> None:
        """Keep a head that came before; of one that came with other values, a template."""
        cut = self._cut(raw)
        if self._heads.before(raw):
            self.exact.keep(raw, value)
        elif cut is not None and self._templates is not None and self._keys.before(cut[0]):
            template = self._templates.learn(cut, value)
            if template is not None:
                self.templates.keep(cut[0], template)

    def _cut(self, raw: bytes) -> Cut | None:
        """Cut a head; a miss asks for the same one up to three times."""
        if self._templates is None or len(raw) > MAX_KEPT_HEAD:
            return None
        if self._cut_of[0] != raw:
            self._cut_of = (raw, self._templates.cut(raw))
        return self._cut_of[1]
