"""Tunnels: shares of clients, and the arithmetic of their limits."""

from __future__ import annotations

import asyncio
import gc
from typing import cast

import pytest

from fastrouter.errors import TOO_MANY_CONNECTIONS, MalformedMessageError, RouterError
from fastrouter.net.connection import Connection
from fastrouter.net.outbox import Outbox
from fastrouter.net.tunnel import Limits, Tunnel, Tunnels
from fastrouter.wire.framing import LengthBody
from tests.shim import MemoryTransport
from tests.support import eventually, request, stage

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


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

    def __init__(self, limits: Limits, *, frames: bool = True, held: bytes = b"") -> None:
        loop, outbox = asyncio.get_running_loop(), Outbox()
        self.client, self.upstream = Connection(loop, outbox), Connection(loop, outbox)
        for side in (self.client, self.upstream):
            side.connection_made(MemoryTransport(side))
        self.upstream.buffer = held
        self.ended = 0
        self.tunnel = Tunnel(self.client, self.upstream, limits, self._end, frames=frames)
        self.tunnel.open(0.0)

    def _end(self) -> None:
        self.ended += 1

    def has_ended(self, side: Connection) -> bool:
        return cast(MemoryTransport, side.transport).ended

    def sent(self, side: Connection) -> bytes:
        side.outbox.send()
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
        assert repr(ends.tunnel).endswith("closing=None>")

    async def test_a_half_that_ended_is_passed_on_and_the_other_goes_on(self) -> None:
        ends = Ends(Limits())
        ends.tunnel.up.eof()
        assert (ends.has_ended(ends.upstream), ends.has_ended(ends.client)) == (True, False)
        ends.upstream.data_received(b"\x82\x01x")
        assert ends.sent(ends.client) == b"\x82\x01x"

    async def test_the_half_that_ended_gets_no_close_frame_behind_its_end(self) -> None:
        ends = Ends(Limits())
        ends.tunnel.up.eof()
        ends.tunnel.close(1001, "bye")
        assert (ends.sent(ends.upstream), ends.sent(ends.client)) == (b"", b"\x88\x05\x03\xe9bye")
        ends.tunnel.down.eof()
        assert ends.ended == 1

    async def test_the_end_of_a_side_that_is_closing_already_is_not_written(self) -> None:
        ends = Ends(Limits())
        transport = cast(MemoryTransport, ends.upstream.transport)
        transport.closing = True
        ends.tunnel.up.eof()
        assert not transport.ended

    async def test_the_peers_that_answer_a_close_end_it_before_its_time(self) -> None:
        ends = Ends(Limits(lifetime=1.0))
        ends.tunnel.tick(1.0)
        ends.client.data_received(b"\x88\x80abcd")
        ends.tunnel.up.eof()
        assert ends.ended == 0
        ends.tunnel.down.eof()
        assert ends.ended == 1

    async def test_a_stopped_side_is_read_on(self) -> None:
        ends = Ends(Limits())
        ends.upstream.pause_reading()  # the client was slow
        ends.tunnel.close(1001, "bye")
        assert not ends.upstream.reading_paused

    async def test_what_came_with_the_switch_may_be_too_big(self) -> None:
        ends = Ends(Limits(message=1), held=b"\x82\x02ab")
        assert ends.sent(ends.client) == b"\x88\x11\x03\xf1message too big"
        assert ends.sent(ends.upstream)[:2] == b"\x88\x91"
        ends.client.data_received(b"\x82\x80abcd")
        assert len(ends.sent(ends.upstream)) == 2 + 4 + 17

    async def test_the_router_that_ends_says_so(self) -> None:
        ends = Ends(Limits())
        ends.tunnel.shut_down()
        assert ends.sent(ends.client) == b"\x88\x1d\x03\xe9the router is shutting down"

    async def test_a_fault_of_a_body_without_faults_is_not_swallowed(self) -> None:
        ends = Ends(Limits())
        ends.tunnel.up.body = LengthBody(5)
        with pytest.raises(MalformedMessageError):
            ends.tunnel.up.eof()


class TestLastWord:
    @pytest.mark.parametrize(
        ("said", "last"),
        [(b"", False), (b"\x88\x02\x03\xe8", True), (b"\x88\x02\x03", False), (b"\x82\x01x", False)],
    )
    async def test_a_whole_close_frame_is_the_last_word(self, said: bytes, last: bool) -> None:
        ends = Ends(Limits(), held=said)
        assert ends.tunnel.has_last_word is last

    async def test_so_is_the_sandboxs_end_but_not_the_clients(self) -> None:
        ends = Ends(Limits(), frames=False)
        ends.tunnel.up.eof()
        assert not ends.tunnel.has_last_word
        ends.tunnel.down.eof()
        assert ends.tunnel.has_last_word

    async def test_so_is_the_routers_own_close(self) -> None:
        ends = Ends(Limits())
        ends.tunnel.close(1001, "bye")
        assert ends.tunnel.has_last_word


class Switch(asyncio.Protocol):
    """A sandbox without a task of its own."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(SWITCHED)


def machinery() -> tuple[int, int]:
    """Count tasks and timers."""
    names = [type(each).__name__ for each in gc.get_objects()]
    return len(asyncio.all_tasks()), names.count("TimerHandle")


async def test_a_tunnel_has_no_task_and_no_timer_beyond_its_connections_task() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Switch, "127.0.0.1", 0)
    try:
        async with stage(websocket_max_per_client=0) as router:
            router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
            port = server.sockets[0].getsockname()[1]
            tasks, timers = machinery()
            clients = [await router.client() for _ in range(20)]
            for client in clients:
                await client.send(request(port, b"Connection: Upgrade", b"Upgrade: websocket"))
                await client.head()
            tasks_now, timers_now = machinery()
            for client in clients:
                client.close()
            await eventually(lambda: not router.server.connections)
            tasks_then = len(asyncio.all_tasks())
    finally:
        server.close()
    assert (tasks_now - tasks, tasks_then - tasks) == (20, 0)
    assert timers_now - timers < 10  # those of look-ups and of this test, not one for each
