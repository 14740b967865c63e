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
        self._later: deque[list[bytes]] = deque()
        self.given: list[Given] = []
        self.sent = b""
        self.closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        return await self._answers.get()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        self.sent += buffer
        while len(self.given) < self.sent.count(_MARK):
            pieces, *later = self._sandbox.answer()
            self._later = deque(later)
            self.given.append(Given(b"", len(pieces) > 1, self._sandbox.part))
            self._sandbox.last = self
            self._say(pieces)

    def go_on(self) -> None:
        """Say the next part of an answer that has a pause, asked or not."""
        if self._later and not self.closed:
            self._say(self._later.popleft())

    def _say(self, pieces: list[bytes]) -> None:
        last = self.given[-1]
        self.given[-1] = last._replace(answer=last.answer + b"".join(pieces))
        for piece in pieces:
            self._answers.put_nowait(piece)

    async def aclose(self) -> None:
        self.closed = True
        self._answers.put_nowait(b"")

    def get_extra_info(self, info: str) -> Any:
        return None


class Sandbox(httpcore.AsyncNetworkBackend):
    """Gives its answers in turn; afterwards it closes, or is silent."""

    def __init__(self, answers: Iterable[list[list[bytes]]], *, closes: bool) -> None:
        """Take answers: each one's parts, with a pause between them, and the pieces of each part."""
        self._answers = deque(answers)
        self._closes = closes
        self.streams: list[Stream] = []
        self.part = 0
        self.last: Stream | None = None

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

    @property
    def last_answer(self) -> bytes:
        """What was said to the last request that came."""
        return self.last.given[-1].answer if self.last is not None else b""

    def go_on(self) -> None:
        """Let each connection say the next part of its answer."""
        for stream in self.streams:
            stream.go_on()

    def answer(self) -> list[list[bytes]]:
        if not self._answers:
            return [[b""] if self._closes else []]
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
