"""``X-Request-ID`` on the wire: kept when given, made when not, sent to the sandbox and back."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from tests.support import Client, Stage, Visit, always, ok, replies, request, stage

MADE = re.compile(r"[0-9a-f]{32}")


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage(request_id=True, auth_token="", allow_unauthenticated=True) as set_:
        yield set_


def ids_in(raw: bytes) -> list[str]:
    return re.findall(r"(?im)^x-request-id: ([^\r]*)\r$", raw.decode("latin-1"))


async def exchange(client: Client, raw: bytes) -> str:
    """Send a request, and return the one id of its response."""
    await client.send(raw)
    head, _ = await client.response()
    (told,) = ids_in(head)
    return told


async def test_one_is_made_for_each_request_and_told_to_both_sides(router: Stage) -> None:
    box = await router.sandbox(always(ok()))
    client = await router.client()
    told = [await exchange(client, request(box)) for _ in range(5)]
    assert ids_in(box.received) == told
    assert len(set(told)) == 5
    assert all(MADE.fullmatch(each) for each in told)
    assert [line["request_id"] for line in router.access_lines()] == told


async def test_what_the_client_gives_is_kept_where_it_stands(router: Stage) -> None:
    box = await router.sandbox(always(ok()))
    client = await router.client()
    for number in range(6):  # parsed, from a template, and known
        given = f"client-{number // 2}"
        assert await exchange(client, request(box, b"x-request-ID: " + given.encode("ascii"))) == given
    assert ids_in(box.received) == [f"client-{number // 2}" for number in range(6)]
    assert box.received.count(b"x-request-ID: client-") == 6  # spelled as it came, and once
    assert {line["request_id"] for line in router.access_lines()} == {"client-0", "client-1", "client-2"}


async def test_whatever_the_client_gives_passes_byte_for_byte(router: Stage) -> None:
    box = await router.sandbox(always(ok()))
    client = await router.client()
    given = [b'a"b', b"\xe4", b"a", b"x" * 300]
    for each in given:
        told = await exchange(client, request(box, b"X-Request-ID: " + each))
        assert told.encode("latin-1") == each
    assert [each.encode("latin-1") for each in ids_in(box.received)] == given
    assert [line["request_id"] for line in router.access_lines()] == ['a"b', "\ufffd", "a", "x" * 256]


async def test_several_pass_and_the_first_is_told(router: Stage) -> None:
    box = await router.sandbox(always(ok()))
    client = await router.client()
    for _ in range(3):
        assert await exchange(client, request(box, b"X-Request-ID: a", b"X-Request-ID: b")) == "a"
    assert ids_in(box.received) == ["a", "b"] * 3


@pytest.mark.parametrize("fields", [(b"X-Request-ID:",), (b"X-Request-ID: a", b"Connection: x-request-id")])
async def test_an_empty_one_or_one_that_stops_here_is_replaced(
    router: Stage, fields: tuple[bytes, ...]
) -> None:
    box = await router.sandbox(always(ok()))
    told = await exchange(await router.client(), request(box, *fields))
    assert MADE.fullmatch(told)
    assert ids_in(box.received) == [told]


async def test_a_sandbox_that_tells_an_id_is_not_corrected(router: Stage) -> None:
    box = await router.sandbox(always(ok(b"ok", b"X-REQUEST-ID: mine")))
    assert await exchange(await router.client(), request(box)) == "mine"


@pytest.mark.parametrize("lines", [(b"X-Request-ID: abc", b"Connection: x-request-id")])
async def test_an_id_of_the_sandbox_that_stops_here_is_none(router: Stage, lines: tuple[bytes, ...]) -> None:
    box = await router.sandbox(always(ok(b"ok", *lines)))
    assert await exchange(await router.client(), request(box, b"X-Request-ID: mine")) == "mine"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_every_final_head_tells_it_once(router: Stage, answer: bytes) -> None:
    async def handle(visit: Visit) -> None:
        await visit.head()
        await visit.send(answer)

    box = await router.sandbox(handle)
    client = await router.client()
    await client.send(request(box, b"X-Request-ID: a", b"Connection: close"))
    raw = await client.rest()
    assert ids_in(raw) == ["a"]
    assert ids_in(raw.rpartition(b"HTTP/1.1 ")[2]) == ["a"]


async def test_the_routers_own_replies_tell_it(router: Stage) -> None:
    client = await router.client()
    told = await exchange(client, request(1, b"X-Request-ID: a", name=b"nobody"))
    assert told == "a"
    await client.send(b"GET / HTTP/1.1\r\nHost: r\r\n\r\n")
    head, _ = await client.response()
    (told,) = ids_in(head)
    assert MADE.fullmatch(told)
    await client.send(b"nonsense\r\n\r\n")
    (told,) = ids_in(await client.rest())
    assert MADE.fullmatch(told)


async def test_a_tunnel_has_one(router: Stage) -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    box = await router.sandbox(replies(switching))
    client = await router.client()
    await client.send(request(box, b"Connection: Upgrade", b"Upgrade: websocket"))
    (told,) = ids_in(await client.head())
    assert ids_in(box.received) == [told]


async def test_it_can_be_left_alone() -> None:
    async with stage(request_id=False) as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box) + request(box, b'X-Request-ID: a"b'))
        assert ids_in((await client.response())[0] + (await client.response())[0]) == []
        assert ids_in(box.received) == ['a"b']
        assert all("request_id" not in line for line in router.access_lines())


async def test_the_trace_is_in_the_line() -> None:
    trace = b"4bf92f3577b34da6a3ce929d0e0e4736"
    async with stage() as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        for field in (b"traceparent: 00-%b-00f067aa0ba902b7-01" % trace, b'traceparent: forged"', b"a: b"):
            await client.send(request(box, field))
            await client.response()
        lines = router.access_lines()
    assert [line.get("trace_id") for line in lines] == [trace.decode(), None, None]
