"""Scenes of one or two client connections: between them they wait wherever an exchange can wait.

A scene is played many times, and its subject's task ends at another point each time: it goes on as far as
it gets.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from fastrouter.net.downstream import Downstream
from tests.properties.ending import Play, Scene
from tests.properties.mute import Mute
from tests.support import Client, Visit, always, eventually, free_port, ok, read_request, replies, request

_LARGE: Final = b"x" * 400_000
_SWITCHED: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
_UPGRADE: Final = (b"Connection: Upgrade", b"Upgrade: websocket")


class Script(NamedTuple):
    """A scene, the settings that it needs, and which of its connections is the one that ends."""

    scene: Scene
    settings: dict[str, object]
    subject: int = 0


async def asks(client: Client, wanted: bytes, status: int = 200) -> None:
    """Send a request and read its answer, if it comes."""
    await client.send(wanted)
    head, _ = await client.response()
    assert int(head[9:12]) == status


async def a_fresh_dial(play: Play) -> None:
    box = await play.router.sandbox(replies(ok()))
    await asks(await play.client(), request(box))


async def a_dial_that_is_retried(play: Play) -> None:
    port = free_port()
    play.router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
    await asks(await play.client(), request(port), 502)


async def two_for_one_gate(play: Play) -> None:
    """Send two requests at once: the first dials, the second waits for the outcome and dials then."""
    box = await play.router.sandbox(always(ok()))
    clients = [await play.client(), await play.client()]
    for client in clients:
        client.writer.write(request(box))
    await asyncio.gather(*(client.response() for client in clients), return_exceptions=True)


async def two_that_are_refused(play: Play) -> None:
    port = free_port()
    play.router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
    clients = [await play.client(), await play.client()]
    for client in clients:
        client.writer.write(request(port))
    await asyncio.gather(*(client.response() for client in clients), return_exceptions=True)


async def a_full_bulkhead(play: Play) -> None:
    go_on = asyncio.Event()

    async def handle(visit: Visit) -> None:
        await visit.head()
        await go_on.wait()
        await visit.send(ok())
        await visit.gone()

    box = await play.router.sandbox(handle)
    first, second = await play.client(), await play.client()
    await first.send(request(box))
    await eventually(lambda: bool(box.received))
    await asks(second, request(box), 429)
    go_on.set()
    await first.response()


async def a_slow_answer(play: Play) -> None:
    async def handle(visit: Visit) -> None:
        await visit.head()
        for piece in (b"HTTP/1.1 103 Early\r\n\r\n", ok()[:-1], b"k"):
            play.moment()
            await visit.send(piece)
            await asyncio.sleep(0)
        await visit.gone()

    box = await play.router.sandbox(handle)
    client = await play.client()
    await client.send(request(box))
    await client.head()
    await client.response()


async def an_upload(play: Play) -> None:
    async def handle(visit: Visit) -> None:
        await visit.head()
        play.moment()
        await visit.exactly(len(_LARGE))
        play.moment()
        await visit.send(ok())
        await visit.gone()

    box = await play.router.sandbox(handle)
    await asks(await play.client(), request(box, method=b"POST", body=_LARGE))


async def a_client_that_does_not_read(play: Play) -> None:
    """Send two requests at once: the second waits until the answer to the first has been taken."""
    box = await play.router.sandbox(always(ok(_LARGE)))
    mute, side = await play.mute()
    await mute.send(2 * request(box))
    await eventually(lambda: side.writing_paused or side.transport.is_closing())
    play.moment()
    await _takes(mute, side)


async def _takes(mute: Mute, side: Downstream) -> None:
    taken = 0
    while taken < 2 * len(_LARGE) and (piece := await mute.read()):
        taken += len(piece)
        if side.writing_paused and taken < len(_LARGE):
            await asyncio.sleep(0)
    assert taken >= 2 * len(_LARGE) or side.transport.is_closing()


async def a_body_that_is_asked_for(play: Play) -> None:
    async def handle(visit: Visit) -> None:
        await visit.head()
        play.moment()
        await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await visit.exactly(5)
        await visit.send(ok())
        await visit.gone()

    box = await play.router.sandbox(handle)
    client = await play.client()
    await client.send(request(box, b"Expect: 100-continue", b"Content-Length: 5", method=b"POST"))
    await client.head()
    play.moment()
    await asks(client, b"hello")


async def a_body_that_is_not_asked_for(play: Play) -> None:
    box = await play.router.sandbox(_early)
    client = await play.client()
    await asks(client, request(box, b"Expect: 100-continue", b"Content-Length: 5", method=b"POST"))
    play.moment()
    await client.rest()


async def an_early_answer(play: Play) -> None:
    """Answer before the end of the request: its rest is drained, and the next request answered."""
    box = await play.router.sandbox(_early)
    client = await play.client()
    await asks(client, request(box, b"Content-Length: 9", method=b"POST") + b"on")
    play.moment()
    await client.send(b"ly a")
    await asyncio.sleep(0)
    play.moment()
    await asks(client, b"nd." + request(box))


async def _early(visit: Visit) -> None:
    await visit.head()
    await visit.send(ok())
    await visit.gone()


async def a_stale_connection(play: Play) -> None:
    """Close the kept connection instead of an answer: the request is sent again, on a fresh one."""

    async def handle(visit: Visit) -> None:
        if visit is box.visits[0]:
            await read_request(visit)
            await visit.send(ok())
            await read_request(visit)
            play.moment()
            return
        await always(ok())(visit)

    box = await play.router.sandbox(handle)
    client = await play.client()
    await asks(client, request(box))
    await asks(client, request(box, b"Accept: text/plain"))


async def known_heads(play: Play) -> None:
    """Ask four times in the same words: the last exchanges need no task, until one of them does."""
    count = 0

    async def handle(visit: Visit) -> None:
        nonlocal count
        while True:
            await read_request(visit)
            count += 1
            play.moment()
            if count == 4:
                return  # the task has to dial again
            await visit.send(ok()[:-1])
            await asyncio.sleep(0)
            play.moment()
            await visit.send(b"k")

    box = await play.router.sandbox(handle)
    client = await play.client()
    for _ in range(5):
        await asks(client, request(box))


async def a_tunnel(play: Play) -> None:
    async def handle(visit: Visit) -> None:
        await visit.head()
        play.moment()
        await visit.send(_SWITCHED)
        await visit.exactly(6)
        await visit.send(b"\x81\x02ok")
        await visit.gone()

    box = await play.router.sandbox(handle)
    client = await play.client()
    await client.send(request(box, *_UPGRADE))
    await client.head()
    play.moment()
    await client.send(b"\x81\x80mask")
    await client.exactly(4)
    play.moment()
    client.writer.write_eof()
    await client.rest()


async def garbage(play: Play) -> None:
    client = await play.client()
    await client.send(b"what is this\r\n\r\n")
    await client.response()
    play.moment()
    await client.send(b"and this\r\n\r\n")


async def one_client_too_many(play: Play) -> None:
    await play.client()
    client = await play.client()
    await client.response()
    play.moment()


async def pipelined(play: Play) -> None:
    box = await play.router.sandbox(always(ok()))
    client = await play.client()
    await client.send(3 * request(box))
    for _ in range(3):
        await client.response()


async def more_than_the_last_request(play: Play) -> None:
    box = await play.router.sandbox(always(ok()))
    client = await play.client()
    await asks(client, request(box, b"Connection: close") + request(box))
    play.moment()
    await client.rest()


async def nothing_but_health(play: Play) -> None:
    client = await play.client()
    await asks(client, b"GET /healthz HTTP/1.1\r\nHost: router\r\n\r\n")


_ALL: Final[tuple[tuple[Scene, dict[str, object], int], ...]] = (
    (a_fresh_dial, {}, 0),
    (a_dial_that_is_retried, {"dial_retry": 0.015}, 0),
    (two_for_one_gate, {}, 1),
    (two_that_are_refused, {"dial_retry": 0.015}, 0),
    (a_full_bulkhead, {"max_per_sandbox": 1}, 1),
    (a_slow_answer, {}, 0),
    (an_upload, {}, 0),
    (a_client_that_does_not_read, {}, 0),
    (a_body_that_is_asked_for, {}, 0),
    (a_body_that_is_not_asked_for, {}, 0),
    (an_early_answer, {}, 0),
    (a_stale_connection, {}, 0),
    (known_heads, {}, 0),
    (a_tunnel, {}, 0),
    (garbage, {}, 0),
    (one_client_too_many, {"max_connections": 1}, 1),
    (pipelined, {}, 0),
    (more_than_the_last_request, {}, 0),
    (nothing_but_health, {}, 0),
)
SCRIPTS: Final = {
    scene.__name__.replace("_", " "): Script(scene, settings, subject) for scene, settings, subject in _ALL
}
