"""A sandbox in memory for the target of exchanges, and an ear for what the router logs."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import httpcore

from tests.fuzz.oracles import END
from tests.shim import PEER

_MARK: Final = b"\r\nX-Forwarded-For: " + PEER[0].encode("ascii") + END


class Given(NamedTuple):
    """An answer, whether it came in pieces, and to which part of what the client said."""

    answer: bytes
    in_pieces: bool
    part: int


class Stream(httpcore.AsyncNetworkStream):
    """One connection to the sandbox: each head that comes brings its next answer."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self.given: list[Given] = []
        self.sent = b""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        return await self._answers.get()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        self.sent += buffer
        while len(self.given) < self.sent.count(_MARK):
            pieces = self._sandbox.answer()
            given = Given(b"".join(pieces), len(pieces) > 1, self._sandbox.part)
            self.given.append(given)
            self._sandbox.last = given
            for piece in pieces:
                self._answers.put_nowait(piece)

    async def aclose(self) -> None:
        self._answers.put_nowait(b"")

    def get_extra_info(self, info: str) -> Any:
        return None


class Sandbox(httpcore.AsyncNetworkBackend):
    """Gives its answers in turn; afterwards it closes, or is silent."""

    def __init__(self, answers: Iterable[list[bytes]], *, closes: bool) -> None:
        self._answers = deque(answers)
        self._closes = closes
        self.streams: list[Stream] = []
        self.part = 0
        self.last = Given(b"", False, 0)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> Stream:
        self.streams.append(Stream(self))
        return self.streams[-1]

    def answer(self) -> list[bytes]:
        if not self._answers:
            return [b""] if self._closes else []
        return self._answers.popleft()


@contextmanager
def errors_in_the_log() -> Iterator[list[str]]:
    """Keep the router's log to itself for a moment, and tell what of it is an error."""
    errors: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                errors.append(self.format(record))

    log = logging.getLogger("fastrouter")
    keeper = Keeper()
    log.addHandler(keeper)
    before, log.propagate = log.propagate, False
    try:
        yield errors
    finally:
        log.propagate = before
        log.removeHandler(keeper)
