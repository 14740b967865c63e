"""Exchanges that begin without the task: whatever happens, the client sees what it would see of any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from fastrouter.exchange import Exchange
from fastrouter.net.downstream import Downstream
from fastrouter.net.inbound import Phase
from tests.support import (
    LIMIT,
    Client,
    Stage,
    Visit,
    always,
    eventually,
    ok,
    replies,
    request,
    settled,
    stage,
)

Script = Callable[[Visit], Awaitable[None]]
BODY = b"command"


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage(proxy_timeout=5.0) as set_:
        yield set_


def command(port: int) -> bytes:
    return request(port, method=b"POST", body=BODY)


def sends(*pieces: bytes, end: bool = False) -> Script:
    async def script(visit: Visit) -> None:
        for piece in pieces:
            await visit.send(piece)
            await asyncio.sleep(0)  # a turn of the event loop: the pieces arrive one by one
        if end:
            visit.close()

    return script


async def resets(visit: Visit) -> None:
    visit.reset()


async def resets_within_the_body(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
    visit.reset()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SCRIPTS: dict[str, Script] = {
    "whole": sends(ok(b"answer")),
    "no body": sends(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "byte by byte": sends(*[bytes([each]) for each in ok(b"answer", b"X-Field: value")]),
    "body in pieces": sends(ok(b"0123456789")[:-10], b"01234", b"56789"),
    "chunked": sends(CHUNKED + b"3\r\nabc\r\n", b"0\r\nX-Trailer: 1\r\n\r\n"),
    "until close": sends(b"HTTP/1.1 200 OK\r\n\r\nabc", b"def", end=True),
    "connection: close": sends(ok(b"last", b"Connection: close"), end=True),
    "informational first": sends(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", ok(b"answer")),
    "both at once": sends(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok(b"answer")),
    "more than the answer": sends(ok(b"answer") + b"HTTP/1.1 200 OK\r\n"),
    "no HTTP": sends(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "a broken head": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n"),
    "a switch that nobody asked for": sends(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    ),
    "closes at once": sends(end=True),
    "closes within the head": sends(b"HTTP/1.1 200 OK\r\nContent-", end=True),
    "closes within the body": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", end=True),
    "breaks a chunk": sends(CHUNKED + b"3\r\nabc\r\n", b"no chunk\r\n"),
    "resets": resets,
    "resets within the body": resets_within_the_body,
}


def after(warm_up: int, script: Script) -> Script:
    """Answer `warm_up` requests, then play the script, whichever connection the request comes on."""
    answered = 0

    async def handler(visit: Visit) -> None:
        nonlocal answered
        while True:
            await visit.head()
            await visit.exactly(len(BODY))
            if answered == warm_up:
                await script(visit)
                await visit.gone()
                return
            answered += 1
            await visit.send(ok())

    return handler


async def warm(router: Stage, script: Script, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Return a client for whose next command nothing has to be waited for: head known, connection idle."""
    box = await router.sandbox(after(2, script))
    client = await router.client()
    for _ in range(2):
        await client.send(command(box.port))
        await client.response()
    monkeypatch.setattr(Exchange, "run", run_is_not_asked)
    return client


def run_is_not_asked(*_: object, **__: object) -> None:
    raise AssertionError("the task was woken for a request that could begin without it")


LAST = b"GET /healthz HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n"


async def seen(router: Stage, client: Client) -> tuple[bytes, bool]:
    """Send a command, and return all that comes back and whether the connection was reset."""
    server = router.server
    before = server.metrics.requests
    await client.send(command(router.sandboxes[0].port))
    await eventually(lambda: server.metrics.requests > before)
    if any(each.phase is Phase.IDLE for each in server.connections):
        await client.send(LAST)  # the connection was kept: this ends it, and tells where the answer ended
    data = b""
    try:
        while piece := await asyncio.wait_for(client.reader.read(2**16), LIMIT):
            data += piece
    except ConnectionResetError:
        return data, True
    return data, False


def facts(line: dict[str, object]) -> dict[str, object]:
    """Return what an access line says of the request, without when, how long and by which connection."""
    other = {"time", "duration_ms", "upstream", "connection", "dials", "dial_ms"}
    return {name: line[name] for name in line.keys() - other}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_client_sees_what_it_would_see_of_any_exchange(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage() as cold:
        await cold.sandbox(after(0, SCRIPTS[name]))
        expected = await seen(cold, await cold.client())
        expected_line = cold.access_lines()[0]
    async with stage() as router:
        client = await warm(router, SCRIPTS[name], monkeypatch)
        assert await seen(router, client) == expected
        pool = router.server.pool.statistics()
        assert (pool["upstream_active"], pool["acquired"], pool["reused"]) == (0, 3, 2)
        assert facts(router.access_lines()[2]) == facts(expected_line)


class TestBegin:
    async def test_a_response_that_comes_whole_wakes_no_task(
        self, router: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = await warm(router, sends(ok(b"answer")), monkeypatch)
        monkeypatch.setattr(Downstream, "_attend", run_is_not_asked)
        await client.send(command(router.sandboxes[0].port))
        assert (await client.response())[1] == b"answer"

    async def test_an_answer_that_waits_for_the_end_of_the_turn_goes_before_the_connection(
        self, router: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The answer comes, and in the same turn of the event loop the client's end."""
        leave: list[Callable[[], None]] = []

        async def answer_and_leave(visit: Visit) -> None:
            visit.writer.write(ok(b"answer"))
            leave[0]()

        client = await warm(router, answer_and_leave, monkeypatch)
        leave.append(client.end_now)
        await client.send(command(router.sandboxes[0].port))
        assert await client.rest() == ok(b"answer")
        await eventually(lambda: router.server.metrics.requests == 3)
        assert router.access_lines()[2]["status"] == 200

    async def test_the_last_piece_of_a_request_goes_before_its_connection(self, router: Stage) -> None:
        """In one turn come the rest of the request and an early answer that is the connection's last."""
        heads = 0
        rest: list[bytes] = []
        message = b""

        async def answer_early(visit: Visit) -> None:
            nonlocal heads
            while True:
                await visit.head()
                heads += 1
                await visit.exactly(len(BODY) - 3)
                if heads > 2:
                    break
                await visit.exactly(3)
                await visit.send(ok())
            client.writer.write(message[-3:])
            visit.writer.write(ok(b"early", b"Connection: close"))
            rest.append(await visit.exactly(3))

        message = command((await router.sandbox(answer_early)).port)
        client = await router.client()
        for _ in range(2):
            await client.send(message)
            await client.response()
        await client.send(message[:-3])
        assert (await client.response())[1] == b"early"
        await eventually(lambda: bool(rest))
        assert rest == [BODY[-3:]]

    async def test_an_unknown_head_a_head_in_pieces_and_a_cold_sandbox_wait_for_the_task(
        self, router: Stage
    ) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        whole = command(box.port)
        begun = 0
        begin = Exchange.begin

        def counted(*arguments: object) -> bool:
            nonlocal begun
            went = begin(*arguments)  # type: ignore[arg-type]
            begun += went
            return went

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Exchange, "begin", counted)
            for pieces in ((whole,), (whole,), (whole[:20], whole[20:])):
                for piece in pieces:
                    await client.send(piece)
                    await router_has_read(router)
                await client.response()
            assert begun == 0
            await client.send(whole)
            await client.response()
            assert begun == 1
            router.server.pool.close()  # cold again
            await client.send(whole)
            await client.response()
        assert begun == 1

    async def test_a_wrong_token_is_refused_though_the_head_is_known(self) -> None:
        async with stage(auth_token="right") as router:
            box = await router.sandbox(always(ok()))
            client = await router.client()
            right, wrong = (
                request(box, b"Authorization: Bearer " + token, method=b"POST", body=BODY)
                for token in (b"right", b"wrong")
            )
            for _ in range(3):
                await client.send(right)
                assert (await client.response())[1] == b"ok"
                await client.send(wrong)
                assert (await client.error())[2] == "invalid_token"
            assert box.received.count(BODY) == 3


async def router_has_read(router: Stage) -> None:
    """Wait until nothing that was sent is still on its way: the next piece is a read of its own."""
    await settled(lambda: sum(len(each.buffer) for each in router.server.connections))


class TestBodiesInPieces:
    """The head is known, the body comes later: `command` without its last bytes begins the exchange."""

    async def test_the_rest_is_passed_on_and_the_connection_serves_on(
        self, router: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = await warm(router, sends(ok(b"answer")), monkeypatch)
        box = router.sandboxes[0]
        whole = command(box.port)
        await client.send(whole[:-3])
        await eventually(lambda: router.server.pool.statistics()["upstream_active"] == 1)
        await client.send(whole[-3:] + LAST)
        assert (await client.response())[1] == b"answer"
        assert (await client.response())[1] == b'{"status":"ok"}'
        assert box.received.endswith(BODY)
        assert router.access_lines()[2]["bytes_in"] == len(BODY)

    async def test_an_answer_that_does_not_wait_for_it_is_delivered_and_the_rest_read(
        self, router: Stage
    ) -> None:
        async def hasty(visit: Visit) -> None:
            for _ in range(2):
                await visit.head()
                await visit.exactly(len(BODY))
                await visit.send(ok())
            await visit.head()
            await visit.send(ok(b"enough"))
            await visit.gone()

        box = await router.sandbox(hasty)
        client = await router.client()
        whole = command(box.port)
        for _ in range(2):
            await client.send(whole)
            await client.response()
        await client.send(whole[:-3])
        assert (await client.response())[1] == b"enough"
        await eventually(lambda: box.visits[0].ended)  # its connection is not used again
        await client.send(whole[-3:] + LAST)
        assert (await client.response())[1] == b'{"status":"ok"}'

    async def test_a_rest_that_does_not_come_is_a_408(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with stage(proxy_timeout=0.5) as router:
            client = await warm(router, sends(), monkeypatch)
            await client.send(command(router.sandboxes[0].port)[:-3])
            assert (await client.error())[::2] == (408, "request_timeout")
            assert await client.rest() == b""


class TestOneTurn:
    """What arrives in two pieces before the task had its turn: the event loop may poll twice in between."""

    async def test_a_body_that_looks_like_a_known_request_is_none(
        self, router: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = await warm(router, sends(ok(b"answer")), monkeypatch)
        monkeypatch.undo()
        box = router.sandboxes[0]
        smuggled = command(box.port)
        (side,) = router.server.connections
        outer = request(box, b"Content-Length: %d" % len(smuggled), method=b"POST", target=b"/outer")
        side.data_received(outer)
        side.data_received(smuggled)
        await eventually(lambda: b"/outer" in box.received)
        assert (await client.response())[1] == b"answer"
        assert box.received.count(b"POST / HTTP/1.1\r\nHost: box.") == 2  # those that made it warm

    async def test_the_rest_of_a_head_is_no_request(
        self, router: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = await warm(router, sends(ok(b"answer")), monkeypatch)
        monkeypatch.undo()
        (side,) = router.server.connections
        side.data_received(b"GET /outer HTTP/1.1\r\nHost: router\r\nX-Rest: ")
        side.data_received(command(router.sandboxes[0].port))
        assert (await client.error())[0] == 400  # one head, with two Hosts
        assert router.sandboxes[0].received.count(b"POST / ") == 2


class TestMeanwhile:
    async def test_what_is_pipelined_behind_it_is_answered_next(
        self, router: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go = asyncio.Event()

        async def slow(visit: Visit) -> None:
            await go.wait()
            await visit.send(ok(b"slow"))

        client = await warm(router, slow, monkeypatch)
        await client.send(command(router.sandboxes[0].port))
        await eventually(lambda: router.server.pool.statistics()["upstream_active"] == 1)
        await client.send(LAST)
        await eventually(lambda: any(each.buffer for each in router.server.connections))
        go.set()
        assert (await client.response())[1] == b"slow"
        assert (await client.response())[1] == b'{"status":"ok"}'
        assert await client.rest() == b""

    @pytest.mark.parametrize("farewell", ["close", "reset"])
    async def test_a_client_that_leaves_ends_the_sandboxs_work_at_once(
        self, farewell: str, router: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = await warm(router, sends(), monkeypatch)
        await client.send(command(router.sandboxes[0].port))
        await eventually(lambda: router.server.pool.statistics()["upstream_active"] == 1)
        getattr(client, farewell)()
        await eventually(lambda: all(visit.ended for visit in router.sandboxes[0].visits))
        await eventually(lambda: not router.server.connections)
        pool = router.server.pool.statistics()
        assert (pool["upstream_active"], pool["upstream_idle"]) == (0, 0)
        line = router.access_lines()[2]
        assert (line["status"], line["error"]) == (499, "client_closed")

    async def test_a_silent_sandbox_is_a_504(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with stage(proxy_timeout=0.5) as router:
            client = await warm(router, sends(), monkeypatch)
            await client.send(command(router.sandboxes[0].port))
            assert (await client.error())[::2] == (504, "upstream_timeout")

    async def test_shutdown_lets_it_finish_and_ends_the_connection(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go = asyncio.Event()

        async def slow(visit: Visit) -> None:
            await go.wait()
            await visit.send(ok(b"slow"))

        async with stage(shutdown_grace=LIMIT) as router:
            client = await warm(router, slow, monkeypatch)
            await client.send(command(router.sandboxes[0].port))
            await eventually(lambda: router.server.pool.statistics()["upstream_active"] == 1)
            shutdown = asyncio.create_task(router.server.shutdown())
            await eventually(lambda: router.server.shutting_down)
            go.set()
            head, body = await client.response()
            assert (body, b"\r\nConnection: close\r\n" in head) == (b"slow", True)
            await shutdown

    async def test_an_idempotent_request_on_a_stale_connection_is_sent_again(self, router: Stage) -> None:
        async def closes_at_the_third(visit: Visit) -> None:
            if len(router.sandboxes[0].visits) == 2:
                await replies(ok(b"again"))(visit)
                return
            for answer in (ok(), ok(), b""):
                await visit.head()
                await visit.send(answer)

        box = await router.sandbox(closes_at_the_third)
        client = await router.client()
        for expected in (b"ok", b"ok", b"again"):
            await client.send(request(box))
            assert (await client.response())[1] == expected
        assert len(box.visits) == 2


async def test_the_back_pressure_of_a_request_ends_with_its_exchange() -> None:
    # The sandbox's answer may be read before the event loop tells that it took the last of the upload.
    may_answer = asyncio.Event()

    async def handle(visit: Visit) -> None:
        for number in range(4):
            await visit.head()
            if number == 2:
                await may_answer.wait()
            await visit.send(ok())

    async with stage() as router:
        box = await router.sandbox(handle)
        client = await router.client()
        for _ in range(2):
            await client.send(request(box))
            await client.response()
        (side,) = router.server.connections
        await client.send(request(box))
        await eventually(lambda: router.server.pool.counters.reused == 2)
        side.pause_reading()
        may_answer.set()
        await client.response()
        await client.send(request(box))
        await client.response()
