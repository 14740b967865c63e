"""One line per request, JSON, through a buffer and a thread of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import queue
import random
import select
import threading
import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastrouter.telemetry.outcome import Outcome

# Counted in characters, not lines: a path may have 16 KiB, and 512 such lines would be a batch of 8 MiB.
_FLUSH_CHARS: Final = 128 * 1024
# What may wait for a reader of the log that has stopped reading; lines beyond are dropped and counted.
_MAX_WAITING_BATCHES: Final = 256

# From here on, a response is a failure without a reason word, too: the sandbox's own.
_FAILURE: Final = 500

# How old the time in a line may be, seconds: it is told in milliseconds.
_STAMP_SECONDS: Final = 0.001

_THOUSANDTHS: Final = [f"{number:03d}" for number in range(1000)]

LONGEST_ID: Final = 256
"""What is told of an id: a client may give its request a name of 60 KB."""

NO_SUBJECT: Final = '"method":null,"path":null,"sandbox_id":null,"namespace":null'
"""Stands for the request's members where its head could not be read."""

_log = logging.getLogger(__name__)


class AccessLog:
    """Buffers lines; a thread writes them, so that a full pipe stops the log and not the router.

    What a client chooses comes in escaped (``RequestPlan.log_subject``): no value can forge a line.
    """

    def __init__(self, fd: int, *, share: float = 1.0, shape: Callable[[str], str] | None = None) -> None:
        """Write to the file descriptor ``fd``, which stays the caller's.

        ``share`` of the successful requests get a line; ``shape`` makes another line of each.
        """
        self._fd = fd
        _make_room(fd)
        self._share = share
        self._shape = shape
        self._lines: list[str] = []
        self._chars = 0
        self._batches: queue.Queue[bytes | None] = queue.Queue(_MAX_WAITING_BATCHES)
        self._stamp = ""
        self._stamp_end = -math.inf
        self.dropped = 0
        self._writer = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._writer.start()

    def __repr__(self) -> str:
        return f"<AccessLog fd={self._fd} buffered={len(self._lines)} dropped={self.dropped}>"

    def record(self, subject: str, outcome: Outcome, seconds: float, trace_id: str = "") -> None:
        """Add the line of one request that took ``seconds``; of a success, where it is in the sample."""
        if self._share < 1.0 and not self._is_chosen(outcome):
            return
        now = outcome.started + seconds
        if now >= self._stamp_end:
            self._stamp_end = now + _STAMP_SECONDS
            self._stamp = _stamp(int(time.time() * 1000))
        # Written so for its speed: formatting a float costs as much as all the rest.
        whole = int(seconds * 1_000_000)
        # Digits, a UUID: most are such, and nothing in them needs an escape.
        if (request_id := outcome.request_id).replace(b"-", b"").isalnum():
            names = f',"request_id":"{request_id[:LONGEST_ID].decode("ascii")}"'
        else:
            names = f',"request_id":{_escaped(request_id)}' if request_id else ""
        if trace_id:
            names = f'{names},"trace_id":"{trace_id}"'
        if outcome.reused and not outcome.reason:
            way = f'"{outcome.upstream}","connection":"reused","error":null'
        else:
            way = _way(outcome)
        line = (
            f'{{"time":"{self._stamp}",{subject},"status":{outcome.status},'
            f'"duration_ms":{whole // 1000}.{_THOUSANDTHS[whole % 1000]},'
            f'"bytes_in":{outcome.bytes_in},"bytes_out":{outcome.bytes_out},"upstream":{way}{names}}}\n'
        )
        if self._shape is not None:
            line = self._shape(line)
        self._lines.append(line)
        self._chars += len(line)
        if self._chars >= _FLUSH_CHARS:
            self.flush()

    def _is_chosen(self, outcome: Outcome) -> bool:
        if outcome.reason or outcome.status >= _FAILURE:
            return True
        return random.random() < self._share  # noqa: S311 - chooses lines, guards no secret

    def say(self, line: str) -> None:
        """Write a line of another log, whole, between access lines; from any thread, and without waiting."""
        try:
            self._batches.put_nowait(line.encode("utf-8"))
        except queue.Full:
            self.dropped += 1

    def flush(self) -> None:
        """Hand the buffered lines to the writer; called by the sweep too, so that no line waits long."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        self._chars = 0
        try:
            self._batches.put_nowait("".join(lines).encode("ascii"))
        except queue.Full:
            self.dropped += len(lines)

    def close(self) -> None:
        """Write what is buffered and end the thread; waits at most a second for a reader that stopped."""
        self.flush()
        with contextlib.suppress(queue.Full):
            self._batches.put(None, timeout=1.0)
        self._writer.join(timeout=1.0)
        if self._writer.is_alive():
            _log.warning("the access log is not being read: lines are lost", extra={"dropped": self.dropped})

    def _write(self) -> None:
        told = 0
        failing = False
        while (batch := self._batches.get()) is not None:
            if self.dropped > told:
                told = self.dropped
                notice = {"level": "warning", "message": "access lines dropped", "total": told}
                batch += json.dumps(notice).encode("ascii") + b"\n"
            try:
                self._write_all(batch)
                failing = False
            except OSError as error:  # a full disk empties again: the next batch is tried
                if not failing:
                    _log.warning("cannot write the access log", extra={"error": str(error)})
                failing = True

    def _write_all(self, batch: bytes) -> None:
        view = memoryview(batch)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # whoever shares the pipe has made it non-blocking
                select.select([], [self._fd], [])


def _make_room(fd: int) -> None:
    """Let a batch and most of the next one fit into a pipe, where ``fd`` is one.

    Of a batch that does not fit, the rest is written as the reader makes room, and the writer sleeps and
    wakes ten times: as long as it is awake, it takes the router's time.
    """
    if not hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux only
        return
    with contextlib.suppress(OSError):  # no pipe, or of a user who has enough of them: pipe(7)
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < 2 * _FLUSH_CHARS:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 2 * _FLUSH_CHARS)


def _way(outcome: Outcome) -> str:
    """Return the address that a request came to, and what is told after it, up to its names."""
    upstream, connection = "null", "null"
    if outcome.upstream:
        upstream = f'"{outcome.upstream}"'
        connection = '"reused"' if outcome.reused else '"fresh"'
    dial = ""
    if outcome.dials:
        dial = f'"dials":{outcome.dials},"dial_ms":{outcome.dial_seconds * 1000:.3f},'
    error = f'"{outcome.reason}"' if outcome.reason else "null"
    return f'{upstream},"connection":{connection},{dial}"error":{error}'


def _escaped(request_id: bytes) -> str:
    """Return an id as JSON: a client may give its request any bytes, and many of them."""
    return escape(request_id[:LONGEST_ID].decode("utf-8", "replace"))


def _stamp(moment: int) -> str:
    """Return milliseconds since the epoch as RFC 3339 has them."""
    second, millisecond = divmod(moment, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{millisecond:03d}Z"
