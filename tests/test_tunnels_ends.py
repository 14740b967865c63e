"""How tunnels end: halves, losses, races around the switch, and what the access line says of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fastrouter.net.dialer import Attempts
from fastrouter.net.pool import Lease, Pool
from fastrouter.policy.target import Target
from tests.support import (
    Client,
    Handler,
    Stage,
    Visit,
    eventually,
    full_listener,
    ok,
    read_request,
    request,
    settled,
    stage,
)
from tests.test_tunnels import SWITCHED, UPGRADE, upgraded

CLOSE = b"\x88\x02\x03\xe8"
MASKED_CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"
MASKED_TEXT = b"\x81\x81\0\0\0\0x"
ECHO = (b"Connection: Upgrade", b"Upgrade: echo")
SWITCHED_ECHO = SWITCHED.replace(b"websocket", b"echo")

ClientPart = Callable[[Client], Awaitable[None]]


async def line_of_the_tunnel(router: Stage) -> tuple[object, object]:
    """Wait for the end of the only connection; return status and error of its line."""
    await eventually(lambda: not router.server.connections)
    assert repr(router.server.tunnels) == "<Tunnels 0 of 0 clients>"
    (line,) = router.access_lines()
    return line["status"], line["error"]


def after_the_switch(part: Handler, switched: bytes = SWITCHED) -> Handler:
    async def handle(visit: Visit) -> None:
        await visit.head()
        await visit.send(switched)
        await part(visit)

    return handle


async def until_gone(visit: Visit) -> None:
    await visit.gone()


async def close_well(visit: Visit) -> None:
    await visit.exactly(len(MASKED_CLOSE))
    await visit.send(CLOSE)
    visit.close()


async def close_first(visit: Visit) -> None:
    await visit.send(CLOSE)
    visit.close()


async def close_and_reset(visit: Visit) -> None:
    await visit.send(CLOSE)
    await visit.exactly(len(MASKED_TEXT))
    visit.reset()


async def reset_at_the_end(visit: Visit) -> None:
    await visit.gone()
    visit.reset()


async def say_close(client: Client) -> None:
    await client.send(MASKED_CLOSE)
    assert await client.rest() == CLOSE


async def hear_close(client: Client) -> None:
    assert await client.rest() == CLOSE


async def talk_over_close(client: Client) -> None:
    await client.send(MASKED_TEXT)
    assert await client.rest() == CLOSE


async def leave(client: Client) -> None:
    client.close()


async def be_reset(client: Client) -> None:
    client.reset()


async def wait_idly(client: Client) -> None:
    assert await client.rest() == b"\x88\x17\x03\xe9idle timeout exceeded"


class TestLines:
    @pytest.mark.parametrize(
        ("sandbox", "client_part"),
        [
            (close_well, say_close),
            (close_first, hear_close),
            (close_and_reset, talk_over_close),
            (until_gone, leave),
            (until_gone, be_reset),
            (until_gone, wait_idly),
            (reset_at_the_end, wait_idly),
        ],
    )
    async def test_an_ordinary_end_is_no_error(self, sandbox: Handler, client_part: ClientPart) -> None:
        async with stage(websocket_idle_timeout=1.0) as router:
            box = await router.sandbox(after_the_switch(sandbox))
            client = await upgraded(router, box)
            await client_part(client)
            client.close()
            assert await line_of_the_tunnel(router) == (101, None)

    async def test_a_sandbox_that_dies_within_a_frame_is_an_error_and_the_client_sees_the_end(self) -> None:
        async def die(visit: Visit) -> None:
            await visit.send(b"\x82\x05ab")
            await visit.exactly(len(MASKED_TEXT))
            visit.reset()

        async with stage() as router:
            client = await upgraded(router, await router.sandbox(after_the_switch(die)))
            assert await client.exactly(4) == b"\x82\x05ab"
            await client.send(MASKED_TEXT)
            assert await client.rest() == b""
            assert await line_of_the_tunnel(router) == (101, "upstream_closed")

    async def test_raw_bytes_of_a_sandbox_that_dies_have_no_clean_end(self) -> None:
        async def die(visit: Visit) -> None:
            await visit.send(b"half")
            await visit.exactly(1)
            visit.reset()

        async with stage(upgrade_protocols=("echo",)) as router:
            box = await router.sandbox(after_the_switch(die, SWITCHED_ECHO))
            client = await upgraded(router, box, *ECHO)
            assert await client.exactly(4) == b"half"
            await client.send(b"x")
            with pytest.raises(ConnectionResetError):
                await client.rest()
            assert await line_of_the_tunnel(router) == (101, "upstream_closed")


class TestRaces:
    @pytest.mark.parametrize("size", [0, 10, 200_000])
    async def test_a_switch_that_comes_with_its_end_leaves_the_other_half_open(self, size: int) -> None:
        async def switch_and_end(visit: Visit) -> None:
            await visit.head()
            visit.writer.write(SWITCHED_ECHO + b"x" * size)
            visit.writer.write_eof()
            await visit.until(b"the last")

        async with stage(upgrade_protocols=("echo",)) as router:
            client = await upgraded(router, await router.sandbox(switch_and_end), *ECHO)
            assert await client.rest() == b"x" * size
            await client.send(b"y" * 100_000 + b"the last")
            client.writer.write_eof()
            assert await line_of_the_tunnel(router) == (101, None)
            assert router.sandboxes[0].received.endswith(b"y" * 100_000 + b"the last")

    async def test_a_client_that_ends_right_behind_its_upgrade_has_left(self) -> None:
        async def wait(visit: Visit) -> None:
            await visit.head()
            await visit.gone()

        async with stage() as router:
            box = await router.sandbox(wait)
            client = await router.client()
            client.writer.write(request(box, *UPGRADE))
            client.writer.write_eof()
            assert await client.rest() == b""
            assert await line_of_the_tunnel(router) == (499, "client_closed")
            await eventually(lambda: all(visit.ended for visit in box.visits))

    async def test_a_client_that_leaves_during_the_dial_gives_its_share_back(self) -> None:
        listener, filler = full_listener()
        async with stage() as router:
            router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
            client = await router.client()
            await client.send(request(listener.getsockname()[1], *UPGRADE))
            await eventually(lambda: repr(router.server.tunnels) == "<Tunnels 1 of 1 clients>")
            client.close()
            assert await line_of_the_tunnel(router) == (499, "client_closed")
        listener.close()
        filler.close()

    async def test_much_that_came_behind_the_request_is_not_lost(self) -> None:
        frames = (b"\x82\xff" + (300_000).to_bytes(8) + b"mask" + b"x" * 300_000) * 2
        may_switch = asyncio.Event()

        async def switch_late(visit: Visit) -> None:
            await visit.head()
            await may_switch.wait()
            await visit.send(SWITCHED)
            await visit.exactly(len(frames))
            await visit.send(CLOSE)

        async with stage() as router:
            box = await router.sandbox(switch_late)
            client = await router.client()
            client.writer.write(request(box, *UPGRADE) + frames)
            await eventually(lambda: any(each.reading_paused for each in router.server.connections))
            may_switch.set()
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            assert await client.exactly(4) == CLOSE
            assert box.received.endswith(b"\r\n\r\n" + frames)

    @pytest.mark.parametrize(
        ("said", "status"), [(SWITCHED + CLOSE, b"502"), (b"HTTP/1.1 200 OK\r\n\r\nbye", b"200")]
    )
    async def test_a_sandbox_that_spoke_and_ended_before_it_was_asked_keeps_nobody_waiting(
        self, said: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dial = Pool.dial

        async def late(pool: Pool, target: Target, limit: float, attempts: Attempts) -> Lease:
            lease = await dial(pool, target, limit, attempts)
            await eventually(lambda: lease.connection.eof)
            return lease

        async def hasty(visit: Visit) -> None:
            await visit.send(said)

        monkeypatch.setattr(Pool, "dial", late)
        async with stage() as router:
            client = await router.client()
            await client.send(request(await router.sandbox(hasty), *UPGRADE, b"Connection: close"))
            assert (await client.rest())[9:12] == status

    async def test_an_upgrade_on_a_stale_connection_is_sent_again(self) -> None:
        async def once(visit: Visit) -> None:
            head, _ = await read_request(visit)
            if b"Upgrade" in head:
                await visit.send(SWITCHED)
                await visit.gone()
            await visit.send(ok())
            await visit.head()
            visit.close()

        async with stage() as router:
            box = await router.sandbox(once)
            client = await router.client()
            await client.send(request(box))
            await client.response()
            await client.send(request(box, *UPGRADE))
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            assert len(box.visits) == 2


class TestLimits:
    async def test_a_frame_that_does_not_end_is_cut_without_a_close_frame(self) -> None:
        async def stall(visit: Visit) -> None:
            await visit.send(b"\x82\x05ab")
            await visit.gone()

        async with stage(websocket_max_lifetime=0.3) as router:
            box = await router.sandbox(after_the_switch(stall))
            client = await upgraded(router, box, behind=b"\x82\x85\0\0\0\0ab")
            assert await client.rest() == b"\x82\x05ab"
            assert box.received.endswith(b"\r\n\r\n\x82\x85\0\0\0\0ab")

    async def test_sides_that_talk_without_pause_get_their_close_frames(self) -> None:
        async def talk(visit: Visit) -> None:
            while not visit.reader.at_eof():
                await visit.send(b"\x82\x7e\x10\0" + b"x" * 4096)
                await asyncio.sleep(0)

        async def hear(visit: Visit) -> None:
            talking = asyncio.create_task(talk(visit))
            await visit.gone()
            await talking

        async with stage(websocket_max_lifetime=0.3) as router:
            box = await router.sandbox(after_the_switch(hear))
            client = await upgraded(router, box)

            async def shout() -> None:
                while not client.reader.at_eof():
                    await client.send(b"\x82\xfe\x10\0mask" + b"x" * 4096)
                    await asyncio.sleep(0)

            shouting = asyncio.create_task(shout())
            heard = await client.rest()
            await asyncio.gather(shouting, return_exceptions=True)
            await eventually(lambda: box.visits[0].ended)
            sent = box.received.partition(b"\r\n\r\n")[2]
        close = b"\x88\x17\x03\xe9max lifetime exceeded"
        assert heard == b"\x82\x7e\x10\0".join([b"", *[b"x" * 4096] * (len(heard) // 4100)]) + close
        assert len(sent) % 4104 == len(close) + 4

    async def test_a_sandbox_that_stops_reading_stops_the_client(self) -> None:
        async def stall(visit: Visit) -> None:
            visit.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await stalled.wait()

        stalled = asyncio.Event()
        async with stage() as router:
            client = await upgraded(router, await router.sandbox(after_the_switch(stall)))
            client.writer.write(b"\x82\xff" + (2**40).to_bytes(8) + b"mask" + b"x" * 50_000_000)
            await eventually(lambda: any(each.reading_paused for each in router.server.connections))
            left = await settled(client.writer.transport.get_write_buffer_size)
            assert left > 20_000_000
            (connection,) = router.server.connections
            assert len(connection.buffer) == 0
            stalled.set()
