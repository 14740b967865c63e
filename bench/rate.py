"""Open loop: requests at a fixed rate, each timed from the moment it was meant to be sent.

A closed loop asks less when answers are slow, and so leaves out the very waiting that a user would see
(coordinated omission). Here the schedule is fixed. A request that finds all connections busy waits for the
next free one, and that wait counts.

It runs on epoll directly: this one thread has to send 40,000 requests a second beside a sandbox on its core.

``python -m bench.rate --target 127.0.0.1:PORT --requests FILE --rate 10000``
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.answers import whole
from bench.scenarios import unpack
from bench.serving import Address, parse_address, raise_file_limit
from bench.tally import ANSWER_TIMEOUT, Result, Tally, message_stream, microseconds

RECONNECT_DELAY: Final = 0.05
DIAL_TIMEOUT: Final = 2.0
# No wait is longer, so that reopenings and the end are looked at in time.
LONGEST_WAIT: Final = 0.01
SUCCESS: Final = ord("2")
TIMER_SLACK: Final = Path("/proc/self/timerslack_ns")


@dataclass(frozen=True)
class Plan:
    """What to send, how many a second over all connections, and for how long."""

    target: Address
    messages: Sequence[bytes]
    rate: float
    connections: int = 64
    seconds: float = 5.0


class Lane:
    """One connection: free, or waiting for the answer to one request."""

    __slots__ = ("dialling", "freed", "got", "intended", "rest", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.dialling = True
        self.freed = 0.0
        # When its request was meant to be sent; 0 while it has none.
        self.intended = 0.0
        self.rest = memoryview(b"")
        self.got = b""


class Run:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tally = Tally()
        self.behind: array[float] = array("d")
        self.messages = message_stream(plan.messages)
        self.epoll = select.epoll()
        self.lanes: dict[int, Lane] = {}
        self.free: deque[Lane] = deque()
        self.reopenings: deque[float] = deque()
        self.total = max(1, int(plan.rate * plan.seconds))
        self.sent = 0
        self.began = 0.0
        # The length of an ordinary answer, learned from the first: what has it and came in one go is whole.
        self.usual = 0

    def go(self) -> Result:
        """Open the connections, keep to the schedule, and wait a little for the last answers."""
        for _ in range(self.plan.connections):
            self._dial()
        self._wait_until_connected()
        self.began = time.perf_counter()
        deadline = self.began + self.plan.seconds + ANSWER_TIMEOUT
        now = self.began
        while now < deadline and (self.sent < self.total or self._waiting()):
            self._wait(self._send_due())
            now = time.perf_counter()
            self._reopen(now)
        self.tally.errors["timeout"] += self.total - self.sent + self._waiting()
        self._close_all()
        seconds = max(self.plan.seconds, now - self.began)
        return {**self.tally.result(seconds), "behind_p99_us": microseconds(sorted(self.behind), 99)}

    def _waiting(self) -> int:
        return sum(1 for lane in self.lanes.values() if lane.intended)

    def _send_due(self) -> float:
        """Send what is due, as far as connections are free; return for how long there is nothing to do."""
        free, step, clock = self.free, 1.0 / self.plan.rate, time.perf_counter
        while free and self.sent < self.total:
            now, intended = clock(), self.began + self.sent * step
            if now < intended:
                return min(intended - now, LONGEST_WAIT)
            lane = free.popleft()
            self.sent += 1
            lane.intended = intended
            # Late through the generator itself: since both were there, the time to send and a connection.
            self.behind.append(now - max(intended, lane.freed))
            message = next(self.messages)
            try:
                count = lane.socket.send(message)
            except OSError:
                self._failed(lane, "write")
            else:
                if count < len(message):
                    lane.rest = memoryview(message)[count:]
                    self.epoll.modify(lane.socket, select.EPOLLIN | select.EPOLLOUT)
        return LONGEST_WAIT

    def _wait(self, timeout: float) -> None:
        # epoll.poll would round up to a millisecond; select on the epoll itself waits for microseconds.
        events = self.epoll.poll(0, self.plan.connections)
        if not events:
            select.select([self.epoll.fileno()], [], [], timeout)
            events = self.epoll.poll(0, self.plan.connections)
        for number, event in events:
            lane = self.lanes[number]
            if event & select.EPOLLOUT:
                self._writable(lane)
            elif not lane.dialling:
                self._readable(lane)
            else:
                self._failed(lane, "connect")

    def _readable(self, lane: Lane) -> None:
        try:
            data = lane.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.perf_counter()
        if len(data) != self.usual or lane.got or lane.rest or not lane.intended:
            lane.got += data
            if not self._answered(lane, data):
                return
            data, lane.got = lane.got, b""
        tally = self.tally
        tally.requests += 1
        tally.bytes += len(data)
        tally.latencies.append(now - lane.intended)
        if data[9] != SUCCESS:
            tally.errors["status"] += 1
        lane.intended = 0.0
        lane.freed = now
        self.free.append(lane)

    def _answered(self, lane: Lane, data: bytes) -> bool:
        """The long way: is the answer whole, in pieces, not one, or the end of the connection?"""
        if not lane.intended:
            # A server may close a connection that nobody uses. Bytes that nobody asked for are wrong.
            self.free.remove(lane)
            self._failed(lane, "read" if data else None)
            return False
        try:
            # An answer before the request is out leaves the connection in the middle of that.
            done = bool(data) and whole(lane.got) and not lane.rest
        except ValueError:
            done, data = False, b""
        if not data:
            self._failed(lane, "read")
        elif done and not self.usual:
            self.usual = len(lane.got)
        return done

    def _writable(self, lane: Lane) -> None:
        """A connection stands, or takes more of a long request."""
        if lane.dialling:
            if lane.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._failed(lane, "connect")
                return
            lane.dialling = False
            lane.freed = time.perf_counter()
            self.free.append(lane)
        elif lane.rest:
            try:
                lane.rest = lane.rest[lane.socket.send(lane.rest) :]
            except BlockingIOError:
                return
            except OSError:
                self._failed(lane, "write")
                return
        if not lane.rest:
            self.epoll.modify(lane.socket, select.EPOLLIN)

    def _dial(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lane = self.lanes[sock.fileno()] = Lane(sock)
        self.epoll.register(sock, select.EPOLLOUT)
        if sock.connect_ex(self.plan.target) not in (0, errno.EINPROGRESS):
            self._failed(lane, "connect")

    def _wait_until_connected(self) -> None:
        limit = time.perf_counter() + DIAL_TIMEOUT
        while any(lane.dialling for lane in self.lanes.values()) and time.perf_counter() < limit:
            self._wait(LONGEST_WAIT)

    def _failed(self, lane: Lane, kind: str | None) -> None:
        """Count an error, if it is one, and dial anew, after a pause for a target that refuses."""
        if kind is not None:
            self.tally.errors[kind] += 1
        del self.lanes[lane.socket.fileno()]
        lane.socket.close()
        pause = 0.0 if kind is None else RECONNECT_DELAY
        self.reopenings.append(time.perf_counter() + pause)

    def _reopen(self, now: float) -> None:
        while self.reopenings and self.reopenings[0] <= now:
            self.reopenings.popleft()
            self._dial()

    def _close_all(self) -> None:
        for lane in self.lanes.values():
            lane.socket.close()
        self.epoll.close()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep this process from adding delays of its own.

    Linux lets a timer come 50 us late, and a full garbage collection takes milliseconds (nothing here makes
    cycles).
    """
    with suppress(OSError):
        TIMER_SLACK.write_text("1")
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        with suppress(OSError):
            TIMER_SLACK.write_text("0")  # the default again


def drive(plan: Plan) -> Result:
    """Run a plan and return its result; what was never answered is a timeout."""
    with undisturbed():
        return Run(plan).go()


def main(arguments: list[str] | None = None) -> None:
    """Send the requests of a file at a rate for a while and print the result as one JSON line."""
    parser = argparse.ArgumentParser(prog="bench.rate", description=__doc__)
    parser.add_argument("--target", type=parse_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--requests", type=Path, required=True, metavar="FILE")
    parser.add_argument("--rate", type=float, required=True, help="requests a second, over all connections")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args(arguments)
    raise_file_limit()
    messages = unpack(options.requests.read_bytes())
    plan = Plan(options.target, messages, options.rate, options.connections, options.seconds)
    print(json.dumps(drive(plan)))


if __name__ == "__main__":
    main()
