"""The benchmark's own load generator: closed loop, raw sockets on uvloop, the same JSON line as load.lua.

It drives every scenario where wrk is not installed, and downloads and uploads always: it drops downloaded
bytes in the kernel (MSG_TRUNC), where wrk copies them in pieces of 8 KB and becomes the bottleneck: a relay
reached 3.0 GB/s with wrk and 4.6 GB/s with this. (sendfile for uploads was half as fast as plain send.)

``python -m bench.load --target 127.0.0.1:PORT --requests FILE``
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import uvloop

from bench.answers import CHUNKED, CRLF, HEAD_END, LENGTH, Chunks
from bench.scenarios import unpack
from bench.serving import Address, parse_address, raise_file_limit
from bench.tally import ANSWER_TIMEOUT, Result, Tally, message_stream

RECONNECT_DELAY: Final = 0.05
# A reader that keeps pace would hold one send of 64 MB, and with it this loop, until all of it is out.
MOST_AT_ONCE: Final = 1024 * 1024
# MSG_TRUNC writes nothing here; the interface wants a buffer of the size all the same.
SINK: Final = bytearray(1024 * 1024)


@dataclass(frozen=True)
class Plan:
    """What to send, and for how long. `fresh`: every request on a connection of its own."""

    target: Address
    messages: Sequence[bytes]
    connections: int = 64
    seconds: float = 3.0
    body: int | None = None
    fresh: bool = False


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
        self.connected = False
        self.later: asyncio.TimerHandle | None = None
        self.head = b""
        self.unread = 0
        self.chunks: Chunks | None = None
        self.writing = False
        self.started: float | None = None

    def open(self) -> None:
        """Dial, and send the first request at once: on loopback the connection stands when connect returns.

        Where it does not, the socket takes nothing yet, and what is sent waits as any unsent rest does.
        """
        self.started = time.perf_counter()
        self.connected = False
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.socket.connect_ex(self.run.plan.target) not in (0, errno.EINPROGRESS):
            self._failed("connect")
            return
        self.run.loop.add_reader(self.socket, self._readable)
        self._send(self.started)

    def _send(self, started: float) -> None:
        self.head, self.unread, self.chunks = b"", 0, None
        self.started = started
        self._push(memoryview(next(self.run.messages)))

    def _push(self, rest: memoryview) -> None:
        """Send what the socket takes now, and go on with the rest when it takes more."""
        try:
            sent = self._open_socket.send(rest if len(rest) <= MOST_AT_ONCE else rest[:MOST_AT_ONCE])
        except BlockingIOError:
            sent = 0
        except OSError:
            self._failed("write" if self.connected else "connect")
            return
        self.connected = self.connected or sent > 0
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
            elif self.chunks is None:
                self._read_head()
            else:
                self._read_chunks(self.chunks, self._receive())
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._failed("read" if self.connected else "connect")

    def _drop_body(self) -> None:
        size = self._open_socket.recv_into(SINK, min(self.unread, len(SINK)), socket.MSG_TRUNC)
        if not size:
            raise ConnectionResetError
        self.run.tally.bytes += size
        self.unread -= size
        if not self.unread:
            self._finish()

    def _receive(self) -> bytes:
        data = self._open_socket.recv(65536)
        if not data:
            raise ConnectionResetError
        self.run.tally.bytes += len(data)
        return data

    def _read_head(self) -> None:
        data = self._receive()
        self.head = self.head + data if self.head else data
        end = self.head.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END):
            return
        found = LENGTH.search(self.head, 0, end)
        if found is None and CHUNKED.search(self.head, 0, end):
            self.chunks = Chunks()
            self._read_chunks(self.chunks, self.head[end - len(CRLF) :])
            return
        size = int(found[1]) if found else -1
        self.unread = size - (len(self.head) - end)
        if self.unread < 0 or self.run.plan.body not in (None, size):
            msg = "an answer without a length, or of the wrong length"
            raise ValueError(msg)
        if not self.unread:
            self._finish()

    def _read_chunks(self, chunks: Chunks, data: bytes) -> None:
        if not chunks.feed(data):
            return
        if self.run.plan.body not in (None, chunks.payload):
            msg = "a body of the wrong length"
            raise ValueError(msg)
        self._finish()

    def _finish(self) -> None:
        tally, now = self.run.tally, time.perf_counter()
        tally.requests += 1
        tally.latencies.append(now - cast(float, self.started))
        if self.head[9:10] != b"2":
            tally.errors["status"] += 1
        if self.run.plan.fresh:
            self._close()
            self.open()
        else:
            self._send(now)

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
    parser.add_argument("--fresh", action="store_true", help="a new connection for every request")
    parser.add_argument("--body", type=int, help="length that every answer's body must have")
    options = parser.parse_args(arguments)
    raise_file_limit()
    messages = unpack(options.requests.read_bytes())
    plan = Plan(options.target, messages, options.connections, options.seconds, options.body, options.fresh)
    print(json.dumps(drive(plan)))


if __name__ == "__main__":
    main()
