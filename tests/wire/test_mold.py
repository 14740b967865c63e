"""Heads of one connection: what fits the shape of the last ones comes to the same as without it."""

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
from fastrouter.wire.head_cache import HeadCache, Shapes
from fastrouter.wire.mold import Mold

RULES = Rules(request_ids=True)


def shapes() -> tuple[HeadCache[RequestPlan], Shapes[RequestPlan]]:
    heads = HeadCache(partial(plan_request, rules=RULES), RequestTemplates(RULES))
    return heads, Shapes(heads)


def head(request_id: bytes, *lines: bytes, length: bytes = b"21") -> bytes:
    start = (b"POST /execute HTTP/1.1", b"Host: r", b"X-Sandbox-ID: box", b"User-Agent: a b")
    given = (b"X-Request-ID: " + request_id, b"Content-Length: " + length)
    return b"\r\n".join([*start, *given, *lines, b"", b""])


def seen(*heads: bytes) -> tuple[HeadCache[RequestPlan], Shapes[RequestPlan]]:
    """Return a cache and a connection that has sent these heads."""
    cache, connection = shapes()
    for raw in heads:
        if connection.recall(raw) is None:
            cache.get(raw)
    return cache, connection


def mold_of(connection: Shapes[RequestPlan]) -> Mold[RequestPlan]:
    return [*connection._molds.values()][-1]


FOUR = [head(b"id-%d" % number) for number in range(4)]


def test_what_differs_in_the_same_places_needs_no_look_at_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, connection = seen(*FOUR)
    monkeypatch.setattr(cache, "_templates", None)  # whoever cuts, fails
    raw = head(b"id-9")
    assert connection.recall(raw) == plan_request(raw, RULES)
    assert mold_of(connection).hits == 1


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
    _, connection = seen(*FOUR)
    assert mold_of(connection).read(raw) is None


@pytest.mark.parametrize("value", [b"i\r-9", b"i\n-9", b"i\0-9", b"\x7fd-9", b"id-\t"])
def test_no_byte_that_ends_a_value_gets_into_a_place(value: bytes) -> None:
    _, connection = seen(*FOUR)
    assert mold_of(connection).read(head(value)) is None


def test_a_length_may_differ_and_is_read() -> None:
    _, connection = seen(*(head(b"id-1", length=b"2%d" % number) for number in range(4)))
    plan = mold_of(connection).read(head(b"id-1", length=b"77"))
    assert plan is not None
    assert plan.body_length == 77
    for wrong in (b"07", b"7x", b"-7", b"+7", b"7."):
        assert mold_of(connection).read(head(b"id-1", length=wrong)) is None


def test_a_length_over_the_limit_is_looked_at() -> None:
    rules = Rules(longest_body=50)
    heads = HeadCache(partial(plan_request, rules=rules), RequestTemplates(rules))
    connection = Shapes(heads)
    for number in range(4):
        raw = head(b"id-1", length=b"2%d" % number)
        if connection.recall(raw) is None:
            heads.get(raw)
    assert connection.recall(head(b"id-1", length=b"51")) is None


def test_another_shape_takes_the_place_of_the_last_one() -> None:
    _, connection = seen(*FOUR)
    longer = [head(b"longer-%d" % number) for number in range(3)]
    for raw in longer:
        assert connection.recall(raw) == plan_request(raw, RULES)
    assert mold_of(connection).hits == 1


def test_many_differences_are_no_shape() -> None:
    lines = [[b"X-%d: %d" % (name, number) for name in range(9)] for number in range(4)]
    _, connection = seen(*(head(b"id-1", *some) for some in lines))
    assert mold_of(connection).read(head(b"id-1", *lines[0])) is None


def test_heads_without_a_shape_are_left_alone_in_the_end() -> None:
    cache, connection = seen(*FOUR[:2])
    for number in range(40):  # of one length, and with white space in the place that differs
        connection.recall(head(b"%d d" % (number % 10)))
        connection.recall(head(b"d %d" % (number % 10)))
    last = mold_of(connection)
    assert last.hopeless
    connection.recall(head(b"9 9"))
    assert mold_of(connection) is last
    assert cache.misses == 2


def test_every_sandbox_has_its_shape_whoever_asks() -> None:
    boxes = [b"box", b"bax"]
    raws = [head(b"id-%d" % number).replace(b": box", b": " + box) for number in range(5) for box in boxes]
    _, connection = seen(*raws)
    assert [mold.hits for mold in connection._molds.values()] == [1, 1]


def test_the_number_of_shapes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_cache, "MAX_MOLDS", 3)
    _, connection = seen(*FOUR)
    for number in range(10):
        for raw in FOUR:
            connection.recall(raw.replace(b": box", b": b%d" % number))
        assert len(connection._molds) <= 3
    connection.recall(head(b"x" * 1024))
    assert max(map(len, (mold.raw for mold in connection._molds.values()))) < 1024


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
    cache, connection = shapes()
    for first, second, length in [*((each, each, each) for each in _GOOD), *rows]:
        raw = head(first, name + second, length=length)
        got = connection.recall(raw)
        try:
            got = cache.get(raw) if got is None else got
            assert got == plan_request(raw, RULES)
        except MalformedMessageError:
            with pytest.raises(MalformedMessageError):
                plan_request(raw, RULES)
            assert got is None
    event(f"by shape: {any(mold.hits for mold in connection._molds.values())}")
