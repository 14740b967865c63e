"""Several listeners as one."""

from __future__ import annotations

import asyncio
import socket

import pytest

from fastrouter.net.listener import Listener
from fastrouter.net.listeners import Listeners
from tests.support import eventually


async def test_all_start_pause_resume_and_close_together() -> None:
    both = Listeners(*(Listener(asyncio.Protocol, "127.0.0.1", 0) for _ in range(2)))
    await both.start()
    assert both.listening
    assert len({port for _, port in both.addresses}) == 2
    both.pause()
    assert both.paused
    both.resume()
    await eventually(lambda: not both.paused)
    await both.drain()
    both.close()
    assert not both.listening


async def test_where_one_cannot_listen_none_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = Listener(asyncio.Protocol, "127.0.0.1", 0)
        both = Listeners(first, Listener(asyncio.Protocol, *taken.getsockname()))
        with pytest.raises(OSError, match="in use"):
            await both.start()
        assert not first.listening
