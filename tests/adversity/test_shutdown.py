"""SIGTERM while clients never pause: nothing that was accepted is lost, and tunnels get their close frame."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import Counter
from contextlib import ExitStack

from fastrouter.demo.dns import DnsServer
from tests.adversity.callers import Callers, Street, street
from tests.processes import router_process
from tests.support import (
    LIMIT,
    ScriptedSandbox,
    Stage,
    Visit,
    always,
    eventually,
    ok,
    request,
    stage,
)
from tests.test_tunnels import SWITCHED, UPGRADE, unmasked

GOODBYE = b"the router is shutting down"


async def switch(visit: Visit) -> None:
    """Open a tunnel and listen to it."""
    await visit.head()
    await visit.send(SWITCHED)
    await visit.gone()


async def test_sigterm_under_constant_load_loses_nothing_and_ends_tunnels_with_a_frame() -> None:
    tunnel_box = ScriptedSandbox(switch)
    await tunnel_box.start()
    async with (
        DnsServer({**Street.zone(), "box.default.svc.cluster.local": ["127.0.0.1"]}) as dns,
        street() as boxes,
        router_process(DNS_SERVERS=dns.address) as router,
    ):
        callers = Callers(boxes, lambda: [router.address], may_be_turned_away=True, may_end=True)
        callers.start(10)
        tunnels = [await router.client() for _ in range(5)]
        for tunnel in tunnels:
            await tunnel.send(request(tunnel_box, *UPGRADE))
            assert (await tunnel.head()).startswith(b"HTTP/1.1 101 ")
        await callers.warm(200)
        router.process.send_signal(signal.SIGTERM)
        for tunnel in tunnels:
            assert await tunnel.rest() == b"\x88\x1d\x03\xe9" + GOODBYE
            tunnel.close()
        assert await asyncio.wait_for(router.process.wait(), LIMIT) == 0
        await eventually(lambda: callers.finished)
        tally = await callers.stop()
    assert tally.failures == []
    assert tally.told_to_leave
    assert [unmasked(visit.received) for visit in tunnel_box.visits] == [b"\x03\xe9" + GOODBYE] * 5
    await tunnel_box.close()
    # Every request that the router took has its line, with what its client was told.
    lines = Counter(line["status"] for line in router.lines if "status" in line)
    told = {200: tally.answered, 101: 5, 503: tally.turned_away}
    assert lines == {status: count for status, count in told.items() if count}


class TestKernel:
    """What the kernel has for the router when the signal comes: the event loop has had no turn to take it."""

    async def test_connections_in_the_accept_queue_are_answered_not_reset(self) -> None:
        async with stage(shutdown_grace=5.0) as router:
            box = await router.sandbox(always(ok(b"done")))
            with ExitStack() as stack:
                sockets = [stack.enter_context(connected(router)) for _ in range(50)]
                for sock in sockets:
                    sock.send(request(box))
                await asyncio.wait_for(router.server.shutdown(), LIMIT)
                for sock in sockets:
                    assert_answered(await rest_of(sock))

    async def test_a_request_that_came_on_a_kept_connection_is_answered_not_reset(self) -> None:
        async with stage(shutdown_grace=5.0) as router:
            box = await router.sandbox(always(ok(b"done")))
            with connected(router) as sock:
                sock.send(request(box))
                assert (await asyncio.get_running_loop().sock_recv(sock, 65536)).endswith(b"done")
                sock.send(request(box))
                await asyncio.wait_for(router.server.shutdown(), LIMIT)
                assert_answered(await rest_of(sock))


def connected(router: Stage) -> socket.socket:
    """Connect without a turn of the event loop: the kernel alone says yes."""
    sock = socket.create_connection(router.server.address)
    sock.setblocking(False)
    return sock


async def rest_of(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    received = b""
    while data := await asyncio.wait_for(loop.sock_recv(sock, 65536), LIMIT):
        received += data
    return received


def assert_answered(reply: bytes) -> None:
    """Served, or told before anything ran: both are an answer, and both say that the connection ends."""
    assert reply.endswith(b"done") or b"\r\nX-Sandbox-Router-Error: shutting_down\r\n" in reply
    assert b"\r\nConnection: close\r\n" in reply
