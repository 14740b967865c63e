"""The sandboxes of the soak: processes with addresses of their own, and the trouble that comes over them."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from tests.adversity.soak_watch import ROOT
from tests.support import LIMIT

SETTLED = 1.0
"""Seconds after the end of a trouble in which an exchange may still suffer from it."""


@dataclass
class BoxProcess:
    """One sandbox: a process on an address of its own, so that nobody takes its port while it is dead."""

    name: str
    host: str
    port: int = 0
    process: asyncio.subprocess.Process | None = None
    troubles: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of each, by the loop's clock."""

    async def start(self) -> None:
        """Start, on the port that it had before, and wait until it listens."""
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.adversity.soak_box"),
            *("--name", self.name, "--host", self.host, "--port", str(self.port)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.port = int(await asyncio.wait_for(self.process.stdout.readline(), LIMIT))

    async def kill(self) -> None:
        """End it with SIGKILL."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            await process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    @property
    def in_trouble(self) -> bool:
        return bool(self.troubles) and self.troubles[-1][1] > asyncio.get_running_loop().time()

    def was_troubled(self, since: float) -> bool:
        """Tell whether there was trouble at any time from ``since`` until now."""
        return any(end >= since for _, end in self.troubles)

    @contextmanager
    def trouble(self) -> Iterator[None]:
        """Note when it begins, and when it is over and forgotten."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        self.troubles = [*self.troubles[-20:], (begun, float("inf"))]
        try:
            yield
        finally:
            self.troubles[-1] = (begun, clock() + SETTLED)


Trouble = Callable[[BoxProcess, float], Awaitable[None]]


async def die(box: BoxProcess, _: float) -> None:
    await box.kill()
    await box.start()


async def stay_away(box: BoxProcess, seconds: float) -> None:
    """Die, and refuse connections for a while."""
    await box.kill()
    await asyncio.sleep(seconds)
    await box.start()


async def freeze(box: BoxProcess, seconds: float) -> None:
    """Do nothing: the kernel goes on accepting connections and bytes."""
    box.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        box.signal(signal.SIGCONT)


async def hush(box: BoxProcess, _: float) -> None:
    """Close every idle connection."""
    box.signal(signal.SIGUSR1)


TROUBLES: dict[str, Trouble] = {"kill -9": die, "away": stay_away, "stopped": freeze, "idle closed": hush}


@dataclass
class Street:
    """All sandboxes by name."""

    boxes: dict[str, BoxProcess]
    happened: Counter[str] = field(default_factory=Counter)

    @property
    def ports(self) -> dict[str, int]:
        return {name: box.port for name, box in self.boxes.items()}

    @property
    def zone(self) -> dict[str, list[str]]:
        """What the DNS says of them."""
        return {f"{name}.default.svc.cluster.local": [box.host] for name, box in self.boxes.items()}

    def was_troubled(self, name: str, since: float) -> bool:
        return self.boxes[name].was_troubled(since)

    async def make_trouble(
        self, until: float, every: float, kinds: Sequence[str], draw: random.Random
    ) -> None:
        """Bring trouble over one sandbox after the other, never over more than half of them at once."""
        clock = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as troubles:
            while clock() < until - every:
                await asyncio.sleep(draw.uniform(0, every))
                calm = [box for box in self.boxes.values() if not box.in_trouble]
                box, kind, length = draw.choice(calm), draw.choice(kinds), draw.uniform(0, every)
                if len(calm) * 2 > len(self.boxes):
                    troubles.create_task(self._trouble(box, kind, length))

    async def _trouble(self, box: BoxProcess, kind: str, seconds: float) -> None:
        self.happened[kind] += 1
        with box.trouble():
            await TROUBLES[kind](box, seconds)


@asynccontextmanager
async def street(number: int) -> AsyncIterator[Street]:
    """Start sandboxes; kill them afterwards."""
    names = [f"box{place}" for place in range(1, number + 1)]
    boxes = {name: BoxProcess(name, f"127.0.64.{place}") for place, name in enumerate(names, start=1)}
    try:
        await asyncio.gather(*(box.start() for box in boxes.values()))
        yield Street(boxes)
    finally:
        await asyncio.gather(*(box.kill() for box in boxes.values()))
