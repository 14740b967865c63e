"""Hostile connections by the hundred: a router process keeps nothing of them, and answers others meanwhile.

By hand and in full: ``python -m tests.adversity.floods``.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.adversity.floods import Attack, Siege, Toll, ending, garbage, siege, slow_loris
from tests.adversity.soak_watch import HEALTH, Prober
from tests.support import Client, Visit, ok, read_request, request, stage

HEAD_SECONDS = 0.5
CROWD = 40
# How many buffers are in use at once is chance: the memory of the largest crowd so far is kept for the next.
# Were they kept by connection, 200 of them would hold more.
SLACK = 8 * 1024 * 1024
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
START = b"GET / HTTP/1.1\r\nHost: router\r\n"
LAST = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def client_hello() -> bytes:
    """Return what a TLS client sends first."""
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="router").do_handshake()
    return sent.read()


def says(data: bytes) -> Callable[[Client], Awaitable[str]]:
    """Return an attacker that sends ``data`` and waits for the end."""

    async def attack(client: Client) -> str:
        await client.send(data)
        return await ending(client)

    return attack


async def leaves_one_half(client: Client) -> str:
    client.writer.write_eof()
    return await ending(client)


async def leaves_one_half_within_a_head(client: Client) -> str:
    await client.send(START)
    return await leaves_one_half(client)


async def leaves_with_a_reset(client: Client) -> str:
    await client.send(START)
    client.reset()
    return "left"


async def asks_ahead_and_reads_nothing(client: Client) -> str:
    client.writer.write(HEALTH * 5_000)  # more than is taken while nobody reads the answers
    await client.exactly(1)
    client.reset()
    return "left"


KINDS: dict[str, tuple[Callable[[Client], Awaitable[str]], str]] = {
    "TLS on the plain port": (says(client_hello()), "400"),
    "HTTP/2 preface": (says(PREFACE), "505"),
    "a long target": (says(b"GET /" + b"a" * 20_000), "414"),
    "a long head": (says(START + b"X-A: a\r\n" * 10_000), "431"),
    "a long field": (says(START + b"X-A: " + b"a" * 70_000), "431"),
    "a thousand pipelined": (says(HEALTH * 1_000 + LAST), "200"),
    "half-closed at once": (leaves_one_half, "closed"),
    "half-closed within a head": (leaves_one_half_within_a_head, "closed"),
    "reset within a head": (leaves_with_a_reset, "left"),
    "pipelined and unread": (asks_ahead_and_reads_nothing, "left"),
}


def every_kind() -> Attack:
    """Return an attacker that does everything in turn."""
    turns = itertools.cycle(KINDS)

    async def attack(client: Client, _: random.Random) -> str:
        kind = next(turns)
        return f"{kind}: {await KINDS[kind][0](client)}"

    return attack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def besieged() -> AsyncIterator[Siege]:
    async with siege(HEAD_SECONDS) as made:
        # A process that was never busy is no measure of one that was: what the first crowd needs is kept.
        await made.flood(garbage, 100, CROWD)
        await made.flood(every_kind(), CROWD * 3, CROWD)
        yield made


@pytest.mark.asyncio(loop_scope="module")
class TestFloods:
    async def test_random_garbage_leaves_nothing_behind(self, besieged: Siege) -> None:
        toll = await besieged.flood(garbage, 300, CROWD)
        assert toll.wrong(SLACK) == []
        assert set(toll.ends) <= {"400", "408", "505", "closed", "reset"}
        assert toll.ends["400"] > 200

    async def test_heads_that_never_end_are_given_up_together(self, besieged: Siege) -> None:
        toll = await besieged.flood(slow_loris, 100, 100)
        assert toll.wrong(SLACK) == []
        assert toll.ends == {"408": 100}
        assert len(toll.prober.took["a request"]) > 3

    async def test_every_kind_of_hostile_connection_ends_as_it_should(self, besieged: Siege) -> None:
        toll = await besieged.flood(every_kind(), CROWD * 5, CROWD)
        assert toll.ends == {f"{kind}: {end}": CROWD * 5 // len(KINDS) for kind, (_, end) in KINDS.items()}
        assert toll.wrong(SLACK) == []

    async def test_no_flood_is_worth_a_line_in_the_log(self, besieged: Siege) -> None:
        await besieged.flood(garbage, 50, CROWD)
        assert besieged.router.complaints == []

    async def test_heads_that_come_once_are_not_kept_where_every_connection_is_fresh(self) -> None:
        async def handle(visit: Visit) -> None:
            await read_request(visit)
            await visit.send(ok(b"ok", b"Connection: close"))

        async with stage() as router:
            box = await router.sandbox(handle)
            client = await router.client()
            for number in range(50):
                await client.send(request(box, b"X-Nonce: %d" % number))
                await client.response()
            kept = router.server.request_heads.exact
            assert len(kept.young) + len(kept.old) <= 2


class TestToll:
    def test_it_tells_what_is_left_and_what_was_slow(self) -> None:
        prober = Prober(("", 0), {}, took={"/healthz": [0.001, 0.25]}, failures=["/healthz: refused"])
        toll = Toll((100, 106), (10, 11), Counter({"400": 1}), prober)
        assert toll.wrong() == [
            "/healthz: refused",
            "descriptors: 10 before, 11 after",
            "resident bytes: 100 before, 106 after",
        ]
        assert toll.slow() == ["an answer took 0.250 s"]
        assert Toll((100, 105), (10, 10), Counter(), Prober(("", 0), {})).wrong() == []
        assert "descriptors 10 and 11" in str(toll)
