"""Fresh connections: one gate per sandbox, retries while a sandbox starts."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import Final

import httpcore

from fastrouter.errors import (
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    CONNECT_UNREACHABLE,
    Cause,
    RouterError,
    Source,
)
from fastrouter.net.backend import DialError, attach
from fastrouter.net.upstream import Upstream
from fastrouter.policy.target import PoolKey, Target

MAX_CONNECT_SECONDS: Final = 5.0
_FIRST_BACKOFF: Final = 0.05
_MAX_BACKOFF: Final = 0.5


class Attempts:
    """The attempts to connect that one request has waited for."""

    __slots__ = ("count", "resolved")

    def __init__(self) -> None:
        self.count = 0
        self.resolved = 0.0
        """When the sandbox's name was known, monotonic seconds; 0: it was not asked for, or by another."""


class Gate:
    """The dialling of one sandbox: one leader tries, the others wait for the outcome of its attempts."""

    __slots__ = ("outcome", "pause", "pauses")

    def __init__(self, loop: asyncio.AbstractEventLoop, before: Gate | None) -> None:
        # True: connected, all may dial. An error: the attempt failed. None: the leader left.
        self.outcome: asyncio.Future[RouterError | bool | None] = loop.create_future()
        # A leader goes on where the one before gave up: 200 who wait must not become 200 first attempts.
        self.pauses: Iterator[float] = before.pauses if before else _backoff()
        self.pause: float = before.pause if before else 0.0  # before the next attempt

    def tell(self, outcome: RouterError | bool | None) -> None:
        """Tell those who wait what the attempt came to, and start over."""
        loop = self.outcome.get_loop()
        self.outcome.set_result(outcome)
        self.outcome = loop.create_future()


class Dialer:
    """Dials sandboxes through an httpcore network backend.

    A dial that fails before a byte was sent is tried again for ``retry_window`` seconds: a sandbox's name
    and port appear some time after the sandbox. While the first connection to a sandbox is being made, every
    other request for it waits for that attempt instead of running its own (100 requests, one SYN).
    """

    def __init__(
        self,
        backend: httpcore.AsyncNetworkBackend,
        make_connection: Callable[[Target], Upstream],
        *,
        retry_window: float,
        make_room: Callable[[], object] = lambda: None,
        timed: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Make connections by ``make_connection``; ``make_room`` is called when file descriptors run out.

        ``timed`` is told the seconds of each attempt.
        """
        self._timed = timed
        self._backend = backend
        self._make_connection = make_connection
        self._retry_window = retry_window
        self._make_room = make_room
        self.under_way = 0
        """Attempts under way."""
        self._gates: dict[PoolKey, Gate] = {}
        self.attempts = 0
        self.retries = 0
        """Attempts that were followed by another one."""

    def __repr__(self) -> str:
        return f"<Dialer gates={len(self._gates)} attempts={self.attempts}>"

    async def dial(self, target: Target, timeout: float, attempts: Attempts | None = None) -> Upstream:
        """Return a fresh connection; raise the ``RouterError`` of the last attempt in the window.

        ``attempts`` counts those that this request waits for, its own and the leader's.
        """
        attempts = attempts or Attempts()
        window_end = time.monotonic() + self._retry_window
        gate: Gate | None = None
        while True:
            before, gate = gate, self._gates.get(target.key)
            if gate is None:
                return await self._lead(target, timeout, window_end, before, attempts)
            outcome = await asyncio.shield(gate.outcome)
            attempts.count += 1
            if outcome is True:
                try:
                    return await self._attempt(target, timeout, attempts)
                except RouterError as error:
                    outcome = error
            if isinstance(outcome, RouterError) and time.monotonic() + gate.pause >= window_end:
                raise RouterError(outcome.cause, outcome.note)

    async def _lead(
        self, target: Target, timeout: float, window_end: float, before: Gate | None, attempts: Attempts
    ) -> Upstream:
        gate = self._gates[target.key] = Gate(asyncio.get_running_loop(), before)
        outcome: RouterError | bool | None = None
        try:
            while True:
                if gate.pause:
                    await asyncio.sleep(gate.pause)
                    gate.pause = 0.0
                try:
                    connection = await self._attempt(target, timeout, attempts)
                except RouterError as error:
                    gate.pause = next(gate.pauses)
                    if error.cause.source is not Source.DIAL or time.monotonic() + gate.pause > window_end:
                        outcome = error
                        raise
                    self.retries += 1
                    gate.tell(error)
                else:
                    outcome = True
                    return connection
        finally:
            del self._gates[target.key]
            gate.tell(outcome)

    async def _attempt(self, target: Target, timeout: float, attempts: Attempts) -> Upstream:
        self.attempts += 1
        attempts.count += 1
        self.under_way += 1
        began = time.monotonic()
        try:
            stream = await self._backend.connect_tcp(
                target.host, target.port, timeout=min(timeout, MAX_CONNECT_SECONDS)
            )
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            if _out_of_files(error):
                self._make_room()
            raise RouterError(_cause(error), str(error)) from error
        finally:
            self.under_way -= 1
            self._timed(time.monotonic() - began)
        attempts.resolved = stream.get_extra_info("resolved") or 0.0
        connection = self._make_connection(target)
        attach(stream, connection)
        return connection


def _backoff() -> Iterator[float]:
    """Yield pauses in seconds: doubling, with jitter, so that routers do not dial in step."""
    pause = _FIRST_BACKOFF
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards no secret
        pause = min(2 * pause, _MAX_BACKOFF)


def _out_of_files(error: BaseException) -> bool:
    behind = error.__cause__
    return isinstance(behind, OSError) and behind.errno in {errno.EMFILE, errno.ENFILE}


def _cause(error: httpcore.ConnectError | httpcore.ConnectTimeout) -> Cause:
    """Name the failure of a dial; another backend's error tells by the OSError behind it."""
    if isinstance(error, DialError):
        return error.cause
    if isinstance(error, httpcore.ConnectTimeout):
        return CONNECT_TIMEOUT
    behind = error.__cause__
    refused = isinstance(behind, OSError) and behind.errno == errno.ECONNREFUSED
    return CONNECT_REFUSED if refused else CONNECT_UNREACHABLE
