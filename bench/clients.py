"""Connections that stay: one request each, then whatever the answer's head opened (a stream, a tunnel)."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final, cast

from bench.answers import HEAD_END
from bench.serving import Address
from bench.tally import Tally

# Not all at once: a backlog that overflows costs a second per connection, and that is not what is measured.
BATCH: Final = 100
OPEN_TIMEOUT: Final = 5.0
LONGEST_HEAD: Final = 65536


class Client(asyncio.Protocol, ABC):
    """One connection: sends its request, checks the status, hands the rest to its subclass."""

    status: ClassVar[bytes] = b"200"
    transport: asyncio.Transport | None = None

    def __init__(self, message: bytes, tally: Tally) -> None:
        self.message = message
        self.tally = tally
        self.head = b""
        self.opened = False
        self.ended = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        """Read the head, then pass on what follows it."""
        if self.ended:
            return
        try:
            if self.opened:
                self.receive(data)
            else:
                self._read_head(data)
        except ValueError:
            self.fail("read")

    def _read_head(self, data: bytes) -> None:
        self.head += data
        end = self.head.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END):
            if len(self.head) > LONGEST_HEAD:
                self.fail("read")
            return
        if self.head[9:12] != self.status:
            self.fail("status")
            return
        head, rest = self.head[:end], self.head[end:]
        self.head, self.opened = b"", True
        self.begin(head, rest)
        if not self.ready.done():
            self.ready.set_result(None)

    @abstractmethod
    def begin(self, head: bytes, rest: bytes) -> None:
        """Take the answer's head and the bytes that came with it; ValueError refuses it."""

    @abstractmethod
    def receive(self, data: bytes) -> None:
        """Take bytes that follow; ValueError says that they are wrong."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection that ended before the run did."""
        if not self.ended:
            self.fail("read")

    def fail(self, kind: str) -> None:
        """Count one error, and give the connection up."""
        if not self.ended:
            self.tally.errors[kind] += 1
        self.close()

    def close(self) -> None:
        """End the connection; what still arrives counts no more."""
        self.ended = True
        if not self.ready.done():
            self.ready.set_result(None)
        if self.transport is not None:
            self.transport.abort()


async def open_all(target: Address, clients: Sequence[Client]) -> None:
    """Open connections in batches; an opening that fails is an error of its client, and not tried again."""
    for start in range(0, len(clients), BATCH):
        batch = clients[start : start + BATCH]
        await asyncio.gather(*(_open(target, client) for client in batch))
        if not any(client.opened for client in batch):
            # Nobody answers: do not wait for the time limit of every batch.
            for client in clients[start + BATCH :]:
                client.fail("connect")
            return


async def _open(target: Address, client: Client) -> None:
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            await asyncio.get_running_loop().create_connection(lambda: client, *target)
            await client.ready
    except TimeoutError:
        client.fail("timeout")
    except OSError:
        client.fail("connect")
