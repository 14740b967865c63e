"""One line per request, JSON, through a buffer and a thread of its own."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastrouter.telemetry.outcome import Outcome

_FLUSH_LINES: Final = 512
# What may wait for a reader of the log that has stopped reading; lines beyond are dropped and counted.
_MAX_WAITING_BATCHES: Final = 256

NO_SUBJECT: Final = '"method":null,"path":null,"sandbox_id":null,"namespace":null'
"""Stands for the request's members where its head could not be read."""

_log = logging.getLogger(__name__)


class AccessLog:
    """Buffers lines; a thread writes them, so that a full pipe stops the log and not the router.

    What a client chooses comes in escaped (``RequestPlan.log_subject``): no value can forge a line.
    """

    def __init__(self, fd: int) -> None:
        """Write to the file descriptor ``fd``, which stays the caller's."""
        self._fd = fd
        self._lines: list[str] = []
        self._batches: queue.Queue[bytes | None] = queue.Queue(_MAX_WAITING_BATCHES)
        self._second = 0
        self._stamp = ""
        self.dropped = 0
        self._writer = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._writer.start()

    def __repr__(self) -> str:
        return f"<AccessLog fd={self._fd} buffered={len(self._lines)} dropped={self.dropped}>"

    def record(self, subject: str, outcome: Outcome, seconds: float) -> None:
        """Add the line of one request that took ``seconds``."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        upstream = f'"{outcome.upstream}"' if outcome.upstream else "null"
        connection = ('"reused"' if outcome.reused else '"fresh"') if outcome.upstream else "null"
        error = f'"{outcome.reason}"' if outcome.reason else "null"
        self._lines.append(
            f'{{"time":"{self._stamp}.{int((now - second) * 1000):03d}Z",{subject},'
            f'"status":{outcome.status},"duration_ms":{seconds * 1000:.3f},'
            f'"bytes_in":{outcome.bytes_in},"bytes_out":{outcome.bytes_out},'
            f'"upstream":{upstream},"connection":{connection},"error":{error}}}\n'
        )
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Hand the buffered lines to the writer; called by the sweep too, so that no line waits long."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        try:
            self._batches.put_nowait("".join(lines).encode("ascii"))
        except queue.Full:
            self.dropped += len(lines)

    def close(self) -> None:
        """Write what is buffered and end the thread; waits at most a second for a reader that stopped."""
        self.flush()
        try:
            self._batches.put(None, timeout=1.0)
        except queue.Full:
            _log.warning("the access log is not being read: lines are lost", extra={"dropped": self.dropped})
        self._writer.join(timeout=1.0)

    def _write(self) -> None:
        told = 0
        while (batch := self._batches.get()) is not None:
            if self.dropped > told:
                told = self.dropped
                notice = {"level": "warning", "message": "access lines dropped", "total": told}
                batch += json.dumps(notice).encode("ascii") + b"\n"
            try:
                view = memoryview(batch)
                while view:
                    view = view[os.write(self._fd, view) :]
            except OSError as error:
                _log.warning("cannot write the access log", extra={"error": str(error)})
                return
