"""Ends the task of a client connection at a chosen point, and looks at what is left behind."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CoroutineType
from typing import Any, NamedTuple

import pytest

import fastrouter
from fastrouter.net.downstream import Downstream
from tests.fuzz.stage import errors_in_the_log
from tests.properties.mute import Mute
from tests.support import Client, Stage, eventually, stage

ROOT = Path(fastrouter.__file__).parent
WAYS = ("before what it waits for", "together with it", "at a moment of the scene")


class Place(NamedTuple):
    """A line of the router, by its file."""

    file: str
    line: int


class Steps(Coroutine[Any, Any, None]):
    """A coroutine that tells ``suspended`` whenever it waits."""

    def __init__(
        self, inner: Coroutine[Any, Any, None], suspended: Callable[[Coroutine[Any, Any, None], Any], None]
    ) -> None:
        self._inner = inner
        self._suspended = suspended

    def send(self, value: Any) -> Any:
        awaited = self._inner.send(value)
        self._suspended(self._inner, awaited)
        return awaited

    def throw(self, *error: Any) -> Any:
        awaited = self._inner.throw(*error)
        self._suspended(self._inner, awaited)
        return awaited

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._inner.__await__()


@dataclass
class Probe:
    """Counts where one connection's task waits, and cancels it at one of these points, number ``at``."""

    way: str
    at: int
    subject: int = 0
    """Which connection, in the order of their beginning."""
    connections: int = 0
    points: int = 0
    ended: set[Place] = field(default_factory=set)
    """Where the task waited when it was cancelled; nothing: the scene has no such point."""
    task: asyncio.Task[Any] | None = None
    inner: Coroutine[Any, Any, None] | None = None

    def drive(self, inner: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
        number, self.connections = self.connections, self.connections + 1
        return Steps(inner, self._suspended) if number == self.subject else inner

    def _suspended(self, inner: Coroutine[Any, Any, None], awaited: asyncio.Future[Any] | None) -> None:
        self.task, self.inner = asyncio.current_task(), inner
        assert not self.ended, "a task that was cancelled waits again"
        if self.way == WAYS[2]:
            return
        number, self.points = self.points, self.points + 1
        if number != self.at:
            return
        if awaited is None or self.way == WAYS[0]:
            asyncio.get_running_loop().call_soon(self._end)
        else:
            # Before the task's own callback: it is woken in the same turn, and finds itself cancelled.
            awaited.add_done_callback(lambda _: self._end())

    def moment(self) -> None:
        """Cancel here, in the middle of what the task waits for."""
        if self.way == WAYS[2]:
            number, self.points = self.points, self.points + 1
            if number == self.at:
                self._end()

    def _end(self) -> None:
        if self.task is not None and self.inner is not None and not self.task.done():
            self.ended = set(places(self.inner))
            self.task.cancel()


def places(coroutine: object) -> Iterator[Place]:
    """Yield where a suspended coroutine waits: its own line, and that of each coroutine it waits for."""
    while isinstance(coroutine, CoroutineType) and coroutine.cr_frame is not None:
        file = Path(coroutine.cr_frame.f_code.co_filename)
        if file.is_relative_to(ROOT):
            yield Place(file.relative_to(ROOT).as_posix(), coroutine.cr_frame.f_lineno)
        coroutine = coroutine.cr_await


def awaits(file: str) -> dict[Place, str]:
    """Return each ``await`` of a file of the router, with its text."""
    source = (ROOT / file).read_text()
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Await)]
    assert not any(isinstance(node, ast.AsyncWith | ast.AsyncFor) for node in ast.walk(ast.parse(source)))
    return {Place(file, node.lineno): ast.unparse(node) for node in found}


@dataclass
class Play:
    """What a scene has: a router, the probe, and clients."""

    router: Stage
    probe: Probe
    leave: list[Callable[[], None]] = field(default_factory=list)

    async def client(self) -> Client:
        """Return a connected client that the router has taken up: the order decides who is the subject."""
        count = self.probe.connections
        client = await self.router.client()
        self.leave.append(partial(_leave, client, by_reset=self.probe.way == WAYS[2]))
        await eventually(lambda: self.probe.connections > count)
        return client

    async def mute(self) -> tuple[Mute, Downstream]:
        """Return a client that reads only when told, and the router's side of it."""
        mute = Mute(self.router)
        self.leave.append(mute.socket.close)
        return mute, await mute.connect()

    def moment(self) -> None:
        self.probe.moment()


Scene = Callable[[Play], Awaitable[None]]


def _leave(client: Client, *, by_reset: bool) -> None:
    sock = client.writer.get_extra_info("socket")
    if by_reset and sock is not None and sock.fileno() >= 0:  # else it was cut off already
        client.reset()
    else:
        client.close()


@contextmanager
def driven(probe: Probe) -> Iterator[None]:
    """Let the probe drive the tasks of connections."""
    serve, refuse = Downstream._serve, Downstream._refuse
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Downstream, "_serve", lambda side: probe.drive(serve(side)))
        patch.setattr(Downstream, "_refuse", lambda side: probe.drive(refuse(side)))
        # Attempts follow each other in a few milliseconds: a scene is played a hundred times.
        patch.setattr("fastrouter.net.dialer._FIRST_BACKOFF", 0.004)
        yield


def open_sockets() -> set[str]:
    """Return the sockets of this process: each by its number in the kernel, which is not used again."""
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            found.add(str(fd.readlink()))
    return {name for name in found if name.startswith("socket:")}


async def play(scene: Scene, probe: Probe, settings: dict[str, object]) -> None:
    """Play a scene once; assert that nothing is left of it."""
    loop = asyncio.get_running_loop()
    before, sockets = asyncio.all_tasks(), open_sockets()
    with errors_in_the_log() as errors, driven(probe):
        loop.set_exception_handler(lambda _, context: errors.extend(_fault(context)))
        try:
            async with stage(**{"max_per_sandbox": 3, "websocket_max_per_client": 3, **settings}) as router:
                played = Play(router, probe)
                with suppress(ConnectionError, asyncio.IncompleteReadError):
                    await scene(played)
                await nothing_is_left(played)
            await eventually(lambda: asyncio.all_tasks() == before)
            await eventually(lambda: open_sockets() <= sockets)
        finally:
            loop.set_exception_handler(None)
    assert not errors, errors


def _fault(context: dict[str, Any]) -> Iterator[str]:
    # A scripted sandbox that is told to end: Python 3.11's streams complain of their cancelled task.
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        yield repr(context)


async def nothing_is_left(played: Play) -> None:
    """Let all clients leave; assert that nothing of their exchanges outlives them."""
    server = played.router.server
    for leave in played.leave:
        leave()
    await eventually(lambda: not server.connections)
    statistics = server.pool.statistics()
    assert statistics["upstream_active"] == 0
    assert statistics["acquired"] == statistics["released"] + statistics["discarded"]
    assert "gates=0" in repr(server.pool.dialer)
    assert server.pool.dialer.under_way == 0
    assert repr(server.bulkhead) == "<Bulkhead 0 requests, 0 sandboxes>"
    assert repr(server.tunnels) == "<Tunnels 0 of 0 clients>"
