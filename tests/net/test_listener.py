"""Accepting, and leaving clients in the kernel's queue for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from fastrouter.net.listener import Listener, Room
from tests.support import LIMIT

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
