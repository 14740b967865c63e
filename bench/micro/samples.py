"""Heads as SDKs and sandboxes send them, and small helpers of the micro-benchmarks."""

from __future__ import annotations

import random
from collections.abc import Coroutine, Iterator, Sequence
from itertools import cycle
from typing import Any, Final, TypeVar

from fastrouter.policy.rules import Rules
from fastrouter.policy.target import PoolKey, Target

T = TypeVar("T")

RULES: Final = Rules()

_EXECUTE: Final = (
    b"POST /execute HTTP/1.1\r\n"
    b"Host: sandbox-router-svc:8080\r\n"
    b"User-Agent: python-requests/2.32.5\r\n"
    b"Accept-Encoding: gzip, deflate\r\n"
    b"Accept: */*\r\n"
    b"Connection: keep-alive\r\n"
    b"X-Sandbox-ID: sandbox-1\r\n"
    b"X-Sandbox-Namespace: default\r\n"
    b"X-Sandbox-Port: 8888\r\n"
    b"Content-Type: application/json\r\n"
)
EXECUTE: Final = _EXECUTE + b"Content-Length: 27\r\n\r\n"
TRACED: Final = (
    _EXECUTE
    + b"X-Request-ID: %032x\r\ntraceparent: 00-%032x-00f067aa0ba902b7-01\r\nContent-Length: %d\r\n\r\n"
)
UNKNOWN: Final = _EXECUTE + b"X-Unknown: %032x\r\nContent-Length: 27\r\n\r\n"
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\n"
    b"date: Mon, 24 Nov 2025 10:00:00 GMT\r\n"
    b"server: uvicorn\r\n"
    b"content-length: 62\r\n"
    b"content-type: application/json\r\n\r\n"
)
DATED: Final = (
    b"HTTP/1.1 200 OK\r\n"
    b"date: Mon, 24 Nov 2025 %02d:%02d:%02d GMT\r\n"
    b"server: uvicorn\r\n"
    b"content-length: %d\r\n"
    b"content-type: application/json\r\n\r\n"
)


def expect(found: object, expected: object) -> None:
    """Raise unless both are equal: a benchmark of the wrong answer tells nothing."""
    if found != expected:
        msg = f"expected {expected!r}, found {found!r}"
        raise AssertionError(msg)


def target(number: int) -> Target:
    """Return the target of one of many sandboxes."""
    key = PoolKey(f"sandbox-{number}", "default", 8888)
    return Target(key, f"{key.sandbox_id}.{key.namespace}.svc.cluster.local")


def in_random_order(items: Sequence[T]) -> Iterator[T]:
    """Yield all of them again and again, neighbours far apart; the same order in every run."""
    order = list(items)
    random.Random(4).shuffle(order)  # noqa: S311 - an order, no secret
    return cycle(order)


def completed(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits: its own cost, without an event loop's."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    msg = "the coroutine waits"
    raise AssertionError(msg)
