"""An exchange that ends before its time: stale connections, and clients that leave at every step."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from fastrouter.net.backend import Backend
from fastrouter.net.stream import TransportStream
from tests.support import (
    Client,
    Stage,
    Visit,
    always,
    eventually,
    free_port,
    full_listener,
    ok,
    read_request,
    request,
    stage,
)


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage() as set_:
        yield set_


class TestStaleConnections:
    """A kept connection that dies as the request arrives: contract section 5."""

    @staticmethod
    async def second_request(router: Stage, raw: bytes, *rest: bytes) -> tuple[Client, list[bytes]]:
        """Send a GET, then ``raw`` on a connection that closes without an answer; return what arrived."""
        bodies: list[bytes] = []

        async def once(visit: Visit) -> None:
            _, body = await read_request(visit)
            bodies.append(body)
            if len(bodies) == 2:
                visit.reset()
                return
            await visit.send(ok(b"first" if len(bodies) == 1 else b"again"))
            await once(visit)

        box = await router.sandbox(once)
        client = await router.client()
        await client.send(request(box))
        await client.response()
        await client.send(raw.replace(b"PORT", b"%d" % box.port))
        for piece in rest:
            await eventually(lambda: router.server.pool.statistics()["reused"] == 1)
            await client.send(piece)
        return client, bodies

    @staticmethod
    def head(method: bytes, *fields: bytes) -> bytes:
        lines = [method + b" / HTTP/1.1", b"Host: r", b"X-Sandbox-ID: box", b"X-Sandbox-Port: PORT", *fields]
        return b"\r\n".join([*lines, b"", b""])

    @pytest.mark.parametrize("method", [b"GET", b"DELETE", b"OPTIONS", b"TRACE"])
    async def test_an_idempotent_request_is_sent_again_once(self, router: Stage, method: bytes) -> None:
        client, bodies = await self.second_request(router, self.head(method))
        assert (await client.response())[1] == b"again"
        assert len(bodies) == 3

    @pytest.mark.parametrize(
        ("fields", "body"),
        [
            ([b"Content-Length: 3"], b"abc"),
            ([b"Transfer-Encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n"),
        ],
    )
    async def test_a_put_whose_body_came_with_its_head_is_sent_again(
        self, router: Stage, fields: list[bytes], body: bytes
    ) -> None:
        client, bodies = await self.second_request(router, self.head(b"PUT", *fields) + body)
        assert (await client.response())[1] == b"again"
        assert bodies == [b"", body, body]

    @pytest.mark.parametrize("method", [b"POST", b"PATCH", b"CUSTOM"])
    async def test_a_request_that_may_have_run_is_not_sent_again(self, router: Stage, method: bytes) -> None:
        client, bodies = await self.second_request(router, self.head(method, b"Content-Length: 3") + b"abc")
        assert await client.error() == (
            502,
            "The backend sandbox closed the connection: box",
            "upstream_closed",
        )
        assert len(bodies) == 2

    async def test_a_put_whose_body_streamed_is_not_sent_again(self, router: Stage) -> None:
        client, bodies = await self.second_request(
            router, self.head(b"PUT", b"Content-Length: 6") + b"abc", b"def"
        )
        assert (await client.error())[2] == "upstream_closed"
        assert bodies == [b"", b"abcdef"]

    async def test_a_request_is_not_sent_a_third_time(self, router: Stage) -> None:
        answered = asyncio.Event()

        async def once(visit: Visit) -> None:
            await visit.head()
            if not answered.is_set():
                answered.set()
                await visit.send(ok())
                await visit.head()
            visit.reset()

        box = await router.sandbox(once)
        client = await router.client()
        await client.send(request(box) * 2)
        await client.response()
        assert (await client.error())[2] == "upstream_closed"
        assert box.received.count(b"GET ") == 3

    async def test_a_fresh_connection_that_dies_is_not_tried_again(self, router: Stage) -> None:
        async def refuse(visit: Visit) -> None:
            await visit.head()
            visit.reset()

        box = await router.sandbox(refuse)
        client = await router.client()
        await client.send(request(box))
        assert (await client.error())[2] == "upstream_closed"
        assert len(box.visits) == 1

    async def test_a_request_that_was_answered_in_part_is_not_sent_again(self, router: Stage) -> None:
        async def half(visit: Visit) -> None:
            await visit.head()
            await visit.send(ok())
            await visit.head()
            await visit.send(b"HTTP/1.1 2")

        box = await router.sandbox(half)
        client = await router.client()
        await client.send(request(box) * 2)
        await client.response()
        assert (await client.error())[2] == "upstream_closed"
        assert box.received.count(b"GET ") == 2


class TestSandboxesThatSpeakFirst:
    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy",
            b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n",
            b"HTTP/1.1 503 Busy\r\n\r\nbusy",
        ],
    )
    async def test_an_answer_that_was_there_before_the_request_is_delivered(
        self, router: Stage, answer: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect = Backend.connect_tcp

        async def slow(*args: object, **options: object) -> TransportStream:
            stream = await connect(*args, **options)  # type: ignore[arg-type]
            await eventually(lambda: bool(stream.get_extra_info("is_readable")))
            await asyncio.sleep(0.05)  # the FIN comes behind the bytes, and no event tells of it
            return stream

        async def refuse(visit: Visit) -> None:
            await visit.send(answer)

        monkeypatch.setattr(Backend, "connect_tcp", slow)
        box = await router.sandbox(refuse)
        client = await router.client()
        await client.send(request(box, b"Connection: close"))
        assert b"busy" in await client.rest()


Step = Callable[[Stage, Client], Awaitable["tuple[socket.socket, ...] | None"]]
"""Brings an exchange to a point; may return sockets to be closed at the end."""


async def no_byte_sent(router: Stage, client: Client) -> None:
    await eventually(lambda: len(router.server.connections) == 1)


async def part_of_a_head(router: Stage, client: Client) -> None:
    await client.send(b"GET / HT")
    await eventually(lambda: any(c.buffer for c in router.server.connections))


async def question(router: Stage, client: Client) -> None:
    router.dns.mode = "silent"
    await client.send(request(1))
    await eventually(lambda: router.dns.asked > 0)


async def connect(router: Stage, client: Client) -> tuple[socket.socket, ...]:
    listener, filler = full_listener()
    router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
    await client.send(request(listener.getsockname()[1]))
    await eventually(lambda: router.server.pool.dialer.attempts == 1 and router.dns.asked == 1)
    return listener, filler


async def back_off(router: Stage, client: Client) -> None:
    router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
    await client.send(request(free_port()))
    await eventually(lambda: router.server.pool.dialer.attempts == 2)


async def gate(router: Stage, client: Client) -> None:
    leader = await router.client()
    await leader.send(request(1))
    await eventually(lambda: router.server.pool.dialer.attempts > 0)
    await client.send(request(1))
    await eventually(lambda: sum(c.busy for c in router.server.connections) == 2)
    leader.close()


async def silence(visit: Visit) -> None:
    await visit.gone()


async def response_head(router: Stage, client: Client) -> None:
    box = await router.sandbox(silence)
    await client.send(request(box))
    await eventually(lambda: box.received.endswith(b"\r\n\r\n"))


async def request_body(router: Stage, client: Client) -> None:
    box = await router.sandbox(silence)
    await client.send(request(box, b"Content-Length: 1000000", method=b"POST") + b"start")
    await eventually(lambda: box.received.endswith(b"start"))


def response_body(answer: bytes) -> Step:
    async def step(router: Stage, client: Client) -> None:
        async def begin(visit: Visit) -> None:
            await visit.head()
            await visit.send(answer)
            await visit.gone()

        box = await router.sandbox(begin)
        await client.send(request(box, b"Content-Length: 1000000", method=b"POST"))
        await client.head()

    return step


async def repeated_dial(router: Stage, client: Client) -> None:
    async def once(visit: Visit) -> None:
        await visit.head()
        await visit.send(ok())
        await visit.head()
        box.stop_listening()
        visit.reset()

    box = await router.sandbox(once)
    await client.send(request(box))
    await client.response()
    await client.send(request(box))
    await eventually(lambda: router.server.pool.dialer.attempts > 1)


async def drain(router: Stage, client: Client) -> None:
    await client.send(b"POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 1000\r\n\r\n")
    await client.error()


async def linger(router: Stage, client: Client) -> None:
    await client.send(b"POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 1000000\r\n\r\n")
    await client.error()


async def stalled_answer(router: Stage, client: Client) -> None:
    async def flood(visit: Visit) -> None:
        await visit.head()
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            await visit.send(b"x" * 100_000)

    box = await router.sandbox(flood)
    await client.send(request(box))
    await eventually(lambda: any(c.writing_paused for c in router.server.connections))


class TestClientsThatLeave:
    """At every await of an exchange: nothing is left behind, and the sandbox sees it at once."""

    @pytest.mark.parametrize("farewell", ["fin", "rst"])
    @pytest.mark.parametrize(
        "step",
        [
            no_byte_sent,
            part_of_a_head,
            question,
            connect,
            back_off,
            gate,
            response_head,
            request_body,
            response_body(b"HTTP/1.1 100 Continue\r\n\r\n"),
            response_body(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"),
            response_body(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
            response_body(b"HTTP/1.1 200 OK\r\n\r\nabc"),
            repeated_dial,
            drain,
            linger,
            stalled_answer,
        ],
    )
    async def test_everything_is_let_go(self, step: Step, farewell: str) -> None:
        async with stage(dial_retry=30.0, proxy_timeout=60.0) as router:
            client = await router.client()
            sockets = await step(router, client)
            if farewell == "rst":
                client.reset()
            else:
                client.close()
            # The task learns of it a turn of the event loop later than the server.
            await eventually(lambda: not router.server.connections and not serving())
            numbers = router.server.pool.statistics()
            assert numbers["upstream_active"] == 0
            assert numbers["acquired"] == numbers["released"] + numbers["discarded"]
            visits = [visit for sandbox in router.sandboxes for visit in sandbox.visits]
            await eventually(lambda: all(visit.ended for visit in visits))
            for sock in sockets or ():
                sock.close()

    async def test_it_is_seen_though_nothing_is_read_from_the_client(self) -> None:
        async with stage(proxy_timeout=60.0) as router:
            router.dns.mode = "silent"
            client = await router.client()
            client.writer.write(request(1, b"Content-Length: 100000000", method=b"POST") + b"x" * 10_000_000)
            await eventually(lambda: any(c.reading_paused for c in router.server.connections))
            client.reset()
            async with asyncio.timeout(1.0):  # the dial takes longer
                await eventually(lambda: not router.server.connections)

    async def test_a_cancelled_exchange_leaves_the_connections_of_others_alone(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        mute = await router.sandbox(silence, "mute")
        leaver, stayer = await router.client(), await router.client()
        await stayer.send(request(box))
        await stayer.response()
        await leaver.send(request(mute, name=b"mute"))
        await eventually(lambda: bool(mute.received))
        leaver.close()
        await eventually(lambda: mute.visits[0].ended)
        await stayer.send(request(box))
        assert (await stayer.response())[1] == b"ok"
        assert len(box.visits) == 1


def serving() -> list[str]:
    """Return the tasks of client connections that are alive."""
    tasks = [repr(task.get_coro()) for task in asyncio.all_tasks()]
    return [task for task in tasks if "Downstream" in task]
