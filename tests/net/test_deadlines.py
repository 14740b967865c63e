"""The sweep, and the inactivity limits that it keeps (contract section 5)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from fastrouter.net.deadlines import INTERVAL_SECONDS, Sweep
from tests.support import Client, Stage, Visit, always, eventually, ok, request, stage

SILENT = (504, "Timed out waiting for the backend sandbox: box", "upstream_timeout")
STALLED = (408, "Timed out reading the request.", "request_timeout")


async def mute(visit: Visit) -> None:
    await visit.gone()


async def seconds(client: Client, expected: tuple[int, str, str]) -> float:
    began = time.monotonic()
    assert await client.error() == expected
    return time.monotonic() - began


class TestSweep:
    async def test_it_calls_again_and_again_until_stopped(self) -> None:
        calls: list[float] = []
        sweep = Sweep([lambda: calls.append(time.monotonic())])
        sweep.start()
        await eventually(lambda: len(calls) == 3)
        sweep.stop()
        assert calls[2] - calls[0] == pytest.approx(2 * INTERVAL_SECONDS, abs=0.1)
        await asyncio.sleep(2 * INTERVAL_SECONDS)
        assert len(calls) == 3

    async def test_a_callback_that_fails_does_not_end_it(self) -> None:
        failures: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

        def fail() -> None:
            raise ZeroDivisionError

        sweep = Sweep([fail])
        sweep.start()
        await eventually(lambda: len(failures) == 2)
        sweep.stop()

    def test_it_may_be_stopped_before_it_started(self) -> None:
        Sweep([]).stop()


class TestSilence:
    async def test_a_silent_sandbox_is_a_504_and_a_trickling_one_is_not_cut(self) -> None:
        async def trickle(visit: Visit) -> None:
            await visit.head()
            await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
            for _ in range(6):
                await asyncio.sleep(1)
                await visit.send(b".")

        async with stage(proxy_timeout=2.0) as router:
            silent, slow = await router.sandbox(mute), await router.sandbox(trickle, "slow")
            one, other = await router.client(), await router.client()
            await other.send(request(slow, name=b"slow"))
            await one.send(request(silent))
            assert 2.0 <= await seconds(one, SILENT) <= 3.0
            await eventually(lambda: silent.visits[0].ended)
            assert (await other.response())[1] == b"......"

    @pytest.mark.parametrize(
        "begin",
        [b"HTTP/1.1 200 O", b"HTTP/1.1 100 Continue\r\n\r\n"],
        ids=["part of a head", "an informational response"],
    )
    async def test_the_start_of_a_response_is_no_response(self, begin: bytes) -> None:
        async def stop(visit: Visit) -> None:
            await visit.head()
            await visit.send(begin)
            await visit.gone()

        async with stage(proxy_timeout=0.5) as router:
            client = await router.client()
            await client.send(request(await router.sandbox(stop)))
            if begin.endswith(b"\r\n\r\n"):
                await client.head()
            assert (await client.error()) == SILENT

    async def test_a_trickle_of_a_head_does_not_prolong_its_time(self) -> None:
        async def trickle(visit: Visit) -> None:
            await visit.head()
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 600:
                await visit.send(bytes([byte]))
                await asyncio.sleep(0.01)  # the pace of the sandbox is the case

        async with stage(proxy_timeout=0.5) as router:
            client = await router.client()
            began = time.monotonic()
            await client.send(request(await router.sandbox(trickle)))
            assert await client.error() == SILENT
            assert time.monotonic() - began < 2.0

    @pytest.mark.parametrize(
        ("begin", "truncated"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"abc"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"3\r\nabc\r\n"),
            (b"HTTP/1.1 200 OK\r\n\r\nabc", None),
        ],
    )
    async def test_a_body_that_stalls_is_truncated(self, begin: bytes, truncated: bytes | None) -> None:
        async def stop(visit: Visit) -> None:
            await visit.head()
            await visit.send(begin)
            await visit.gone()

        async with stage(proxy_timeout=0.5) as router:
            box = await router.sandbox(stop)
            client = await router.client()
            await client.send(request(box))
            await client.head()
            if truncated is None:
                with pytest.raises(ConnectionResetError):
                    await client.rest()
            else:
                assert await client.rest() == truncated
            await eventually(lambda: box.visits[0].ended)
            (line,) = router.access_lines()
            assert (line["status"], line["error"]) == (200, "upstream_timeout")

    async def test_a_sandbox_may_be_slow_while_the_upload_moves(self) -> None:
        async def late(visit: Visit) -> None:
            await visit.head()
            await visit.exactly(8)
            await visit.send(ok(b"late"))

        async with stage(proxy_timeout=0.7) as router:
            client = await router.client()
            await client.send(request(await router.sandbox(late), b"Content-Length: 8", method=b"POST"))
            for _ in range(8):
                await asyncio.sleep(0.2)
                await client.send(b".")
            assert (await client.response())[1] == b"late"

    async def test_each_request_of_a_connection_has_its_own_time(self) -> None:
        async def half_a_second(visit: Visit) -> None:
            while True:
                await visit.head()
                await asyncio.sleep(0.5)
                await visit.send(ok())

        async with stage(proxy_timeout=0.8) as router:
            box = await router.sandbox(half_a_second)
            client = await router.client()
            for _ in range(3):
                await client.send(request(box))
                assert (await client.response())[1] == b"ok"

    async def test_the_connection_goes_on_after_a_504(self) -> None:
        async with stage(proxy_timeout=0.3) as router:
            silent, alive = await router.sandbox(mute), await router.sandbox(always(ok()), "alive")
            client = await router.client()
            await client.send(request(silent) + request(alive, name=b"alive"))
            assert await client.error() == SILENT
            assert (await client.response())[1] == b"ok"


class TestStalledClients:
    async def test_an_upload_that_stalls_is_a_408(self) -> None:
        async with stage(proxy_timeout=0.5) as router:
            box = await router.sandbox(mute)
            client = await router.client()
            await client.send(request(box, b"Content-Length: 10", method=b"POST") + b"abc")
            assert 0.5 <= await seconds(client, STALLED) <= 1.5
            assert await client.rest() == b""
            await eventually(lambda: box.visits[0].ended)

    async def test_a_sandbox_that_takes_no_more_of_an_upload_is_a_504(self) -> None:
        async def full(visit: Visit) -> None:
            await visit.head()
            visit.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.Event().wait()

        async with stage(proxy_timeout=0.7) as router:
            box = await router.sandbox(full)
            client = await router.client()
            client.writer.write(request(box, method=b"POST", body=b"x" * 20_000_000))
            assert await client.error() == SILENT

    async def test_a_reader_that_stopped_is_cut_off(self) -> None:
        async with stage(proxy_timeout=0.7) as router:
            box = await router.sandbox(flood)
            sock = await slow_client(router, request(box))
            await eventually(lambda: bool(box.visits))
            began = time.monotonic()
            await eventually(lambda: not router.server.connections)
            assert time.monotonic() - began < 3.0
            await eventually(lambda: box.visits[0].ended)
            sock.close()

    async def test_a_slow_reader_that_moves_is_not_cut_off(self) -> None:
        async with stage(proxy_timeout=0.7) as router:
            box = await router.sandbox(flood)
            sock = await slow_client(router, request(box))
            loop = asyncio.get_running_loop()
            end = loop.time() + 3
            while loop.time() < end:
                assert await loop.sock_recv(sock, 4096)
                await asyncio.sleep(0.05)
            assert len(router.server.connections) == 1
            (connection,) = router.server.connections
            assert connection.writing_paused  # it was slow indeed
            sock.close()


async def flood(visit: Visit) -> None:
    await visit.head()
    await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    with contextlib.suppress(TimeoutError):
        while True:
            await visit.send(b"x" * 65536)


async def slow_client(router: Stage, raw: bytes) -> socket.socket:
    """Connect with a receive buffer so small that every few kilobytes read are told to the router."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(sock, router.server.address)
    await loop.sock_sendall(sock, raw)
    return sock
