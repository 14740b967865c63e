"""Client connections that do nothing: what the memory of idle pairs is measured with.

No event loop: while the caller looks at the router's memory, the kernel alone keeps these connections open.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from bench.answers import whole
from bench.serving import Address

# Enough at a time that their answers overlap, few enough for any backlog.
BATCH: Final = 100
ANSWER_TIMEOUT: Final = 5.0


@dataclass(frozen=True)
class Plan:
    """How many connections to open, and the one request of each."""

    target: Address
    messages: Sequence[bytes]
    pairs: int


class Held:
    """The connections that are held open."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._epoll = select.epoll()
        self._errors = 0

    @property
    def pairs(self) -> int:
        """How many are open now."""
        self._look()
        return len(self._sockets)

    @property
    def errors(self) -> int:
        """How many could not be opened, got no proper answer, or have been lost since."""
        self._look()
        return self._errors

    def _look(self) -> None:
        if self._epoll.closed:
            return
        # An idle connection has nothing to say: whatever there is to read is an end, or out of place.
        for number, _ in self._epoll.poll(0, max(1, len(self._sockets))):
            self._epoll.unregister(number)
            self._sockets.pop(number).close()
            self._errors += 1

    def open(self, target: Address, messages: Sequence[bytes]) -> bool:
        """Open one connection for each of the messages; False if none of them worked."""
        opened = [self._send(target, message) for message in messages]
        answered = [self._answered(sock) for sock in opened if sock is not None]
        return any(answered)

    def _send(self, target: Address, message: bytes) -> socket.socket | None:
        sock = socket.socket()
        sock.settimeout(ANSWER_TIMEOUT)
        try:
            sock.connect(target)
            sock.sendall(message)
        except OSError:
            self._errors += 1
            sock.close()
            return None
        return sock

    def _answered(self, sock: socket.socket) -> bool:
        try:
            good = read_answer(sock)[9:10] == b"2"
        except (OSError, ValueError):
            good = False
        if not good:
            self._errors += 1
            sock.close()
            return False
        self._sockets[sock.fileno()] = sock
        self._epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
        return True

    def fail(self, count: int) -> None:
        """Count connections that were not even tried."""
        self._errors += count

    def close(self) -> None:
        """Close them all, after a last look at what was lost."""
        self._look()
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._epoll.close()


def read_answer(sock: socket.socket) -> bytes:
    """Read one whole answer."""
    data = b""
    while not whole(data):
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


@contextmanager
def hold(plan: Plan) -> Iterator[Held]:
    """Open the connections in batches, ask once on each, and keep them open until the end of the block."""
    held = Held()
    try:
        messages = [plan.messages[number % len(plan.messages)] for number in range(plan.pairs)]
        for start in range(0, plan.pairs, BATCH):
            if not held.open(plan.target, messages[start : start + BATCH]):
                held.fail(max(0, plan.pairs - start - BATCH))
                break
        yield held
    finally:
        held.close()
