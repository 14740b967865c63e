"""One worker process, as its parent sees it: how it is started, asked, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastrouter import control
from fastrouter.control import Ask, Channel, Message, Order
from fastrouter.telemetry.families import FAMILIES
from fastrouter.telemetry.snapshot import Snapshot

if TYPE_CHECKING:
    from fastrouter.settings import Settings

ANSWER_SECONDS: Final = 1.0
"""How long a worker may take to answer."""

LOOK_SECONDS: Final = 5.0
"""How often a worker is asked whether it is still there."""
SILENT_SECONDS: Final = 30.0
"""After how long without a word a worker is killed."""
START_SECONDS: Final = 30.0
"""How long a worker may take until it serves."""

# Between the looks at a process that is about to be gone.
_REAP_SECONDS: Final = 0.01

# To end after its last word, until it is killed.
_EXIT_SECONDS: Final = 5.0

_COUNTERS: Final = frozenset(family.name for family in FAMILIES if family.kind == "counter")

_log = logging.getLogger(__name__)


class Worker:
    """One worker process, as its parent sees it."""

    def __init__(self, slot: int, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.slot = slot
        self.pid = process.pid
        self.began = time.monotonic()
        self.listening = False
        self.code: int | None = None
        """How it ended."""
        self.last: Snapshot | None = None
        """What it told of itself last."""
        self._process = process
        self._channel = channel
        self._settled = asyncio.Event()
        self._gone = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._heard = 0
        """How many messages it sent."""
        self._spoke_last = False
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._listen())
        self._watching = loop.create_task(self._watch())

    def __repr__(self) -> str:
        return f"<Worker {self.slot} pid={self.pid} listening={self.listening} exit={self.code}>"

    async def started(self) -> bool:
        """Wait until it serves; False where it ended instead, or was killed because it took too long."""
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._settled.wait()
        except TimeoutError:
            _log.error("worker does not start: killed", extra={"worker": self.slot, "pid": self.pid})
            self.kill()
            await self._gone.wait()
        return self.code is None

    async def ended(self) -> int:
        """Wait for its end; return its exit code, or the signal that ended it as a negative number."""
        await self._gone.wait()
        assert self.code is not None  # noqa: S101 - set before
        return self.code

    async def ask(self, what: Ask) -> Any:
        """Return its answer; ``TimeoutError`` where none comes in time, or none can come any more."""
        if self.code is not None:
            raise TimeoutError
        self._number += 1
        number = self._number
        self._answers[number] = asyncio.get_running_loop().create_future()
        self._channel.send({"ask": what, "number": number})
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._answers[number]
        finally:
            del self._answers[number]

    async def snapshot(self) -> Snapshot | None:
        """Return what it tells of itself; for one that is silent, what is left of what it told last."""
        with contextlib.suppress(TimeoutError):
            told = Snapshot.from_json(await self.ask("snapshot"))
            # Its last word may have come after this answer, and been taken before this task went on.
            if not self._spoke_last:
                self.last = told
            return told
        return counted(self.last) if self.last is not None else None

    def tell_leaving(self) -> None:
        """Tell it that its parent was told to stop: without a parent, it ends at once."""
        self._channel.send({"leaving": True})

    async def end(self, order: Order, seconds: float) -> None:
        """Give it so long to end by itself, and no longer."""
        self._channel.send({"order": order})
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            _log.warning("worker does not end: killed", extra={"worker": self.slot, "pid": self.pid})
            self.kill()
            await self._gone.wait()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    async def _listen(self) -> None:
        """Take what it says until it ends."""
        while (message := await self._channel.receive()) is not None:
            self._heard += 1
            self._take(message)
        self._watching.cancel()
        await self._channel.close()
        self.code = await self._reap()
        self.listening = False
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(TimeoutError())
        self._settled.set()
        self._gone.set()

    def _take(self, message: Message) -> None:
        if message.get("listening"):
            self.listening = True
            self._settled.set()
        elif "last" in message:
            self._spoke_last = True
            self.last = Snapshot.from_json(message["last"])
        elif (answer := self._answers.get(message["number"])) is not None and not answer.done():
            answer.set_result(message["answer"])

    async def _watch(self) -> None:
        """Kill it when it says nothing any more: the kernel would give it connections for ever.

        What counts is how often it was asked in vain, not the clock: after a pause of the parent, it has
        had no chance to answer.
        """
        await self._settled.wait()
        silent = 0.0
        while silent < SILENT_SECONDS:
            heard = self._heard
            await asyncio.sleep(LOOK_SECONDS)
            await self.snapshot()
            silent = 0.0 if self._heard != heard else silent + LOOK_SECONDS + ANSWER_SECONDS
        _log.error("worker does not answer: killed", extra={"worker": self.slot, "pid": self.pid})
        self.kill()

    async def _reap(self) -> int:
        """Wait until the process is gone: a moment after its end of the channel, as a rule.

        Without a thread, which might not be had: then nobody would learn that the worker has ended.
        """
        end = time.monotonic() + _EXIT_SECONDS
        while (code := self._process.poll()) is None:
            if time.monotonic() > end:
                self._process.kill()
            await asyncio.sleep(_REAP_SECONDS)
        return code


async def launch(
    slot: int, settings: Settings, sockets: Sequence[Sequence[socket.socket]], output: int
) -> Worker:
    """Start a worker process that writes to ``output`` and takes over the sockets, plain and TLS.

    Raises ``OSError`` where the machine has no process or descriptor left.
    """
    handed = [[sock.fileno() for sock in group] for group in sockets]
    mine, its = socket.socketpair()
    try:
        with its:
            process = _execute(its.fileno(), [number for group in handed for number in group], output)
        try:
            channel = await Channel.over(mine)
        except BaseException:
            process.kill()
            process.wait()
            raise
    except BaseException:
        mine.close()
        raise
    # Not on the command line, which everybody on the machine can read: the token is in it.
    channel.send({"slot": slot, "settings": control.packed(settings), "sockets": handed})
    return Worker(slot, process, channel)


def _execute(channel: int, handed: Sequence[int], output: int) -> subprocess.Popen[bytes]:
    # A worker inherits what is blocked: what is sent to all processes must not kill it before it ignores the
    # signal. Blocked, not ignored: one that comes to the parent meanwhile waits and is not lost.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, control.PARENTS_SIGNALS)
    try:
        # The loop's own way forks Python in a process with threads; this one takes as little time.
        return subprocess.Popen(  # noqa: S603 - this Python, and a module of ours
            [sys.executable, *_isolation(), "-m", "fastrouter.worker", str(channel)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            pass_fds=[channel, *handed],
            # Ctrl-C comes to the parent only, which ends its workers as it should.
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _isolation() -> list[str]:
    """Keep ``-m`` from looking for modules in the current folder, unless this process does as well."""
    here = {"", str(Path.cwd())} & set(sys.path)
    return [] if here else ["-P"]


def described(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def counted(snapshot: Snapshot) -> Snapshot:
    """Return what stays true of a process that has ended: what it counted."""
    values = {name: rows for name, rows in snapshot.values.items() if name in _COUNTERS}
    return replace(snapshot, values=values)
