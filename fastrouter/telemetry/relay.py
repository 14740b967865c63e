"""The output of several processes on one descriptor: each line whole, whatever happens to who wrote it."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import Final

_PIECE: Final = 256 * 1024
# No line of ours is so long: what has no end by then is no line.
_LONGEST: Final = 1024 * 1024

# For all pipes together: with as many workers as cores, a second for each would outlast the grace time.
_CLOSE_SECONDS: Final = 1.0


class Relay:
    """Gives each process a pipe of its own and passes on what comes, whole lines at a time.

    Processes that wrote to one pipe themselves would write into each other's lines beyond 4 KiB (pipe(7)),
    and one that is killed would leave half a line for the next to go on with. A thread per pipe waits where
    nobody reads: then that process's pipe fills, and its own log drops and counts.
    """

    def __init__(self, fd: int) -> None:
        """Write to ``fd``, which stays the caller's."""
        self._fd = fd
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __repr__(self) -> str:
        return f"<Relay fd={self._fd} pipes={sum(thread.is_alive() for thread in self._threads)}>"

    def open(self) -> int:
        """Return the writing end of a new pipe; the caller closes it.

        Raises ``OSError`` without a descriptor and ``RuntimeError`` without a thread to be had.
        """
        read_fd, write_fd = os.pipe()
        thread = threading.Thread(target=self._pass_on, args=(read_fd,), name="relay", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            os.close(read_fd)
            os.close(write_fd)
            raise
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        return write_fd

    def close(self) -> None:
        """Wait until all that was written has been passed on, but no longer than a second for a reader."""
        end = time.monotonic() + _CLOSE_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, end - time.monotonic()))

    def _pass_on(self, read_fd: int) -> None:
        rest = b""
        while piece := os.read(read_fd, _PIECE):
            end = piece.rfind(b"\n") + 1
            if end:
                self._write(rest + piece[:end])
                rest = piece[end:]
            elif len(rest) < _LONGEST:
                rest += piece
        os.close(read_fd)

    def _write(self, lines: bytes) -> None:
        # A full disk or a reader that left: nobody is there to be told, and the next lines are tried.
        with self._lock, contextlib.suppress(OSError):
            view = memoryview(lines)
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:  # whoever shares the pipe has made it non-blocking
                    select.select([], [self._fd], [])
