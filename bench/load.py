"""The benchmark's own load generator: closed loop, raw sockets on uvloop, the same JSON line as load.lua.

It drives every scenario where wrk is not installed, and downloads and uploads always: it drops downloaded
bytes in the kernel (MSG_TRUNC), where wrk copies them in pieces of 8 KB and becomes the bottleneck: a relay
reached 3.0 GB/s with wrk and 4.6 GB/s with this. (sendfile for uploads was half as fast as plain send.)

``python -m bench.load --target 127.0.0.1:PORT --requests FILE``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Final, cast

import uvloop

from bench.scenarios import NONCE, unpack
from bench.serving import Address, parse_address, raise_file_limit

HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
# As wrk: an answer that took longer than this is an error. The loops run for seconds only.
ANSWER_TIMEOUT: Final = 2.0
RECONNECT_DELAY: Final = 0.05
# MSG_TRUNC writes nothing here; the interface wants a buffer of the size all the same.
SINK: Final = bytearray(1024 * 1024)

Result = dict[str, object]


@dataclass(frozen=True)
class Plan:
    """What to send, and for how long."""

    target: Address
    messages: Sequence[bytes]
    connections: int = 64
    seconds: float = 3.0
    body: int | None = None


@dataclass
class Tally:
    """What came back."""

    requests: int = 0
    bytes: int = 0
    latencies: array[float] = field(default_factory=lambda: array("d"))
    errors: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("connect", "read", "write", "status", "timeout"), 0)
    )

    def result(self, seconds: float) -> Result:
        """Sum up, in the form that load.lua prints."""
        ordered = sorted(self.latencies)
        return {
            "requests": self.requests,
            "bytes": self.bytes,
            "seconds": round(seconds, 6),
            "p50_us": round(percentile(ordered, 50) * 1e6, 1),
            "p99_us": round(percentile(ordered, 99) * 1e6, 1),
            "errors": self.errors,
        }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of sorted values; 0 for none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def message_stream(messages: Sequence[bytes]) -> Iterator[bytes]:
    """Round robin over the messages, each with a new nonce where it has a place for one."""
    if NONCE not in messages[0]:
        yield from cycle(messages)
    for before, _, after in cycle([message.partition(NONCE) for message in messages]):
        # Not a secret: the value has to differ, no more.
        yield before + b"%016x" % random.getrandbits(64) + after


class Run:
    """One run of a plan: the connections and what they counted."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = asyncio.get_running_loop()
        self.tally = Tally()
        self.messages = message_stream(plan.messages)
        self.connections = [Connection(self) for _ in range(plan.connections)]

    async def go(self) -> Result:
        """Drive the connections until the time is up."""
        started = time.perf_counter()
        for connection in self.connections:
            connection.open()
        await asyncio.sleep(self.plan.seconds)
        seconds = time.perf_counter() - started
        for connection in self.connections:
            connection.stop()
        return self.tally.result(seconds)


class Connection:
    """One client connection: one request at a time, the next when the answer is whole."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.socket: socket.socket | None = None
        self.dialling: asyncio.Task[None] | None = None
        self.later: asyncio.TimerHandle | None = None
        self.head = b""
        self.unread = 0
        self.writing = False
        self.started: float | None = None

    def open(self) -> None:
        """Dial; the first request follows."""
        self.dialling = self.run.loop.create_task(self._dial())

    async def _dial(self) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self.run.loop.sock_connect(self.socket, self.run.plan.target)
        except OSError:
            self._failed("connect")
            return
        self.run.loop.add_reader(self.socket, self._readable)
        self._send()

    def _send(self) -> None:
        self.head, self.unread = b"", 0
        self.started = time.perf_counter()
        self._push(memoryview(next(self.run.messages)))

    def _push(self, rest: memoryview) -> None:
        """Send what the socket takes now, and go on with the rest when it takes more."""
        try:
            sent = self._open_socket.send(rest)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._failed("write")
            return
        if sent < len(rest):
            self.writing = True
            self.run.loop.add_writer(self._open_socket, self._push, rest[sent:])
        elif self.writing:
            self.writing = False
            self.run.loop.remove_writer(self._open_socket)

    @property
    def _open_socket(self) -> socket.socket:
        return cast(socket.socket, self.socket)

    def _readable(self) -> None:
        try:
            if self.unread:
                self._drop_body()
            else:
                self._read_head()
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._failed("read")

    def _drop_body(self) -> None:
        size = self._open_socket.recv_into(SINK, min(self.unread, len(SINK)), socket.MSG_TRUNC)
        if not size:
            raise ConnectionResetError
        self.run.tally.bytes += size
        self.unread -= size
        if not self.unread:
            self._finish()

    def _read_head(self) -> None:
        data = self._open_socket.recv(65536)
        if not data:
            raise ConnectionResetError
        self.run.tally.bytes += len(data)
        self.head = self.head + data if self.head else data
        end = self.head.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END):
            return
        found = LENGTH.search(self.head, 0, end)
        size = int(found[1]) if found else -1
        self.unread = size - (len(self.head) - end)
        if self.unread < 0 or self.run.plan.body not in (None, size):
            msg = "an answer without a length, or of the wrong length"
            raise ValueError(msg)
        if not self.unread:
            self._finish()

    def _finish(self) -> None:
        tally, now = self.run.tally, time.perf_counter()
        tally.requests += 1
        tally.latencies.append(now - cast(float, self.started))
        if self.head[9:10] != b"2":
            tally.errors["status"] += 1
        self._send()

    def _failed(self, kind: str) -> None:
        self.run.tally.errors[kind] += 1
        self._close()
        # A pause: a target that refuses must not be hammered for the whole run.
        self.later = self.run.loop.call_later(RECONNECT_DELAY, self.open)

    def _close(self) -> None:
        if self.socket is not None:
            self.run.loop.remove_reader(self.socket)
            self.run.loop.remove_writer(self.socket)
            self.socket.close()
        self.socket = self.started = None
        self.writing = False

    def stop(self) -> None:
        """End here. A request under way is no error unless it has been waiting too long."""
        if self.started is not None and time.perf_counter() - self.started > ANSWER_TIMEOUT:
            self.run.tally.errors["timeout"] += 1
        if self.later is not None:
            self.later.cancel()
        if self.dialling is not None:
            self.dialling.cancel()
        self._close()


def drive(plan: Plan) -> Result:
    """Run a plan on uvloop and return its result."""

    async def go() -> Result:
        return await Run(plan).go()

    return uvloop.run(go())


def main(arguments: list[str] | None = None) -> None:
    """Send the requests of a file for a while and print the result as one JSON line."""
    parser = argparse.ArgumentParser(prog="bench.load", description=__doc__)
    parser.add_argument("--target", type=parse_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--requests", type=Path, required=True, metavar="FILE")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--body", type=int, help="length that every answer's body must have")
    options = parser.parse_args(arguments)
    raise_file_limit()
    messages = unpack(options.requests.read_bytes())
    plan = Plan(options.target, messages, options.connections, options.seconds, options.body)
    print(json.dumps(drive(plan)))


if __name__ == "__main__":
    main()
