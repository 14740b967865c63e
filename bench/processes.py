"""Child processes: started on a chosen core, measured through /proc, ended by their id."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, cast

from bench.serving import READY, Address, parse_address

START_TIMEOUT: Final = 10.0
STOP_TIMEOUT: Final = 5.0
# bench is no installed package: ``python -m bench.relay`` finds it from the root of the repository.
ROOT: Final = Path(__file__).parent.parent
TICK: Final = 1.0 / os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class StageError(Exception):
    """A part of the benchmark did not start or did not stay."""


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Run on one core for a while: a child started meanwhile keeps it, threads and all."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Child:
    """One running process of the benchmark."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        core: int | None,
        environment: Mapping[str, str] | None = None,
        merged: bool = False,
    ) -> None:
        """Start it; its stdout is read here from then on, with stderr when `merged`."""
        self.name = name
        with on_core(core):
            self.popen = subprocess.Popen(  # noqa: S603 - commands are written in stage.py
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merged else None,
                cwd=ROOT,
                env=None if environment is None else dict(environment),
                # Ctrl-C must reach the runner only, which then ends its children one by one.
                start_new_session=True,
            )
        self.output = Output(cast("IO[bytes]", self.popen.stdout))

    def __repr__(self) -> str:
        """Show name, id and how it ended."""
        return f"<Child {self.name} pid={self.popen.pid} exit={self.popen.poll()}>"

    def __enter__(self) -> Child:
        """Leave with the process ended."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process, gently first."""
        self.popen.terminate()
        try:
            self.popen.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(STOP_TIMEOUT)
        self.output.join(STOP_TIMEOUT)

    def check(self) -> None:
        """Fail when the process has ended by itself."""
        if self.popen.poll() is not None:
            msg = f"{self.name} ended with exit code {self.popen.returncode}"
            raise StageError(msg)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for a condition, for as long as the process lives and the time allows."""
        end = time.monotonic() + START_TIMEOUT
        while not ready():
            self.check()
            if time.monotonic() > end:
                msg = f"{self.name} was not ready within {START_TIMEOUT:.0f} s"
                raise StageError(msg)
            time.sleep(0.02)

    def listening_on(self) -> Address:
        """The address that the process tells in its first line."""
        self.wait_until(lambda: b"\n" in self.output.start)
        return parse_address(self.output.start.split(b"\n")[0].decode().removeprefix(READY))

    def cpu_seconds(self) -> float:
        """User and system time so far, all threads, with the processes that it started."""
        return sum(map(_cpu_seconds, self._tree("stat")))

    def resident_bytes(self) -> int:
        """RSS, with the processes that it started."""
        return sum(int(text.split()[1]) for text in self._tree("statm")) * PAGE

    def open_files(self) -> int:
        """How many file descriptors are open; sockets nearly all of them."""
        return sum(_count_files(number) for number in tree(self.popen.pid))

    def _tree(self, leaf: str) -> Iterator[str]:
        for number in tree(self.popen.pid):
            # One that has ended meanwhile is counted by its parent.
            with contextlib.suppress(OSError):
                yield Path("/proc", str(number), leaf).read_text()


class Output:
    """Reads a child's stdout as fast as it comes, so that the child never waits for a reader.

    The router's access log goes through this pipe as it goes to the container runtime in a cluster.
    Its lines are counted and dropped; the first bytes are kept.
    """

    KEPT: Final = 4096
    PIPE_SIZE: Final = 1024 * 1024

    def __init__(self, pipe: IO[bytes]) -> None:
        self.start = b""
        self.lines = 0
        self._pipe = pipe
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end of the output."""
        self._thread.join(timeout)

    def _drain(self) -> None:
        while data := os.read(self._pipe.fileno(), self.PIPE_SIZE):
            self.lines += data.count(b"\n")
            if len(self.start) < self.KEPT:
                self.start += data[: self.KEPT]
        self._pipe.close()


def tree(number: int) -> list[int]:
    """A process and everything below it, by id."""
    found = [number]
    for one in found:
        with contextlib.suppress(OSError):
            for children in Path("/proc", str(one), "task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def _count_files(number: int) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{number}/fd"))  # noqa: PTH208 - only counted, as strings
    return 0


def _cpu_seconds(stat: str) -> float:
    # The second field is the name in parentheses and may hold spaces; 14 to 17 are utime and stime, then the
    # same of children that ended.
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * TICK


def core_busy_seconds(core: int) -> float:
    """How long a core has been busy since boot, whoever used it."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
            return (user + nice + system + irq + softirq + steal) * TICK
    msg = f"no core {core}"
    raise StageError(msg)


def free_port() -> int:
    """A port that is free now, for programs that cannot tell which one they took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(address: Address) -> bool:
    """Whether something listens there."""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=1.0):
        return True
    return False
