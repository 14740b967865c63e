"""WebSocket echoes in a closed loop: one masked binary frame out, the same bytes back, the next one.

The sandbox gives raw bytes back, as it got them: what is measured is the tunnel, not a WebSocket library.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, cast

import uvloop

from bench.clients import Client, open_all
from bench.serving import Address
from bench.tally import ANSWER_TIMEOUT, Result, Tally

BINARY: Final = b"\x82"
MASKED: Final = 0x80
SHORT: Final = 126
MEDIUM: Final = 65536


@dataclass(frozen=True)
class Plan:
    """How many tunnels, and what goes through them once all are open."""

    target: Address
    messages: Sequence[bytes]
    connections: int = 1000
    size: int = 128
    seconds: float = 3.0


def frame(payload: bytes, mask: bytes) -> bytes:
    """One binary frame as a client sends it."""
    size = len(payload)
    if size < SHORT:
        length = bytes([MASKED | size])
    elif size < MEDIUM:
        length = bytes([MASKED | 126]) + size.to_bytes(2)
    else:
        length = bytes([MASKED | 127]) + size.to_bytes(8)
    key = int.from_bytes((mask * (size // 4 + 1))[:size])
    return BINARY + length + mask + (int.from_bytes(payload) ^ key).to_bytes(size)


class Talker(Client):
    """One tunnel. Its frame is no other's, so bytes that come out of the wrong tunnel are seen."""

    status: ClassVar[bytes] = b"101"

    def __init__(self, message: bytes, tally: Tally, number: int, size: int) -> None:
        super().__init__(message, tally)
        text = b"%08x " % number
        self.frame = frame((text * (size // len(text) + 1))[:size], number.to_bytes(4))
        self.got = b""
        self.started = 0.0

    def begin(self, head: bytes, rest: bytes) -> None:
        """Wait until all tunnels are open; nobody speaks unasked."""
        if rest:
            msg = "bytes before the first frame"
            raise ValueError(msg)

    def speak(self) -> None:
        """Send the frame."""
        self.started = time.perf_counter()
        cast(asyncio.Transport, self.transport).write(self.frame)

    def receive(self, data: bytes) -> None:
        """Compare what comes back, and go on when it is whole."""
        self.tally.bytes += len(data)
        self.got = self.got + data if self.got else data
        if len(self.got) < len(self.frame):
            return
        if self.got != self.frame or not self.started:
            msg = "not what was sent"
            raise ValueError(msg)
        self.got = b""
        self.tally.requests += 1
        self.tally.latencies.append(time.perf_counter() - self.started)
        self.speak()

    def stop(self) -> None:
        """End here. An echo under way is no error unless it has been waited for too long."""
        if self.started and time.perf_counter() - self.started > ANSWER_TIMEOUT:
            self.fail("timeout")
        self.close()


def drive(plan: Plan) -> Result:
    """Open the tunnels, echo for a while and return the result; `requests` counts echoes."""
    return uvloop.run(_echo(plan))


async def _echo(plan: Plan) -> Result:
    tally, messages = Tally(), plan.messages
    talkers = [
        Talker(messages[number % len(messages)], tally, number, plan.size)
        for number in range(plan.connections)
    ]
    await open_all(plan.target, talkers)
    tally.restart()
    began = time.perf_counter()
    for talker in talkers:
        if talker.opened and not talker.ended:
            talker.speak()
    await asyncio.sleep(plan.seconds)
    seconds = time.perf_counter() - began
    for talker in talkers:
        talker.stop()
    return tally.result(seconds)
