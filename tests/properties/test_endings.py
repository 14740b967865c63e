"""However an exchange, a connection or the router ends: nothing is left behind, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter.demo.dns import DnsServer
from fastrouter.net.inbound import Phase
from fastrouter.net.resolver import Resolver
from fastrouter.net.upstream import State
from tests.properties.mute import Mute
from tests.support import LIMIT, Stage, Visit, always, eventually, free_port, ok, request, stage


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage() as set_:
        yield set_


@pytest.fixture
async def mute(router: Stage) -> AsyncIterator[Mute]:
    client = Mute(router)
    yield client
    client.socket.close()


async def nothing_is_left(router: Stage) -> None:
    """Wait for the end of all connections; assert that no lease, gate or question outlived them."""
    server = router.server
    await eventually(lambda: not server.connections)
    statistics = server.pool.statistics()
    assert statistics["upstream_active"] == 0
    assert statistics["acquired"] == statistics["released"] + statistics["discarded"]
    # A gate belongs to a request under way, and all of those are over.
    assert "gates=0" in repr(server.pool.dialer)


BODY = b"x" * 2000
CHUNKED = b"Transfer-Encoding: chunked"
SCENES = {
    "GET": (b"GET", b"", b""),
    "an upload": (b"POST", b"Content-Length: 2000", BODY),
    "an unfinished upload": (b"POST", b"Content-Length: 4000", BODY),
    "a chunked upload": (b"PUT", CHUNKED, b"7d0\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a malformed chunk": (b"PUT", CHUNKED, b"7d0\r\n" + BODY + b"\r\n-1\r\n"),
}


@settings(max_examples=60)
@given(
    scene=st.sampled_from(sorted(SCENES)),
    clients=st.integers(1, 3),
    turns=st.lists(st.integers(0, 40), min_size=3, max_size=3),
    answer=st.sampled_from(["whole", "in pieces", "short", "never", "refused", "unknown"]),
    reset=st.booleans(),
)
async def test_a_client_may_leave_at_any_turn(
    scene: str, clients: int, turns: list[int], answer: str, reset: bool
) -> None:
    async def handle(visit: Visit) -> None:
        await visit.head()
        if answer == "never":
            await visit.gone()
        for piece in [ok(BODY)] if answer == "whole" else [ok(BODY)[:100], ok(BODY)[100:]]:
            visit.writer.write(piece)
            await asyncio.sleep(0)
            if answer == "short":
                return
        await visit.gone()

    method, framing, body = SCENES[scene]
    async with stage(dial_retry=0.1) as router:
        port = (await router.sandbox(handle)).port if answer != "refused" else free_port()
        name = b"nobody" if answer == "unknown" else b"box"
        router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
        for turn in turns[:clients]:
            client = await router.client()
            fields = [framing] if framing else []
            client.writer.write(request(port, *fields, method=method, name=name) + body)
            for _ in range(turn):
                await asyncio.sleep(0)
            if reset:
                client.writer.transport.abort()
            else:
                client.close()
        await nothing_is_left(router)


async def test_a_client_that_never_takes_the_end_of_its_answer_is_cut_off(router: Stage, mute: Mute) -> None:
    box = await router.sandbox(always(ok(b"x" * 8 * 2**20, b"Connection: close")))
    side = await mute.connect()
    await mute.send(request(box, b"Connection: close"))
    while side.phase is not Phase.CLOSING:
        await mute.read()
    assert side.transport.get_write_buffer_size() > 0
    side.tick(time.monotonic())
    assert side in router.server.connections
    side.tick(time.monotonic() + 1000)  # what moved since the last look gives it another term
    side.tick(time.monotonic() + 2000)
    await eventually(lambda: side not in router.server.connections)


async def test_shutdown_does_not_wait_for_a_client_that_never_reads(router: Stage, mute: Mute) -> None:
    box = await router.sandbox(always(ok(b"x" * 8 * 2**20)))
    side = await mute.connect()
    await mute.send(request(box))
    while side.phase is not Phase.IDLE:
        await mute.read()
    assert side.transport.get_write_buffer_size() > 0
    async with asyncio.timeout(5):
        await router.server.shutdown()
    assert not router.server.connections


async def test_an_idle_connection_whose_sandbox_never_read_the_request_is_closed_all_the_same() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        async with stage(keepalive_expiry=0.0) as router:
            router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
            client = await router.client()
            port = listener.getsockname()[1]
            await client.send(request(port, b"Content-Length: 50000", method=b"POST"))
            sandbox, _ = await asyncio.wait_for(loop.sock_accept(listener), LIMIT)
            with sandbox:
                (side,) = router.server.connections
                await eventually(lambda: side._exchange.upstream is not None)
                upstream = side._exchange.upstream
                assert upstream is not None
                # What the sandbox does not take should show in the router, not in the kernel's own buffer.
                sock = upstream.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                await client.send(b"x" * 50_000)
                await eventually(lambda: upstream.transport.get_write_buffer_size() > 0 and not side.pipe)
                await loop.sock_sendall(sandbox, ok())
                await client.response()
                # It is kept or it is not: soon the pool knows of no open connection, and that is true.
                await eventually(lambda: router.server.pool.open == 0)
                await eventually(lambda: upstream.state is State.CLOSED)


async def test_shutdown_ends_with_the_last_exchange_which_says_so() -> None:
    go_on = asyncio.Event()

    async def handle(visit: Visit) -> None:
        await visit.head()
        await go_on.wait()
        await visit.send(ok())
        await visit.gone()

    async with stage(shutdown_grace=60.0) as router:
        box = await router.sandbox(handle)
        client = await router.client()
        await client.send(request(box))
        await eventually(lambda: box.received.endswith(b"\r\n\r\n"))
        shutdown = asyncio.ensure_future(router.server.shutdown())
        await eventually(lambda: router.server.shutting_down)
        go_on.set()
        head, body = await client.response()
        assert b"\r\nConnection: close\r\n" in head
        assert body == b"ok"
        assert await client.rest() == b""
        async with asyncio.timeout(5):
            await shutdown


async def test_shutdown_ends_with_the_last_failure() -> None:
    async def handle(visit: Visit) -> None:
        await visit.head()
        await go_on.wait()

    go_on = asyncio.Event()
    async with stage(shutdown_grace=60.0) as router:
        box = await router.sandbox(handle)
        client = await router.client()
        await client.send(request(box))
        await eventually(lambda: box.received.endswith(b"\r\n\r\n"))
        shutdown = asyncio.ensure_future(router.server.shutdown())
        await eventually(lambda: router.server.shutting_down)
        go_on.set()
        head, _ = await client.response()
        assert head.startswith(b"HTTP/1.1 502 ")
        assert b"\r\nConnection: close\r\n" in head
        async with asyncio.timeout(5):
            await shutdown


async def test_shutdown_waits_for_a_slow_reader_and_no_longer() -> None:
    async with stage(shutdown_grace=60.0) as router:
        size = 2**20
        box = await router.sandbox(always(ok(b"x" * size)))
        mute = Mute(router)
        side = await mute.connect()
        await mute.send(request(box))
        received = 0
        while side.phase is not Phase.IDLE:
            received += len(await mute.read())
        assert side.transport.get_write_buffer_size() > 0
        shutdown = asyncio.ensure_future(router.server.shutdown())
        await eventually(lambda: router.server.shutting_down)
        for _ in range(100):
            await asyncio.sleep(0)  # time to go wrong: the answer has not been taken yet
        while piece := await mute.read():
            received += len(piece)
        assert received == len(ok(b"x" * size))
        async with asyncio.timeout(5):
            await shutdown
        mute.socket.close()


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "not dialled"])
async def test_a_body_that_came_before_the_refusal_leaves_the_connection_idle_not_draining(
    router: Stage, refused: bool
) -> None:
    client = await router.client()
    fields = b"X-Sandbox-ID: nowhere\r\n" if refused else b""
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n%bContent-Length: 5\r\n\r\nhe" % fields)
    if not refused:
        assert (await client.error())[2] == "missing_sandbox_id"
    await client.send(b"llo")
    if refused:
        assert (await client.error())[2] == "dns_not_found"
    (side,) = router.server.connections
    await eventually(lambda: side.phase is Phase.IDLE)
    assert side.deadline - time.monotonic() > 600


async def test_a_channel_that_is_retired_between_two_questions_still_answers_the_second() -> None:
    dns = DnsServer({"six.test": ["::1"], "four.test": ["127.0.0.1"]})
    await dns.start()
    resolver = Resolver([dns.address])
    await resolver.resolve("four.test")
    resolver.forget("four.test")
    # The first asks for A, then for AAAA; the second asks anew, for which the channel has to go.
    six = asyncio.ensure_future(resolver.resolve("six.test"))
    await asyncio.sleep(0)
    four = asyncio.ensure_future(resolver.resolve("four.test"))
    async with asyncio.timeout(LIMIT):
        assert await six == ["::1"]
        assert await four == ["127.0.0.1"]
    await resolver.close()
    await dns.close()
