"""What attackers try with upgrades: shares of tunnels, odd protocols, smuggling through a tunnel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from tests.attacking import ALLOWED, OPEN, UPGRADE, raw, status_and_sent
from tests.support import Client, ScriptedSandbox, Stage, Visit, always, eventually, ok, request, stage

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class TestShares:
    """A client must not get more than its share of tunnels by what it says of itself."""

    @pytest.mark.parametrize(
        ("trusted", "chain"),
        [
            ((), b"203.0.113.%d"),
            ((ip_network("10.0.0.0/8"),), b"203.0.113.%d"),
            # What a proxy adds is the rightmost hop, whatever its client wrote before.
            ((ip_network("127.0.0.0/8"),), b"10.0.0.%d, 203.0.113.5"),
            ((ip_network("127.0.0.0/8"),), b"%d, 203.0.113.5, 127.0.0.9"),
        ],
    )
    async def test_a_forged_chain_is_no_second_client(
        self, trusted: tuple[object, ...], chain: bytes
    ) -> None:
        async with stage(websocket_max_per_client=1, trusted_proxies=trusted) as router:
            box = await router.sandbox(switch_and_wait)
            for number in range(3):
                client = await router.client()
                await client.send(request(box, *UPGRADE, b"X-Forwarded-For: " + chain % number))
                assert (await client.head())[9:12] == (b"429" if number else b"101")

    async def test_clients_behind_one_proxy_are_several(self) -> None:
        async with stage(websocket_max_per_client=1, trusted_proxies=(ip_network("127.0.0.0/8"),)) as router:
            box = await router.sandbox(switch_and_wait)
            for hop in (b"203.0.113.5", b"203.0.113.6"):
                client = await router.client()
                await client.send(request(box, *UPGRADE, b"X-Forwarded-For: " + hop))
                assert (await client.head())[9:12] == b"101"

    async def test_upgrades_that_fail_give_their_share_back(self) -> None:
        async with stage(websocket_max_per_client=1) as router:
            box = await router.sandbox(always(ok()))
            for name in (b"box", b"nobody", b"box"):
                client = await router.client()
                await client.send(request(box, *UPGRADE, name=name))
                assert (await client.response())[0][9:12] == (b"502" if name == b"nobody" else b"200")
            assert repr(router.server.tunnels) == "<Tunnels 0 of 0 clients>"


async def switch_and_wait(visit: Visit) -> None:
    await visit.head()
    await visit.send(SWITCHED)
    await visit.gone()


async def upgraded(router: Stage, box: ScriptedSandbox, *fields: bytes) -> tuple[Client, bytes]:
    client = await router.client()
    await client.send(request(box, *(fields or UPGRADE)))
    return client, await client.head()


class TestSwitch:
    @pytest.mark.parametrize(
        "data",
        [
            raw(*UPGRADE, b"Transfer-Encoding: chunked", behind=b"0\r\n\r\n"),
            raw(*UPGRADE, b"Content-Length: 3", behind=b"abc"),
            raw(*UPGRADE).replace(b"HTTP/1.1", b"HTTP/1.0"),
            raw(b"Connection: keep-alive", b"Upgrade: websocket"),
            raw(b"Connection: Upgrade"),
            raw(b"Connection: Upgrade", b"Upgrade: h2c"),
            raw(b"Connection: Upgrade", b"Upgrade: H2C , \th2c"),
            raw(b"Connection: Upgrade", b"Upgrade: h2c/1, websocket/13"),
            raw(b"Connection: Upgrade", b'Upgrade: "websocket"'),
            raw(b"Connection: Upgrade", b"Upgrade: web socket"),
        ],
    )
    async def test_what_is_no_upgrade_offers_the_sandbox_none(self, data: bytes) -> None:
        status, sent = await status_and_sent(data, replace(OPEN, upgrade_protocols=("websocket", "h2c")))
        assert status == 200
        assert b"upgrade" not in sent.lower()

    @pytest.mark.parametrize(
        "lines",
        [
            (b"Connection: Upgrade", b"Upgrade: h2c, websocket"),
            (b"Connection: Upgrade", b"Upgrade: h2c", b"Upgrade: websocket"),
            (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: websocket", b"HTTP2-Settings: AAMAAABk"),
            (b"Connection: close, uPgRaDe", b"Upgrade: websocket, h2c"),
            (b"Connection: close", b"Connection: Upgrade", b"Upgrade: websocket"),
        ],
    )
    async def test_of_several_protocols_only_the_allowed_one_is_offered(
        self, lines: tuple[bytes, ...]
    ) -> None:
        _, sent = await status_and_sent(raw(*lines), replace(OPEN, upgrade_protocols=("websocket", "h2c")))
        assert sent.count(b"Upgrade: ") == 1
        assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in sent
        assert b"h2c" not in sent.lower()
        assert b"HTTP2-Settings" not in sent

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\n\r\n",
            b"HTTP/1.1 101 x\r\nUpgrade: h2c\r\n\r\n",
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
            b"HTTP/1.1 101 x\r\nUpgrade: websocket, h2c\r\n\r\n",
            b"HTTP/1.1 101 x\r\nUpgrade:\r\n\r\n",
        ],
    )
    async def test_a_switch_to_anything_else_is_a_502(self, answer: bytes) -> None:
        async with stage() as router:
            client = await router.client()
            await client.send(request(await router.sandbox(always(answer)), *UPGRADE))
            assert (await client.error())[::2] == (502, "upstream_protocol_error")

    @pytest.mark.parametrize("framing", [b"Content-Length: 3", b"Transfer-Encoding: chunked"])
    async def test_a_101_has_no_body_whatever_it_says(self, framing: bytes) -> None:
        frames = b"\x82\x03onePOST / HTTP/1.1\r\n\r\n"

        async def switch(visit: Visit) -> None:
            await visit.head()
            await visit.send(SWITCHED[:-2] + framing + b"\r\n\r\n" + frames)
            visit.close()

        async with stage() as router:
            client, head = await upgraded(router, await router.sandbox(switch))
            assert framing.partition(b":")[0] not in head
            client.writer.write_eof()
            assert (await client.rest()).startswith(b"\x82\x03one")

    async def test_what_passes_through_a_tunnel_is_no_request_and_its_connection_is_not_kept(self) -> None:
        async def switch_once(visit: Visit) -> None:
            await visit.head()
            await visit.send(SWITCHED)
            await visit.until(b"/smuggled HTTP/1.1\r\n\r\n")
            await visit.send(b"\x88\x00")
            visit.close()

        async with stage(auth_token="secret") as router:
            box = await router.sandbox(switch_once)
            client, _ = await upgraded(router, box, *UPGRADE, ALLOWED)
            await client.send(b"GET /smuggled HTTP/1.1\r\n\r\n")
            assert await client.exactly(2) == b"\x88\x00"
            client.writer.write_eof()
            assert await client.rest() == b""
            await eventually(lambda: not router.server.connections)
            assert [line["status"] for line in router.access_lines()] == [101]
            assert router.server.pool.statistics()["upstream_idle"] == 0

    async def test_a_client_that_sends_before_the_switch_waits_in_its_own_socket(self) -> None:
        async def never_switch(visit: Visit) -> None:
            await visit.head()
            await visit.gone()

        async with stage() as router:
            box = await router.sandbox(never_switch)
            client = await router.client()
            client.writer.write(request(box, *UPGRADE) + b"\x82\xff" + b"x" * 20_000_000)
            await eventually(lambda: any(each.reading_paused for each in router.server.connections))
            (connection,) = router.server.connections
            assert len(connection.buffer) < 1_000_000
            await eventually(lambda: bool(box.received))
            assert box.received.endswith(b"\r\n\r\n")

    async def test_a_switch_during_the_shutdown_gets_its_close_frame(self) -> None:
        async def switch_late(visit: Visit) -> None:
            await visit.head()
            for connection in router.server.connections:
                connection.finish()  # what the shutdown does first
            await visit.send(SWITCHED)
            await visit.gone()

        async with stage() as router:
            client, _ = await upgraded(router, await router.sandbox(switch_late))
            assert await client.rest() == b"\x88\x1d\x03\xe9the router is shutting down"
