"""The head cache: each distinct head parsed once, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fastrouter.errors import MalformedMessageError
from fastrouter.wire.head_cache import MAX_KEPT_HEAD, MAX_ONCE, HeadCache


class UpperTemplate:
    """Knows of "name value" what Parser makes of it, unless the value is refused."""

    def __init__(self, key: bytes) -> None:
        self._start = key.upper() + b" "
        self.numbers: frozenset[int] = frozenset()

    def narrow(self, values: list[bytes], places: list[int]) -> UpperTemplate:
        assert (len(values), places) == (1, [0])
        return self

    def fill(self, raw: bytes, values: Sequence[bytes]) -> bytes | None:
        assert raw.endswith(b" " + values[0])
        return None if [*values] == [b"odd"] else self._start + values[0].upper()


class UpperTemplates:
    """Cuts at the first space."""

    def __init__(self) -> None:
        self.learnt: list[bytes] = []

    def cut(self, raw: bytes) -> tuple[bytes, list[bytes]] | None:
        key, space, value = raw.partition(b" ")
        return (key, [value]) if space else None

    def learn(self, cut: tuple[bytes, list[bytes]], value: bytes) -> UpperTemplate | None:
        self.learnt.append(cut[0])
        return None if cut[0] == b"unfit" else UpperTemplate(cut[0])


class Parser:
    """Parses by turning to upper case, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def __call__(self, raw: bytes) -> bytes:
        self.asked.append(raw)
        if raw == b"bad":
            raise MalformedMessageError("bad")
        return raw.upper()


@pytest.fixture
def parser() -> Parser:
    return Parser()


def keep(cache: HeadCache[bytes], raw: bytes) -> bytes:
    """Use a head twice: the second time it is kept."""
    cache.get(raw)
    return cache.get(raw)


def test_a_head_is_parsed_no_more_once_it_came_twice(parser: Parser) -> None:
    cache = HeadCache(parser)
    assert keep(cache, b"a") == b"A"
    assert cache.get(b"a") is cache.get(b"a")
    assert parser.asked == [b"a", b"a"]
    assert cache.misses == 2


def test_heads_that_came_once_are_not_kept(parser: Parser) -> None:
    cache = HeadCache(parser)
    for number in range(MAX_ONCE + 2):
        cache.get(b"%d" % number)
    assert not cache.exact.young
    # The notes of what came are bounded: the first of them is forgotten, the last is not.
    cache.get(b"0")
    assert not cache.exact.young
    cache.get(b"%d" % (MAX_ONCE + 1))
    assert list(cache.exact.young) == [b"%d" % (MAX_ONCE + 1)]


def test_heads_that_differ_in_one_byte_are_two(parser: Parser) -> None:
    cache = HeadCache(parser)
    assert (cache.get(b"a: 1"), cache.get(b"a: 2")) == (b"A: 1", b"A: 2")
    assert cache.misses == 2


def test_a_failure_is_not_kept(parser: Parser) -> None:
    cache = HeadCache(parser)
    for _ in range(2):
        with pytest.raises(MalformedMessageError):
            cache.get(b"bad")
    assert parser.asked == [b"bad", b"bad"]
    assert repr(cache) == "<HeadCache exact=0+0 templates=0+0 misses=2>"


@pytest.mark.parametrize(("size", "parsed"), [(MAX_KEPT_HEAD, 2), (MAX_KEPT_HEAD + 1, 3)])
def test_a_long_head_is_parsed_and_not_kept(parser: Parser, size: int, parsed: int) -> None:
    cache = HeadCache(parser)
    assert keep(cache, b"a" * size) == cache.get(b"a" * size) == b"A" * size
    assert len(parser.asked) == parsed


def fill(cache: HeadCache[bytes], name: bytes) -> None:
    """Use new heads until the generations change."""
    young = cache.exact.young
    number = 0
    while cache.exact.young is young:
        keep(cache, b"%b %d" % (name, number))
        number += 1


def test_a_head_in_use_outlives_a_flood_of_others(parser: Parser) -> None:
    cache = HeadCache(parser, limit=16 * 1024)
    keep(cache, b"used")
    for flood in range(10):
        cache.get(b"used")
        fill(cache, b"flood %d" % flood)
    assert parser.asked.count(b"used") == 2


def test_a_head_that_was_not_used_for_two_generations_is_forgotten(parser: Parser) -> None:
    cache = HeadCache(parser, limit=16 * 1024)
    keep(cache, b"left")
    fill(cache, b"first")
    fill(cache, b"second")
    cache.get(b"left")
    assert parser.asked.count(b"left") == 3


def most_kept(parser: Parser, limit: int, rest: bytes) -> int:
    """Return how many heads that end with ``rest`` one generation holds at most."""
    cache = HeadCache(parser, limit=limit)
    sizes = []
    for number in range(1000):
        keep(cache, b"%04d" % number + rest)
        sizes.append(len(cache.exact.young))
    assert repr(cache).startswith(f"<HeadCache exact={sizes[-1]}+{max(sizes)} ")
    return max(sizes)


def test_the_number_of_kept_heads_is_bounded_by_their_bytes(parser: Parser) -> None:
    limit = 256 * 1024
    short, long = most_kept(parser, limit, b"x" * 96), most_kept(parser, limit, b"x" * 2020)
    # A head stands there twice: as received, and as it goes on.
    assert 10 < 2 * 2024 * long <= limit
    assert long < short < 1000


def test_one_head_over_the_limit_of_a_generation_is_kept_alone(parser: Parser) -> None:
    cache = HeadCache(parser, limit=1024)
    keep(cache, b"a")
    keep(cache, b"b")
    assert repr(cache) == "<HeadCache exact=1+1 templates=0+0 misses=4>"


class TestTemplates:
    def test_a_template_is_learnt_of_the_second_head_with_other_values_and_serves_the_third(
        self, parser: Parser
    ) -> None:
        templates = UpperTemplates()
        cache = HeadCache(parser, templates)
        assert [cache.get(b"id %d" % number) for number in range(4)] == [b"ID %d" % n for n in range(4)]
        assert (parser.asked, templates.learnt) == ([b"id 0", b"id 1"], [b"id"])
        assert cache.misses == 2
        assert repr(cache) == "<HeadCache exact=0+0 templates=1+0 misses=2>"

    def test_a_head_that_comes_as_it_is_needs_no_template(self, parser: Parser) -> None:
        templates = UpperTemplates()
        cache = HeadCache(parser, templates)
        for _ in range(3):
            cache.get(b"id 7")
        assert templates.learnt == []

    def test_one_that_a_template_served_twice_is_kept_as_it_is(self, parser: Parser) -> None:
        cache = HeadCache(parser, UpperTemplates())
        for raw in (b"id 0", b"id 1", b"id 2", b"id 2"):
            cache.get(raw)
        assert list(cache.exact.young) == [b"id 2"]

    def test_what_a_template_does_not_take_is_parsed(self, parser: Parser) -> None:
        cache = HeadCache(parser, UpperTemplates())
        for raw in (b"id 0", b"id 1", b"id odd", b"id odd"):
            assert cache.get(raw) == raw.upper()
        assert parser.asked == [b"id 0", b"id 1", b"id odd", b"id odd"]

    def test_a_head_without_template_is_parsed_each_time(self, parser: Parser) -> None:
        templates = UpperTemplates()
        cache = HeadCache(parser, templates)
        for number in range(3):
            cache.get(b"unfit %d" % number)
        assert (len(parser.asked), templates.learnt) == (3, [b"unfit", b"unfit"])

    def test_heads_that_never_come_again_do_not_keep_their_key_from_being_learnt(
        self, parser: Parser
    ) -> None:
        cache = HeadCache(parser, UpperTemplates())
        cache.get(b"id first")
        for number in range(MAX_ONCE + 1):
            cache.get(b"%d" % number)
        cache.get(b"id second")
        assert cache.known(b"id third") == b"ID THIRD"

    def test_only_what_was_learnt_is_known(self, parser: Parser) -> None:
        cache = HeadCache(parser, UpperTemplates())
        assert cache.known(b"id 0") is None
        cache.get(b"id 0")
        assert cache.known(b"id 0") is None
        cache.get(b"id 1")
        assert cache.known(b"id 2") == b"ID 2"
        assert parser.asked == [b"id 0", b"id 1"]

    def test_long_heads_are_not_cut(self, parser: Parser) -> None:
        cache = HeadCache(parser, UpperTemplates())
        for number in range(3):
            cache.get(b"id " + b"%d" % number * MAX_KEPT_HEAD)
        assert len(parser.asked) == 3

    def test_templates_are_bounded_like_heads(self, parser: Parser) -> None:
        cache = HeadCache(parser, UpperTemplates(), limit=16 * 1024)
        sizes = []
        for number in range(100):
            for value in (b"a", b"b"):
                cache.get(b"key%d " % number + value)
            sizes.append(len(cache.templates.young))
        assert 5 < max(sizes) < 20
        assert repr(cache).startswith(f"<HeadCache exact=0+0 templates={sizes[-1]}+{max(sizes)} ")
