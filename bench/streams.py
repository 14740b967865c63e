"""Listeners of server-sent events: how late an event arrives when 1,000 streams tick at the same time.

The sandbox puts its monotonic clock into every event; that clock is one for all processes of a machine. All
streams of one interval tick together, so a delay includes the wait for one's turn among the listeners.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import uvloop

from bench.answers import CHUNKED, CRLF, Chunks
from bench.clients import Client, open_all
from bench.serving import Address
from bench.tally import Result, Tally

FIELD: Final = b"data: "
EVENT_END: Final = b"\n\n"


@dataclass(frozen=True)
class Plan:
    """Whom to listen to, and for how long once all are listening."""

    target: Address
    messages: Sequence[bytes]
    listeners: int = 1000
    seconds: float = 3.0


class Listener(Client):
    """One stream of events."""

    def __init__(self, message: bytes, tally: Tally) -> None:
        super().__init__(message, tally)
        self.chunks = Chunks(self._read_events)
        self.rest = b""
        self.last = 0

    def begin(self, head: bytes, rest: bytes) -> None:
        """Insist on a chunked stream: any other has an end or needs none."""
        if not CHUNKED.search(head):
            msg = "not chunked"
            raise ValueError(msg)
        self.receive(CRLF + rest)

    def receive(self, data: bytes) -> None:
        """Count the events of a piece."""
        self.tally.bytes += len(data)
        if self.chunks.feed(data):
            msg = "the stream ended"
            raise ValueError(msg)

    def _read_events(self, payload: bytes) -> None:
        now = time.monotonic_ns()
        *events, self.rest = (self.rest + payload).split(EVENT_END)
        for event in events:
            stamp = int(event.removeprefix(FIELD))
            if stamp <= self.last:
                msg = "events out of order"
                raise ValueError(msg)
            self.last = stamp
            self.tally.requests += 1
            self.tally.latencies.append((now - stamp) / 1e9)


def drive(plan: Plan) -> Result:
    """Listen for a while and return what arrived; `requests` counts events."""
    return uvloop.run(_listen(plan))


async def _listen(plan: Plan) -> Result:
    tally, messages = Tally(), plan.messages
    listeners = [Listener(messages[number % len(messages)], tally) for number in range(plan.listeners)]
    await open_all(plan.target, listeners)
    tally.restart()
    began = time.monotonic_ns()
    await asyncio.sleep(plan.seconds)
    seconds = (time.monotonic_ns() - began) / 1e9
    for listener in listeners:
        if listener.last < began:
            # It was answered and then heard nothing: something on the way collects the stream.
            listener.fail("timeout")
        listener.close()
    return {**tally.result(seconds), "events": tally.requests}
