"""The head cache: each distinct head parsed once, in bounded memory."""

from __future__ import annotations

import pytest

from fastrouter.errors import MalformedMessageError
from fastrouter.wire.head_cache import MAX_KEPT_HEAD, MAX_ONCE, HeadCache


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
    assert not cache.young
    # The notes of what came are bounded: the first of them is forgotten, the last is not.
    cache.get(b"0")
    assert not cache.young
    cache.get(b"%d" % (MAX_ONCE + 1))
    assert list(cache.young) == [b"%d" % (MAX_ONCE + 1)]


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
    assert repr(cache) == "<HeadCache young=0 old=0 misses=2>"


@pytest.mark.parametrize(("size", "parsed"), [(MAX_KEPT_HEAD, 2), (MAX_KEPT_HEAD + 1, 3)])
def test_a_long_head_is_parsed_and_not_kept(parser: Parser, size: int, parsed: int) -> None:
    cache = HeadCache(parser)
    assert keep(cache, b"a" * size) == cache.get(b"a" * size) == b"A" * size
    assert len(parser.asked) == parsed


def fill(cache: HeadCache[bytes], name: bytes) -> None:
    """Use new heads until the generations change."""
    young = cache.young
    number = 0
    while cache.young is young:
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
        sizes.append(len(cache.young))
    assert repr(cache).startswith(f"<HeadCache young={sizes[-1]} old={max(sizes)} ")
    return max(sizes)


def test_the_number_of_kept_heads_is_bounded_by_their_bytes(parser: Parser) -> None:
    limit = 256 * 1024
    short, long = most_kept(parser, limit, b"x" * 96), most_kept(parser, limit, b"x" * 2020)
    # A head stands there twice: as received, and as it goes on.
    assert 10 < 2 * 2024 * long <= limit
    assert long < short < 1000


def test_a_head_of_many_lines_weighs_more_than_its_bytes(parser: Parser) -> None:
    limit = 256 * 1024
    assert most_kept(parser, limit, b"a: b\r\n" * 100) < most_kept(parser, limit, b"x" * 600) // 4


def test_one_head_over_the_limit_of_a_generation_is_kept_alone(parser: Parser) -> None:
    cache = HeadCache(parser, limit=1024)
    keep(cache, b"a")
    keep(cache, b"b")
    assert repr(cache) == "<HeadCache young=1 old=1 misses=4>"
