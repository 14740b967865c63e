"""Long bodies through the one buffer: byte-exact, also for peers that are slow, leave, or send more."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from fastrouter.net import bulk
from fastrouter.net.bulk import SIZE, WORTH_IT
from tests.shim import BOX, MockBackend, Shim
from tests.support import LIMIT, Client, Stage, Visit, always, eventually, ok, request, settled, stage

BODY = random.Random(7).randbytes(5 * SIZE + 12345)  # noqa: S311 - data, no secret
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage() as set_:
        yield set_


@pytest.fixture(autouse=True)
def buffer(monkeypatch: pytest.MonkeyPatch) -> bulk.Buffer:
    """Give each test a buffer of its own."""
    own = bulk.Buffer()
    monkeypatch.setattr(bulk, "_BUFFER", own)
    return own


@pytest.fixture
def in_bulk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the pieces that moved through the buffer."""
    seen: list[int] = []
    updated = bulk.Bulk.buffer_updated

    def counted(self: bulk.Bulk, nbytes: int) -> None:
        seen.append(nbytes)
        updated(self, nbytes)

    monkeypatch.setattr(bulk.Bulk, "buffer_updated", counted)
    return seen


class TestBytes:
    async def test_a_download_is_the_same_byte_for_byte(self, router: Stage, in_bulk: list[int]) -> None:
        box = await router.sandbox(always(HEAD + BODY))
        client = await router.client()
        for _ in range(3):  # the third begins without the task
            await client.send(request(box))
            assert (await client.response())[1] == BODY
        assert len(in_bulk) > 3
        assert max(in_bulk) <= SIZE

    async def test_an_upload_is_the_same_and_what_comes_behind_it_is_the_next_request(
        self, router: Stage, in_bulk: list[int]
    ) -> None:
        box = await router.sandbox(always(ok(b"thanks")))
        client = await router.client()
        upload = request(box, method=b"PUT", body=BODY)
        for _ in range(3):
            sending = asyncio.create_task(client.send(upload + request(box, target=b"/next")))
            assert (await client.response())[1] == b"thanks"
            assert (await client.response())[1] == b"thanks"
            await sending
        assert in_bulk
        assert box.received.count(BODY) == 3
        assert box.received.count(b"GET /next ") == 3

    @pytest.mark.parametrize("rest", [WORTH_IT - 1, WORTH_IT, WORTH_IT + 1, SIZE, SIZE + 1])
    async def test_any_length_near_the_limits_is_whole(self, rest: int, router: Stage) -> None:
        async def sandbox(visit: Visit) -> None:
            await visit.head()
            body = BODY[: rest + 1]
            await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body[:1]))
            await eventually(lambda: len(client.reader._buffer) > 0)  # type: ignore[attr-defined]
            await visit.send(body[1:])
            await visit.gone()

        box = await router.sandbox(sandbox)
        client = await router.client()
        await client.send(request(box))
        assert (await client.response())[1] == BODY[: rest + 1]

    async def test_a_backend_without_buffers_serves_long_bodies_too(self) -> None:
        async with Shim(backend=MockBackend(HEAD + BODY)) as shim:
            assert (await shim.request("GET", "/", BOX)).body == BODY


class TestSlowPeers:
    async def test_what_a_slow_client_has_not_taken_is_not_overwritten(
        self, router: Stage, buffer: bulk.Buffer
    ) -> None:
        other = BODY[::-1]
        box = await router.sandbox(always(HEAD + BODY))
        second = await router.sandbox(always(HEAD + other), name="other")
        slow, fast = await stalled(router), await router.client()
        await slow.send(request(box))
        await eventually(lambda: buffer._held != [])
        for _ in range(3):
            await fast.send(request(second, name=b"other"))
            assert (await fast.response())[1] == other
        assert (await slow.response())[1] == BODY

    async def test_a_client_that_reads_nothing_costs_one_buffer_and_stops_the_sandbox(
        self, router: Stage, in_bulk: list[int]
    ) -> None:
        box = await router.sandbox(always(HEAD + BODY))
        client = await stalled(router)
        await client.send(request(box))
        await settled(lambda: sum(in_bulk))
        (side,) = router.server.connections
        assert side.writing_paused
        assert side.transport.get_write_buffer_size() <= SIZE + WORTH_IT

    async def test_only_so_many_may_keep_a_buffer(self, router: Stage, buffer: bulk.Buffer) -> None:
        box = await router.sandbox(always(HEAD + BODY))
        clients = [await stalled(router) for _ in range(24)]
        for client in clients:
            await client.send(request(box))
        await settled(lambda: len(buffer._held))
        assert len(buffer._held) <= 16
        for client in clients:
            assert (await client.response())[1] == BODY
        assert not any(holder.get_write_buffer_size() for holder, _, _ in buffer._held)

    async def test_a_buffer_that_was_sent_is_used_again(self, router: Stage, buffer: bulk.Buffer) -> None:
        box = await router.sandbox(always(HEAD + BODY))
        client = await stalled(router)
        for _ in range(5):
            await client.send(request(box))
            assert (await client.response())[1] == BODY
        assert len(buffer._held) <= 3  # of 25 pieces
        assert repr(buffer) == f"<Buffer, {len(buffer._held)} given away>"


async def stalled(router: Stage) -> Client:
    """Return a client whose kernel and stream take little until it reads."""
    client = await router.client()
    client.reader._limit = 1024  # type: ignore[attr-defined]
    return client


class FakeTransport(asyncio.Transport):
    """Tells how much it still has to send."""

    unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.unsent


def test_a_buffer_is_used_again_only_when_none_of_it_can_be_unsent() -> None:
    buffer, slow = bulk.Buffer(), FakeTransport()
    first = buffer.view
    slow.unsent = 100
    buffer.give_away(slow, 100)
    second = buffer.view
    slow.unsent = 50 + 70
    buffer.give_away(slow, 70)
    assert all(
        buffer.view is not each for each in (first, second)
    )  # 50 bytes of the first may still be there
    third = buffer.view
    slow.unsent = 70 + 30 + 1
    buffer.give_away(slow, 30)  # one byte of the first
    assert all(buffer.view is not each for each in (first, second, third))
    slow.unsent = 70 + 30 + 40
    buffer.give_away(slow, 40)
    assert buffer.view is first


class TestEnds:
    async def test_a_sandbox_that_breaks_off_is_truncation(self, router: Stage, in_bulk: list[int]) -> None:
        async def sandbox(visit: Visit) -> None:
            await visit.head()
            await visit.send(HEAD + BODY[:-1])

        box = await router.sandbox(sandbox)
        client = await router.client()
        await client.send(request(box))
        await client.head()
        assert await client.rest() == BODY[:-1]
        assert in_bulk
        assert router.access_lines()[0]["error"] == "upstream_closed"

    async def test_a_client_that_leaves_closes_the_sandboxs_connection(
        self, router: Stage, in_bulk: list[int]
    ) -> None:
        box = await router.sandbox(always(HEAD + BODY))
        client = await stalled(router)
        await client.send(request(box))
        await eventually(lambda: bool(in_bulk))
        client.reset()
        async with asyncio.timeout(LIMIT):
            await eventually(lambda: router.server.pool.statistics()["upstream_active"] == 0)
        await eventually(lambda: not router.server.connections)
