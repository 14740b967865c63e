"""Constant load: callers that send numbered commands, and sandboxes that remember which of them ran.

Every command is a POST with a number of its own, and its answer must come from the right sandbox with the
same number. A command that got no answer is a failure, whatever the reason; so is one that ran twice, or that
ran although the router said that it would not.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from tests.support import Client, ScriptedSandbox, Visit, eventually, ok, read_request, request

Address = tuple[str, int]

PAUSES: Final = {b"box-quick": 0.01, b"box-slow": 0.3}
"""Sandboxes, and how long a command runs: the slow one has always some under way."""

_STEPS: Final = 7


@dataclass
class Street:
    """The sandboxes, and how often each number ran."""

    ports: dict[bytes, int] = field(default_factory=dict)
    ran: Counter[bytes] = field(default_factory=Counter)

    async def serve(self, name: bytes, visit: Visit) -> None:
        while True:
            _, number = await read_request(visit)
            visit.received.clear()  # a long run must not keep every byte
            self.ran[number] += 1
            # Of different lengths, so that callers who began together do not go on in step.
            await asyncio.sleep(PAUSES[name] * (1 + int(number) % _STEPS / _STEPS))
            await visit.send(ok(name + b" " + number))

    @staticmethod
    def zone() -> dict[str, list[str]]:
        return {f"{name.decode()}.default.svc.cluster.local": ["127.0.0.1"] for name in PAUSES}


@asynccontextmanager
async def street() -> AsyncIterator[Street]:
    """Run the sandboxes."""
    made = Street()
    async with AsyncExitStack() as stack:
        for name in PAUSES:
            box = ScriptedSandbox(partial(made.serve, name))
            await box.start()
            stack.push_async_callback(box.close)
            made.ports[name] = box.port
        yield made


@dataclass
class Tally:
    """What came of the commands."""

    answered: int = 0
    turned_away: int = 0
    """Told 503 `shutting_down` before anything ran; sent again elsewhere."""
    told_to_leave: int = 0
    """Answers with `Connection: close`."""
    failures: list[str] = field(default_factory=list)


class Callers:
    """Clients that call as fast as they are answered.

    ``addresses`` tells where a new connection may go, at any time. Without any, or where all refuse, a caller
    ends if ``may_end``; else that is a failure. With ``may_be_turned_away`` off, a 503 is a failure too.
    """

    def __init__(
        self,
        street: Street,
        addresses: Callable[[], Sequence[Address]],
        *,
        may_be_turned_away: bool = False,
        may_end: bool = False,
    ) -> None:
        self.tally = Tally()
        self._street = street
        self._addresses = addresses
        self._may_be_turned_away = may_be_turned_away
        self._may_end = may_end
        self._numbers = itertools.count(1)
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, count: int) -> None:
        """Start ``count`` callers of each sandbox; every fourth uses each connection once."""
        for name in PAUSES:
            self._tasks += [asyncio.create_task(self._call(name, once=not n % 4)) for n in range(count)]

    async def warm(self, answers: int) -> None:
        """Wait until so many more commands have been answered."""
        goal = self.tally.answered + answers
        await eventually(lambda: self.tally.answered >= goal or self.finished)

    @property
    def finished(self) -> bool:
        return all(task.done() for task in self._tasks)

    async def stop(self) -> Tally:
        """Let every caller finish its command, and return what came of all."""
        self._over = True
        await asyncio.gather(*self._tasks)
        twice = [number for number, times in self._street.ran.items() if times > 1]
        self.tally.failures += [f"{number.decode()} ran more than once" for number in twice]
        return self.tally

    async def _call(self, name: bytes, *, once: bool) -> None:
        connection: Client | None = None
        number = b""
        while number or not self._over:  # what was turned away is sent again, with its number
            number = number or b"%d" % next(self._numbers)
            connection = connection or await self._connect(number)
            if connection is None:
                break
            settled, keep = await self._command(connection, name, number)
            if settled:
                number = b""
            if once or not keep:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    async def _connect(self, number: bytes) -> Client | None:
        addresses = list(self._addresses())
        first = int(number) % max(1, len(addresses))
        for address in addresses[first:] + addresses[:first]:
            try:
                return Client(*await asyncio.open_connection(*address))
            except ConnectionError:
                continue  # it listens no more, and nothing was sent to it
        if not self._may_end:
            self.tally.failures.append(f"{number.decode()}: nobody listens")
        return None

    async def _command(self, connection: Client, name: bytes, number: bytes) -> tuple[bool, bool]:
        """Send one command; return whether something came of it, and whether the connection goes on."""
        command = request(self._street.ports[name], method=b"POST", body=number, name=name)
        try:
            await connection.send(command)
            head, body = await connection.response()
        except (OSError, EOFError) as error:
            self._failed(number, repr(error))
            return True, False
        keep = b"\r\nconnection: close\r\n" not in head.lower()
        self.tally.told_to_leave += not keep
        if body == name + b" " + number and head.startswith(b"HTTP/1.1 200 "):
            self.tally.answered += 1
            return True, keep
        turned_away = b"\r\nX-Sandbox-Router-Error: shutting_down\r\n" in head
        if turned_away and self._may_be_turned_away and not keep and not self._street.ran[number]:
            self.tally.turned_away += 1
            return False, keep
        self._failed(number, repr(head + body))
        return True, keep

    def _failed(self, number: bytes, what: str) -> None:
        self.tally.failures.append(f"{number.decode()}, ran {self._street.ran[number]} times: {what[:300]}")
