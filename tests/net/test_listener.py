"""Accepting, and leaving clients in the kernel's queue for a while."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from typing import cast

import pytest

from fastrouter.net import filters
from fastrouter.net.listener import Listener, Room
from tests.adversity.descriptors import no_files
from tests.support import LIMIT, eventually, settled

ACCEPTED: list[asyncio.Transport] = []


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        ACCEPTED.append(stream)
        stream.write(b"hello")
        stream.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    ACCEPTED.clear()
    made = Listener(Greeter, "127.0.0.1", 0)
    await made.start()
    yield made
    made.close()


async def greeting(address: tuple[str, int]) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    try:
        return await asyncio.wait_for(reader.read(), LIMIT)
    finally:
        writer.close()


async def test_who_comes_while_it_is_paused_waits_and_is_served_afterwards(listener: Listener) -> None:
    address = listener.address
    assert await greeting(address) == b"hello"
    for accepted in (1, 4):
        listener.pause()
        listener.pause()
        assert listener.paused
        assert listener.address == address
        waiting = [asyncio.create_task(greeting(address)) for _ in range(3)]
        done, _ = await asyncio.wait(waiting, timeout=0.1)
        assert (len(done), len(ACCEPTED)) == (0, accepted)
        listener.resume()
        listener.resume()
        assert await asyncio.gather(*waiting) == [b"hello"] * 3
        assert repr(listener) == "<Listener 127.0.0.1:0 paused=False>"
        assert listener.address == address


async def test_a_pause_takes_hold_at_once_however_many_are_waiting() -> None:
    """Were more accepted after it, they would be those for whom there is no descriptor."""
    made: list[asyncio.BaseTransport] = []

    class Full(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)
            if len(made) == 10:
                full.pause()

    full = Listener(Full, "127.0.0.1", 0)
    await full.start()
    # Blocking, so that all are in the queue before the event loop has its turn.
    clients = [socket.create_connection(full.address) for _ in range(300)]
    await settled(lambda: len(made))
    assert len(made) == 10
    full.resume()
    await eventually(lambda: len(made) == 300)
    full.close()
    for client in clients:
        client.setblocking(False)
        with pytest.raises(BlockingIOError):  # neither closed nor reset
            client.recv(1)
        client.close()
    for transport in made:
        cast(asyncio.Transport, transport).abort()


async def test_every_address_is_paused_and_resumed_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name such as `localhost` may have two."""
    listener = Listener(Greeter, "", 0)
    monkeypatch.setattr(listener, "_host", ["127.0.0.1", "127.0.0.2"])
    await listener.start()
    addresses = [each.getsockname() for each in listener._sockets]
    assert len(addresses) == 2
    for _ in range(3):
        listener.pause()
        waiting = [asyncio.create_task(greeting(address)) for address in addresses]
        done, _ = await asyncio.wait(waiting, timeout=0.05)
        assert not done
        listener.resume()
        assert await asyncio.gather(*waiting) == [b"hello"] * 2
    listener.close()


async def test_a_pause_needs_no_descriptor(listener: Listener) -> None:
    with no_files():
        listener.pause()
    assert listener.paused
    listener.resume()
    assert await greeting(listener.address) == b"hello"


async def test_without_a_descriptor_it_stays_paused_until_the_next_try(listener: Listener) -> None:
    listener.pause()
    with no_files():
        listener.resume()
        await eventually(lambda: listener._resuming is None)
        assert listener.paused
    listener.resume()
    assert await greeting(listener.address) == b"hello"


async def test_who_waits_at_the_end_is_served_and_who_comes_later_is_refused_not_reset(
    listener: Listener,
) -> None:
    address = listener.address
    with closing(socket.create_connection(address)) as early, closing(socket.socket()) as late:
        await listener.drain()
        late.setblocking(False)
        assert late.connect_ex(address) == errno.EINPROGRESS  # after the last look at the queue
        listener.close()
        assert await asyncio.to_thread(early.recv, 100) == b"hello"
        await asyncio.to_thread(select.select, [], [late], [], LIMIT)
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.parametrize("paused", [False, True])
async def test_closed_means_refused(listener: Listener, *, paused: bool) -> None:
    address = listener.address
    if paused:
        listener.pause()
    listener.close()

    async def refused() -> bool:
        try:
            await greeting(address)
        except ConnectionRefusedError:
            return True
        return False

    async with asyncio.timeout(LIMIT):
        while not await refused():
            pass


async def test_before_it_listens_it_tells_what_it_was_told() -> None:
    listener = Listener(Greeter, "127.0.0.1", 8080)
    listener.pause()
    assert listener.address == ("127.0.0.1", 8080)
    assert repr(listener) == "<Listener 127.0.0.1:8080 paused=False>"


def test_room_ends_before_the_limit_and_is_back_well_below_it() -> None:
    room = Room(1000)
    assert [room.is_short(count) for count in (935, 936, 1000)] == [False, True, True]
    assert [room.is_back(count) for count in (871, 872, 936)] == [True, False, False]
    assert not Room(0).is_short(10**9)


@pytest.mark.parametrize("limit", [16, 64, 100, 128, 256])
def test_a_low_limit_leaves_room_too_and_it_comes_back(limit: int) -> None:
    room = Room(limit)
    assert not room.is_short(limit // 2 - 1)
    assert room.is_short(limit - limit // 4)
    assert room.is_back(0)
    assert not room.is_back(limit - limit // 4)


async def test_where_the_kernel_has_no_filters_the_queue_is_served_all_the_same(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SO_ATTACH_FILTER", 9999)
    with closing(socket.create_connection(listener.address)) as early:
        await listener.drain()
        listener.close()
        assert await asyncio.to_thread(early.recv, 100) == b"hello"


async def test_who_waits_at_the_end_of_a_pause_is_served_too(listener: Listener) -> None:
    listener.pause()
    with closing(socket.create_connection(listener.address)) as early:
        await listener.drain()
        listener.close()
        assert await asyncio.to_thread(early.recv, 100) == b"hello"
