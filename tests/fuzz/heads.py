"""What both targets of heads do: several heads in one input, with and without templates."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

from fastrouter.errors import Cause, MalformedMessageError, RouterError
from fastrouter.policy.plan import RequestPlan, ResponsePlan
from fastrouter.wire.head_cache import HeadCache

T = TypeVar("T", RequestPlan, ResponsePlan)

END: Final = b"\r\n\r\n"
_MAX_HEADS: Final = 6

# A line whose value differs between heads of one family, and what it may be: a name that decides over the
# rest of the head is left alone, else no two heads would have anything in common.
_VARIED: Final = re.compile(
    rb"(?i)(?<=\r\n)(?!host:|x-sandbox-(?!timeout)|connection:|transfer-encoding:)"
    rb"([^\r\n: ]+: )[^\r\n]+(?=\r\n)"
)
_NUMBER: Final = re.compile(rb"(?i)content-length|x-sandbox-timeout")
_NUMBERS: Final = (b"1", b"20", b"0", b"007", b"5", b"1.5", b"999999999999999999", b"700000000000000007")
_VALUES: Final = (
    b"a",
    b"mark0.",
    b"a \t b",
    b"\xe4",
    b"mark1.mark0.",
    b"close",
    b"0",
    b"websocket",
    b"a, b, c",
    b"x-a: b",
)


def split(data: bytes) -> list[bytes]:
    """Return the heads in the data, each with its end; the last one may have none."""
    heads = [head + END for head in data.split(END)]
    heads[-1] = heads[-1][: -len(END)]
    return [head for head in heads if head][:_MAX_HEADS]


def family(head: bytes) -> list[bytes]:
    """Return the head among others that differ from it in values only; the last ones come again."""

    def vary(turn: int) -> bytes:
        place = turn

        def value(found: re.Match[bytes]) -> bytes:
            nonlocal place
            place += 3
            chosen = _NUMBERS if _NUMBER.match(found[1]) else _VALUES
            return found[1] + chosen[place % len(chosen)]

        return _VARIED.sub(value, head)

    varied = [vary(turn) for turn in range(4)]
    return [head, *varied, head, varied[3]]


def parsed(parse: Callable[[bytes], T], raw: bytes) -> T | Cause:
    """Return the plan, or why there is none."""
    try:
        return parse(raw)
    except MalformedMessageError as error:
        return error.cause


def comparable(plan: T | Cause) -> object:
    """Return the plan, its error told apart from others by what it comes to."""
    if isinstance(plan, RequestPlan) and isinstance(plan.target, RouterError):
        return plan.target.cause, plan.target.detail(""), plan.timeout, plan.body_length, plan.log_subject
    return plan


def equal_with_templates(heads: HeadCache[T], parse: Callable[[bytes], T], raws: list[bytes]) -> None:
    """Give all heads to a cache in turn; each comes to what it comes to alone."""
    alone = {raw: comparable(parsed(parse, raw)) for raw in raws}
    for raw in raws:
        known = heads.known(raw)
        assert known is None or comparable(known) == alone[raw], raw
        assert comparable(parsed(heads.get, raw)) == alone[raw], raw
