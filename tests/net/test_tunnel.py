"""Tunnels: shares of clients, and the arithmetic of their limits."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from fastrouter.errors import TOO_MANY_CONNECTIONS, RouterError
from fastrouter.net.connection import Connection
from fastrouter.net.tunnel import Limits, Tunnel, Tunnels
from tests.shim import MemoryTransport


class TestShares:
    def test_a_client_has_its_share_and_no_more(self) -> None:
        tunnels = Tunnels(Limits(per_client=2))
        for client in ("a", "a", "b"):
            tunnels.enter(client)
        with pytest.raises(RouterError) as refused:
            tunnels.enter("a")
        assert refused.value.cause is TOO_MANY_CONNECTIONS
        tunnels.leave("a")
        tunnels.enter("a")
        assert repr(tunnels) == "<Tunnels 3 of 2 clients>"

    def test_zero_is_no_limit_and_nothing_is_left_behind(self) -> None:
        tunnels = Tunnels(Limits())
        for _ in range(100):
            tunnels.enter("a")
        for _ in range(100):
            tunnels.leave("a")
        assert repr(tunnels) == "<Tunnels 0 of 0 clients>"


class Ends:
    """A tunnel between two connections in memory."""

    def __init__(self, limits: Limits, *, frames: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self.client, self.upstream = Connection(loop), Connection(loop)
        for side in (self.client, self.upstream):
            side.connection_made(MemoryTransport(side))
        self.ended = 0
        self.tunnel = Tunnel(self.client, self.upstream, limits, self._end, frames=frames)
        self.tunnel.open(0.0)

    def _end(self) -> None:
        self.ended += 1

    def sent(self, side: Connection) -> bytes:
        return bytes(cast(MemoryTransport, side.transport).written)


class TestLimits:
    async def test_bytes_put_the_idle_timeout_off(self) -> None:
        ends = Ends(Limits(idle=10.0))
        ends.tunnel.tick(9.0)
        ends.client.data_received(b"\x82\x80abcd")
        ends.tunnel.tick(9.5)
        ends.tunnel.tick(19.4)
        assert ends.sent(ends.client) == b""
        ends.tunnel.tick(19.5)
        assert ends.sent(ends.client) == b"\x88\x17\x03\xe9idle timeout exceeded"
        assert ends.sent(ends.upstream).startswith(b"\x82\x80abcd\x88\x97")

    async def test_bytes_do_not_put_the_end_of_life_off(self) -> None:
        ends = Ends(Limits(lifetime=10.0))
        ends.client.data_received(b"\x82\x80abcd")
        ends.tunnel.tick(9.9)
        assert ends.sent(ends.client) == b""
        ends.tunnel.tick(10.0)
        assert b"max lifetime exceeded" in ends.sent(ends.client)

    async def test_without_limits_nothing_ends(self) -> None:
        ends = Ends(Limits())
        ends.tunnel.tick(1e9)
        assert (ends.ended, ends.sent(ends.client)) == (0, b"")

    async def test_a_frame_under_way_is_finished_first_and_what_follows_is_dropped(self) -> None:
        ends = Ends(Limits())
        ends.upstream.data_received(b"\x82\x04ab")
        ends.tunnel.close(1001, "bye")
        assert ends.sent(ends.client) == b"\x82\x04ab"
        ends.upstream.data_received(b"cd\x82\x01x")
        ends.upstream.data_received(b"\x82\x01y")
        assert ends.sent(ends.client) in {
            b"\x82\x04abcd\x88\x05\x03\xe9bye",
            b"\x82\x04abcd\x82\x01x\x88\x05\x03\xe9bye",
        }

    async def test_a_peer_that_never_finishes_its_frame_is_cut_off(self) -> None:
        ends = Ends(Limits())
        ends.upstream.data_received(b"\x82\x04ab")
        ends.tunnel.close(1001, "bye")
        ends.tunnel.tick(100.0)
        ends.tunnel.tick(101.9)
        assert ends.ended == 0
        ends.tunnel.tick(102.0)
        assert ends.ended == 1
        assert ends.sent(ends.client) == b"\x82\x04ab"

    async def test_a_close_frame_that_passed_is_not_followed_by_another(self) -> None:
        ends = Ends(Limits())
        ends.upstream.data_received(b"\x88\x02\x03\xe8")
        ends.tunnel.close(1001, "bye")
        ends.tunnel.close(1009, "again")
        assert ends.sent(ends.client) == b"\x88\x02\x03\xe8"

    async def test_other_protocols_are_simply_closed(self) -> None:
        ends = Ends(Limits(), frames=False)
        ends.upstream.data_received(b"half of something")
        ends.tunnel.close(1001, "bye")
        assert (ends.ended, ends.sent(ends.client)) == (1, b"half of something")

    async def test_the_end_of_both_halves_is_the_end_once(self) -> None:
        ends = Ends(Limits())
        ends.tunnel.up.eof()
        assert ends.ended == 0
        ends.tunnel.down.eof()
        assert ends.ended == 1
