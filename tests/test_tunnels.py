"""WebSockets and other upgrades through a real router, with the websockets library on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import Server, ServerConnection
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from bench.serving import raise_file_limit
from tests.support import LIMIT, Client, ScriptedSandbox, Stage, Visit, always, eventually, ok, request, stage

Talk = Callable[[ServerConnection], Awaitable[None]]
UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def sandbox(router: Stage, talk: Talk = echo, **options: object) -> AsyncIterator[int]:
    """Serve WebSockets as sandbox `box`; yield its port."""
    server: Server = await websockets.serve(talk, "127.0.0.1", 0, max_size=None, **options)  # type: ignore[arg-type]
    router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def connect(router: Stage, port: int, **options: object) -> websockets.connect:
    host, own = router.server.address
    headers = {"X-Sandbox-ID": "box", "X-Sandbox-Port": str(port)}
    options.setdefault("proxy", None)
    return websockets.connect(f"ws://{host}:{own}/", additional_headers=headers, max_size=None, **options)  # type: ignore[arg-type]


async def closed(connection: ClientConnection) -> tuple[int, str]:
    """Wait for the close frame; return code and reason."""
    await asyncio.wait_for(connection.wait_closed(), LIMIT)
    assert connection.close_code is not None
    return connection.close_code, connection.close_reason or ""


class TestMessages:
    @pytest.mark.parametrize("compression", ["deflate", None])
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 2**20, 15 * 2**20])
    async def test_messages_of_any_size_pass(self, size: int, compression: str | None) -> None:
        async with (
            stage() as router,
            sandbox(router) as port,
            connect(router, port, compression=compression) as connection,
        ):
            assert bool(connection.protocol.extensions) is (compression is not None)
            for message in ("t" * size, b"\xfe" * size):
                await connection.send(message)
                assert await connection.recv() == message

    async def test_fragments_pings_and_a_subprotocol_pass(self) -> None:
        async with (
            stage() as router,
            sandbox(router, subprotocols=["chat"]) as port,
            connect(router, port, subprotocols=["chat", "other"]) as connection,
        ):
            assert connection.subprotocol == "chat"
            await connection.send([b"a" * 70000, b"", b"b"])
            assert await connection.recv() == b"a" * 70000 + b"b"
            await asyncio.wait_for(await connection.ping(b"payload"), LIMIT)

    async def test_pings_of_the_sandbox_are_answered_by_the_client(self) -> None:
        async def ping(connection: ServerConnection) -> None:
            await asyncio.wait_for(await connection.ping(b"payload"), LIMIT)
            await connection.close(4000)

        async with (
            stage() as router,
            sandbox(router, ping, ping_interval=None) as port,
            connect(router, port, ping_interval=None) as connection,
        ):
            assert await closed(connection) == (4000, "")

    async def test_close_codes_pass_both_ways(self) -> None:
        ends: list[int | None] = []

        async def leave(connection: ServerConnection) -> None:
            if await connection.recv() == "you":
                await connection.close(4001, "said so")
            else:
                await connection.wait_closed()
            ends.append(connection.close_code)

        async with stage() as router, sandbox(router, leave) as port:
            async with connect(router, port) as connection:
                await connection.send("you")
                assert await closed(connection) == (4001, "said so")
            async with connect(router, port) as connection:
                await connection.send("me")
                await connection.close(4002, "enough")
            await eventually(lambda: ends == [4001, 4002])
            await eventually(lambda: not router.server.connections)
            lines = router.access_lines()
        assert [(line["status"], line["error"]) for line in lines] == [(101, None), (101, None)]

    async def test_a_thousand_tunnels_at_once(self) -> None:
        raise_file_limit()  # four ends of each are in this process
        async with stage(websocket_max_per_client=0) as router, sandbox(router) as port:
            tunnels = await asyncio.gather(*(connect(router, port, compression=None) for _ in range(1000)))
            assert len(asyncio.all_tasks()) < 6000
            for number, tunnel in enumerate(tunnels):
                await tunnel.send(str(number))
            assert [await tunnel.recv() for tunnel in tunnels] == [str(number) for number in range(1000)]
            await asyncio.gather(*(tunnel.close() for tunnel in tunnels))
            await eventually(lambda: not router.server.connections)
            assert repr(router.server.tunnels) == "<Tunnels 0 of 0 clients>"


class TestLimits:
    async def test_an_idle_tunnel_is_closed_on_both_sides(self) -> None:
        seen: list[tuple[int, str]] = []

        async def wait(connection: ServerConnection) -> None:
            await connection.wait_closed()
            seen.append((connection.close_code or 0, connection.close_reason or ""))

        async with stage(websocket_idle_timeout=0.5) as router, sandbox(router, wait) as port:
            async with connect(router, port) as connection:
                assert await closed(connection) == (1001, "idle timeout exceeded")
            await eventually(lambda: seen == [(1001, "idle timeout exceeded")])

    async def test_a_tunnel_that_lived_long_enough_is_closed(self) -> None:
        async with (
            stage(websocket_max_lifetime=0.6) as router,
            sandbox(router) as port,
            connect(router, port) as connection,
        ):
            await connection.send("x")
            assert await closed(connection) == (1001, "max lifetime exceeded")

    async def test_a_message_too_big_from_the_sandbox_is_not_passed_on(self) -> None:
        seen: list[int | None] = []

        async def shout(connection: ServerConnection) -> None:
            await connection.send(b"x" * 1000)
            await connection.send([b"x" * 900, b"x" * 101])
            await connection.wait_closed()
            seen.append(connection.close_code)

        async with stage(websocket_max_message=1000) as router, sandbox(router, shout) as port:
            async with connect(router, port, compression=None) as connection:
                assert await connection.recv() == b"x" * 1000
                assert await closed(connection) == (1009, "message too big")
            await eventually(lambda: seen == [1009])

    async def test_a_client_has_its_share_of_tunnels(self) -> None:
        async with stage(websocket_max_per_client=2) as router, sandbox(router) as port:
            first = await connect(router, port)
            async with connect(router, port):
                with pytest.raises(InvalidStatus) as refused:
                    await connect(router, port)
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["X-Sandbox-Router-Error"] == "too_many_connections"
            await eventually(lambda: repr(router.server.tunnels) == "<Tunnels 1 of 1 clients>")
            async with connect(router, port) as connection:
                await connection.send("in")
                assert await connection.recv() == "in"
            await first.close()

    async def test_shutdown_closes_tunnels_with_their_frame(self) -> None:
        async with stage(shutdown_grace=5.0) as router, sandbox(router) as port:
            async with connect(router, port) as connection:
                ending = asyncio.create_task(router.server.shutdown())
                assert (await closed(connection))[0] == 1001
            await asyncio.wait_for(ending, 4.0)

    async def test_no_close_frame_stands_within_a_frame(self) -> None:
        whole = Frame(Opcode.BINARY, b"x" * 1000).serialize(mask=False)

        async def half(visit: Visit) -> None:
            await visit.head()
            await visit.send(SWITCHED + whole[:500])
            while b"idle timeout" not in unmasked(visit.received):
                await visit.read()
            await visit.send(whole[500:])
            await visit.gone()

        async with stage(websocket_idle_timeout=0.3) as router:
            box = await router.sandbox(half)
            client = await upgraded(router, box)
            rest = await client.rest()
        assert rest == whole + b"\x88\x17\x03\xe9idle timeout exceeded"


def unmasked(received: bytearray) -> bytes:
    """Return the payload of the masked frame at the end of what a sandbox received."""
    frame = bytes(received).rpartition(b"\r\n\r\n")[2]
    mask = frame[2:6]
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(frame[6:]))


async def upgraded(router: Stage, box: ScriptedSandbox, *fields: bytes, behind: bytes = b"") -> Client:
    client = await router.client()
    await client.send(request(box, *(fields or UPGRADE)) + behind)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nConnection: Upgrade\r\n" in head
    return client


class TestRawBytes:
    async def test_nothing_is_lost_around_the_switch(self) -> None:
        async def early(visit: Visit) -> None:
            await visit.head()
            await visit.send(SWITCHED + b"\x82\x03one")
            await visit.exactly(9)
            await visit.send(b"\x82\x03two")
            await visit.gone()

        async with stage() as router:
            box = await router.sandbox(early)
            client = await upgraded(router, box, behind=b"\x82\x83\0\0\0\0abc")
            assert await client.exactly(10) == b"\x82\x03one\x82\x03two"
            assert box.received.endswith(b"\r\n\r\n\x82\x83\0\0\0\0abc")

    async def test_each_half_closes_by_itself(self) -> None:
        async def answer_at_the_end(visit: Visit) -> None:
            await visit.head()
            await visit.send(SWITCHED.replace(b"websocket", b"echo"))
            while await visit.read():
                pass
            await visit.send(b"all of it: %d" % len(visit.received.partition(b"\r\n\r\n")[2]))

        async with stage(upgrade_protocols=("echo",)) as router:
            box = await router.sandbox(answer_at_the_end)
            client = await upgraded(router, box, b"Connection: upgrade", b"Upgrade: Echo")
            await client.send(b"x" * 300_000)
            client.writer.write_eof()
            assert await client.rest() == b"all of it: 300000"
            await eventually(lambda: not router.server.connections)
            assert router.access_lines()[0]["error"] is None

    async def test_a_sandbox_that_dies_ends_the_tunnel(self) -> None:
        async def die(visit: Visit) -> None:
            await visit.head()
            await visit.send(SWITCHED)
            await visit.exactly(7)
            visit.reset()

        async with stage() as router:
            client = await upgraded(router, await router.sandbox(die))
            await client.send(b"\x82\x81\0\0\0\0x")
            assert await client.rest() == b""
            await eventually(lambda: not router.server.connections)

    async def test_a_side_that_stops_reading_stops_the_other(self) -> None:
        async def pour(visit: Visit) -> None:
            await visit.head()
            await visit.send(SWITCHED)
            visit.writer.write(b"\x82\x7f" + (2**40).to_bytes(8) + b"x" * 50_000_000)
            await visit.gone()

        async with stage(websocket_max_message=0) as router:
            client = await upgraded(router, await router.sandbox(pour))
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await eventually(lambda: any(c.writing_paused for c in router.server.connections))
            (connection,) = router.server.connections
            assert connection.transport.get_write_buffer_size() < 600_000


class TestOrdinary:
    @pytest.mark.parametrize(
        ("take", "give", "expected"),
        [
            (b"X-Sandbox-ID: box", b"X-Other: box", (400, "missing_sandbox_id")),
            (b"Bearer secret", b"Bearer guess", (401, "invalid_token")),
            (b"Authorization", b"X-Other", (401, "missing_token")),
            (b"X-Sandbox-ID: box", b"X-Sandbox-ID: nobody", (502, "dns_not_found")),
        ],
    )
    async def test_refusals_are_ordinary_replies_on_a_connection_that_goes_on(
        self, take: bytes, give: bytes, expected: tuple[int, str]
    ) -> None:
        async with stage(auth_token="secret") as router:
            box = await router.sandbox(always(SWITCHED))
            client = await router.client()
            upgrade = request(box, *UPGRADE, b"Authorization: Bearer secret")
            await client.send(upgrade.replace(take, give))
            assert (await client.error())[::2] == expected
            assert not box.visits
            await client.send(upgrade)
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")

    async def test_an_answer_other_than_101_is_an_ordinary_response(self) -> None:
        async with stage() as router:
            box = await router.sandbox(always(ok(b"no")))
            client = await router.client()
            for _ in range(2):
                await client.send(request(box, *UPGRADE))
                assert (await client.response())[1] == b"no"

    @pytest.mark.parametrize(
        "fields",
        [
            (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"),
            (b"Connection: Upgrade", b"Upgrade: TLS/1.0"),
            (b"Upgrade: websocket",),
            (*UPGRADE, b"Content-Length: 1"),
        ],
    )
    async def test_what_is_no_upgrade_loses_its_fields(self, fields: tuple[bytes, ...]) -> None:
        async with stage(upgrade_protocols=("websocket", "h2c")) as router:
            box = await router.sandbox(always(ok()))
            client = await router.client()
            await client.send(request(box, *fields) + b"x" * (b"Content-Length: 1" in fields))
            await client.response()
            assert b"upgrade" not in box.received.lower()
            assert b"http2-settings" not in box.received.lower()

    @pytest.mark.parametrize("fields", [(), UPGRADE])
    async def test_a_switch_that_was_not_asked_for_is_a_502(self, fields: tuple[bytes, ...]) -> None:
        async with stage() as router:
            box = await router.sandbox(always(SWITCHED.replace(b"websocket", b"other")))
            client = await router.client()
            await client.send(request(box, *fields))
            assert (await client.error())[::2] == (502, "upstream_protocol_error")

    @pytest.mark.parametrize("keep", [False, True])
    async def test_origin_stops_here_unless_it_is_wanted(self, keep: bool) -> None:
        async def switch(visit: Visit) -> None:
            await visit.head()
            await visit.send(SWITCHED)
            await visit.gone()

        async with stage(forward_websocket_origin=keep) as router:
            box = await router.sandbox(switch)
            await upgraded(router, box, *UPGRADE, b"Origin: https://elsewhere")
            assert (b"Origin: https://elsewhere" in box.received) is keep
            assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in box.received
