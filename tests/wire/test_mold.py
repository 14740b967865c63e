"""Heads of one kind: what fits the shape of the last ones comes to the same as without it."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from fastrouter.errors import MalformedMessageError
from fastrouter.policy.plan import RequestPlan, plan_request
from fastrouter.policy.rules import Rules
from fastrouter.policy.templates import RequestTemplates
from fastrouter.wire import head_cache
from fastrouter.wire.head_cache import HeadCache
from fastrouter.wire.mold import Mold

RULES = Rules(request_ids=True)


def cache_of(rules: Rules = RULES) -> HeadCache[RequestPlan]:
    return HeadCache(partial(plan_request, rules=rules), RequestTemplates(rules))


def ask(cache: HeadCache[RequestPlan], *heads: bytes) -> HeadCache[RequestPlan]:
    """Look heads up as caches do, and return the cache."""
    for raw in heads:
        if cache.recall(raw) is None:
            cache.get(raw)
    return cache


def head(request_id: bytes, *lines: bytes, length: bytes = b"21") -> bytes:
    start = (b"POST /execute HTTP/1.1", b"Host: r", b"X-Sandbox-ID: box", b"User-Agent: a b")
    given = (b"X-Request-ID: " + request_id, b"Content-Length: " + length)
    return b"\r\n".join([*start, *given, *lines, b"", b""])


def mold_of(cache: HeadCache[RequestPlan]) -> Mold[RequestPlan]:
    return [*cache._molds.values()][-1]


FOUR = [head(b"id-%d" % number) for number in range(4)]


def test_what_differs_in_the_same_places_needs_no_look_at_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ask(cache_of(), *FOUR)
    monkeypatch.setattr(cache, "_templates", None)  # whoever cuts, fails
    raw = head(b"id-9")
    assert cache.recall(raw) == plan_request(raw, RULES)
    assert mold_of(cache).hits == 1


@pytest.mark.parametrize(
    "raw",
    [
        head(b"id-99"),
        head(b"id 9"),
        head(b" d-9"),
        head(b"id-\x80"),
        head(b"id-9", length=b"22"),
        head(b"id-9").replace(b"/execute", b"/executf"),
        head(b"id-9").replace(b": box", b": bax"),
        head(b"id-9").replace(b"a b", b"a c"),
        head(b"id-9") + b"x",
    ],
)
def test_anything_else_is_looked_at(raw: bytes) -> None:
    cache = ask(cache_of(), *FOUR)
    assert mold_of(cache).read(raw) is None


@pytest.mark.parametrize("value", [b"i\r-9", b"i\n-9", b"i\0-9", b"\x7fd-9", b"id-\t"])
def test_no_byte_that_ends_a_value_gets_into_a_place(value: bytes) -> None:
    cache = ask(cache_of(), *FOUR)
    assert mold_of(cache).read(head(value)) is None


def test_a_length_may_differ_and_is_read() -> None:
    cache = ask(cache_of(), *(head(b"id-1", length=b"2%d" % number) for number in range(4)))
    plan = mold_of(cache).read(head(b"id-1", length=b"77"))
    assert plan is not None
    assert plan.body_length == 77
    for wrong in (b"07", b"7x", b"-7", b"+7", b"7."):
        assert mold_of(cache).read(head(b"id-1", length=wrong)) is None


def test_a_length_over_the_limit_is_looked_at() -> None:
    rules = Rules(longest_body=50)
    cache = ask(cache_of(rules), *(head(b"id-1", length=b"2%d" % number) for number in range(4)))
    assert cache.recall(head(b"id-1", length=b"51")) is None


def test_another_shape_takes_the_place_of_the_last_one() -> None:
    cache = ask(cache_of(), *FOUR)
    longer = [head(b"longer-%d" % number) for number in range(3)]
    for raw in longer:
        assert cache.recall(raw) == plan_request(raw, RULES)
    assert mold_of(cache).hits == 1


def test_many_differences_are_no_shape() -> None:
    lines = [[b"X-%d: %d" % (name, number) for name in range(9)] for number in range(4)]
    cache = ask(cache_of(), *(head(b"id-1", *some) for some in lines))
    assert mold_of(cache).read(head(b"id-1", *lines[0])) is None


def test_heads_of_many_values_are_not_kept() -> None:
    lines = [[b"X-%d: %d" % (name, number) for name in range(15)] for number in range(4)]
    cache = ask(cache_of(), *(head(b"id-1", *some) for some in lines))
    assert not cache._molds


def test_heads_without_a_shape_are_left_alone_in_the_end() -> None:
    cache = ask(cache_of(), *FOUR[:2])
    for number in range(40):  # of one length, and with white space in the place that differs
        cache.recall(head(b"%d d" % (number % 10)))
        cache.recall(head(b"d %d" % (number % 10)))
    last = mold_of(cache)
    assert last.hopeless
    cache.recall(head(b"9 9"))
    assert mold_of(cache) is last
    assert cache.misses == 2


def test_every_sandbox_has_its_shape_whoever_asks() -> None:
    boxes = [b"box", b"bax"]
    raws = [head(b"id-%d" % number).replace(b": box", b": " + box) for number in range(5) for box in boxes]
    cache = ask(cache_of(), *raws)
    assert [mold.hits for mold in cache._molds.values()] == [1, 1]


def test_the_number_of_shapes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_cache, "MAX_MOLDS", 3)
    cache = cache_of()
    counts = set()
    for number in range(10):
        ask(cache, *(raw.replace(b": box", b": b%d" % number) for raw in FOUR))
        counts.add(len(cache._molds))
    assert counts == {1, 2, 3}
    ask(cache, *(head(b"%d" % number + b"x" * 1024) for number in range(5)))
    assert max(mold.length for mold in cache._molds.values()) < 1024


_GOOD = [b"1234", b"5678", b"9012", b"3456"]
_values = st.one_of(
    st.sampled_from(_GOOD),
    st.sampled_from(
        [b"abcd", b"ab d", b" bcd", b"0123", b"12.4", b"a\r\nb", b"ab: ", b"abc ", b"ab\0d", b"a\xe4cd"]
    ),
    st.binary(min_size=4, max_size=4),
)


@given(
    st.lists(st.tuples(_values, _values, _values), min_size=1, max_size=8),
    st.sampled_from([b"X-Sandbox-Timeout: ", b"Traceparent: ", b"X-Other: ", b"Accept: "]),
)
def test_with_and_without_shapes_a_head_comes_to_the_same(
    rows: list[tuple[bytes, bytes, bytes]], name: bytes
) -> None:
    cache = cache_of()
    for first, second, length in [*((each, each, each) for each in _GOOD), *rows]:
        raw = head(first, name + second, length=length)
        got = cache.recall(raw)
        try:
            got = cache.get(raw) if got is None else got
            assert got == plan_request(raw, RULES)
        except MalformedMessageError:
            with pytest.raises(MalformedMessageError):
                plan_request(raw, RULES)
            assert got is None
    event(f"by shape: {any(mold.hits for mold in cache._molds.values())}")
