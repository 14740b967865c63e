"""The watchers of the soak: the router's process from outside, and a client that asks how it is."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.processes import RouterProcess, followed

ROOT = Path(__file__).parents[2]
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: router\r\n\r\n"


@dataclass(frozen=True)
class Sample:
    """The router at one moment; ``state`` is what it said of itself last."""

    at: float
    resident: int
    files: int
    threads: int
    state: Mapping[str, int]


@dataclass
class WatchedRouter(RouterProcess):
    """A router whose access lines are counted, not kept: a soak has a million of them."""

    state: dict[str, int] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    """Access lines by reason word."""
    failed: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=2000))
    """The last access lines that have one."""

    async def follow(self) -> None:
        """Read what it says until it ends."""
        await asyncio.gather(self._follow_log(), self._follow_state())

    async def _follow_log(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            try:
                self._take(json.loads(line))
            except json.JSONDecodeError:
                self.lines.append({"level": "error", "message": "no JSON", "line": line.decode()})

    async def _follow_state(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            if line.startswith(b"{"):
                self.state = json.loads(line)
            else:
                self.lines.append({"level": "error", "message": "stderr", "line": line.decode()})

    def _take(self, line: dict[str, Any]) -> None:
        if "status" not in line:
            self.lines.append(line)
            return
        self.answers[line["error"] or "none"] += 1
        if line["error"]:
            self.failed.append(line)

    @property
    def complaints(self) -> list[str]:
        """Return warnings and errors of its log."""
        return [json.dumps(line) for line in self.lines if line.get("level") not in {"info", None}]

    def about(self, box: str, path: str) -> list[str]:
        """Return the last failures of requests to ``box`` for ``path``."""
        lines = (line for line in self.failed if (line["sandbox_id"], line["path"]) == (box, path))
        return [json.dumps(line) for line in lines][-3:]

    def sample(self, at: float) -> Sample:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        threads = next(line.split()[1] for line in status.splitlines() if line.startswith("Threads:"))
        return Sample(at, self.resident, self.files, int(threads), self.state)

    @property
    def files(self) -> int:
        """How many descriptors it has open."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())


@asynccontextmanager
async def watched_router(**environ: str) -> AsyncIterator[WatchedRouter]:
    """Run the router as a process; end it afterwards, and expect that it ends well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.adversity.soak_router", "serve", "--host", "127.0.0.1", "--port", "0"),
        env={**os.environ, "ALLOW_UNAUTHENTICATED_ROUTER": "true", **environ},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    async with followed(WatchedRouter(process)) as router:
        yield router


@dataclass
class Prober:
    """Asks the same questions over and over in a thread of its own, and notes how long the answers took."""

    address: tuple[str, int]
    questions: Mapping[str, bytes]
    pause: float = 0.05
    took: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask until told to stop."""
        while not self._stop.wait(self.pause):
            for name, question in self.questions.items():
                started = time.perf_counter()
                try:
                    self._ask(question)
                except (OSError, AssertionError) as error:
                    self.failures.append(f"{name}: {error!r}")
                self.took.setdefault(name, []).append(time.perf_counter() - started)

    def _ask(self, question: bytes) -> None:
        with socket.create_connection(self.address, timeout=10.0) as sock:
            sock.sendall(question)
            answer = sock.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 "), answer

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Prober]:
        """Ask meanwhile."""
        asking = asyncio.create_task(asyncio.to_thread(self.ask))
        try:
            yield self
        finally:
            self._stop.set()
            await asking  # the loop goes on: a last question may need its DNS server

    def slowest(self) -> float:
        """Return the longest time of all, in seconds."""
        return max(max(times) for times in self.took.values())

    def summary(self) -> dict[str, str]:
        """Return the times by question, in words."""
        return {name: in_words(times) for name, times in self.took.items()}


def in_words(seconds: Sequence[float]) -> str:
    """Return median, 99th percentile and maximum in milliseconds."""
    high = quantiles(seconds, n=100, method="inclusive")[98] if len(seconds) > 1 else seconds[0]
    shown = (median(seconds), high, max(seconds))
    half, most, all_ = (f"{1000 * value:.1f}" for value in shown)
    return f"{len(seconds)} asked, median {half} ms, 99 % within {most} ms, all within {all_} ms"
