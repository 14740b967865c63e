"""Out of file descriptors: clients wait in the kernel's queue, and whoever was accepted is served."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.adversity.descriptors import HEALTH, PAUSED, RESUMED, Scarce, no_files, scarce, status
from tests.support import Client, Visit, always, eventually, ok, read_request, request, settled, stage

FILES = 256
MORE_FILES = 512
CROWD = 1_200
ONE_REQUEST = ok(b"ok", b"Connection: close")


class Patient:
    """A sandbox that answers nobody before it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def __call__(self, visit: Visit) -> None:
        while True:
            await read_request(visit)
            await self.may_answer.wait()
            await visit.send(ok())


async def accepted(clients: list[Client]) -> list[Client]:
    """Return the clients who were answered, once no more are."""

    def answered() -> list[Client]:
        return [each for each in clients if each.reader._buffer]  # type: ignore[attr-defined]

    await settled(lambda: len(answered()))
    return answered()


class Health:
    """Asks for the router's health on one connection, again and again."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.answers = 0
        self._over = False

    async def run(self) -> None:
        while not self._over:
            await self.client.send(HEALTH)
            assert (await self.client.response())[1] == b'{"status":"ok"}'
            self.answers += 1
            await asyncio.sleep(0.005)

    def end(self) -> None:
        self._over = True


async def warm(made: Scarce) -> int:
    """Make one request, and return how many files the router has open when it is idle."""
    client = await made.router.client()
    await client.send(made.asks(0))
    assert await status(client) == "200"
    return await settled(lambda: made.files)


class TestClients:
    async def test_a_burst_beyond_the_limit_is_served_to_the_last_one(self) -> None:
        """They come in one turn of the event loop, more than twice as many as there are files."""
        patient = Patient()
        patient.may_answer.set()
        async with scarce(patient, files=MORE_FILES, names=20, KEEPALIVE_EXPIRY_SECONDS="0.25") as made:
            before = await warm(made)
            health = Health(await made.router.client())
            asking = asyncio.create_task(health.run())
            await eventually(lambda: health.answers > 0)
            patient.may_answer.clear()
            with made.stopped():
                clients = [await made.router.client() for _ in range(CROWD)]
                for number, client in enumerate(clients):
                    await client.send(made.asks(number % 20))
            await eventually(lambda: made.said(PAUSED) > 0)
            answers, most = health.answers, made.files
            await eventually(lambda: health.answers > answers)  # paused, it still answers who is there
            patient.may_answer.set()
            statuses = asyncio.gather(*map(status, clients))
            while not statuses.done():
                most = max(most, made.files)
                await asyncio.sleep(0.002)
            assert Counter(await statuses) == {"200": CROWD}
            health.end()
            await asking
            health.client.close()
            assert MORE_FILES / 2 < most < MORE_FILES - 8
            # Once each time: at most as often as the sweep looks whether there is room again.
            assert made.said(PAUSED) < 30
            await eventually(lambda: made.said(RESUMED) == made.said(PAUSED))
            assert made.complaints == []
            await eventually(lambda: made.files <= before)

    async def test_idle_clients_who_ask_all_at_once_are_all_served(self) -> None:
        """A client that was accepted has a descriptor for its sandbox, whenever it asks."""
        patient = Patient()
        async with scarce(patient, files=FILES, names=20, DIAL_RETRY_SECONDS="0") as made:
            clients = [await made.router.client() for _ in range(FILES)]
            for client in clients:
                await client.send(HEALTH)
            served = await accepted(clients)
            assert FILES / 4 < len(served) < FILES / 2
            for number, client in enumerate(served):
                await client.response()
                await client.send(made.asks(number % 20))
            await eventually(lambda: len(made.box.visits) == len(served))
            patient.may_answer.set()
            assert Counter(await asyncio.gather(*map(status, served))) == {"200": len(served)}
            waiting = [client for client in clients if client not in served]
            assert Counter(await asyncio.gather(*map(status, waiting))) == {"200": len(waiting)}
            assert made.complaints == []

    async def test_more_sandboxes_than_files_one_after_another(self) -> None:
        """Idle connections are closed before they are missed: no dial fails, none is tried again."""
        async with scarce(
            always(ok()),
            files=FILES,
            names=2 * FILES,
            DIAL_RETRY_SECONDS="0",
            KEEPALIVE_EXPIRY_SECONDS="60",
        ) as made:
            client = await made.router.client()
            for number in range(2 * FILES):
                await client.send(made.asks(number))
                assert (await client.response())[1] == b"ok"
            client.close()
            assert made.said(PAUSED) == 0
            assert made.complaints == []
            assert made.files > FILES / 4  # it was those who had to go that went


class TestDials:
    async def test_one_without_a_descriptor_is_a_503(self) -> None:
        async with stage() as router:
            box = await router.sandbox(always(ONE_REQUEST))
            client = await router.client()
            await client.send(request(box))
            await client.response()
            for _ in range(2):
                with no_files():
                    await client.send(request(box))
                    error = await client.error()
                assert error == (503, "The router is at its connection limit.", "overloaded")
            await client.send(request(box))
            assert (await client.response())[1] == b"ok"

    async def test_it_is_tried_again_while_there_is_time(self) -> None:
        async with stage(dial_retry=5.0) as router:
            box = await router.sandbox(always(ONE_REQUEST))
            client = await router.client()
            await client.send(request(box))
            await client.response()
            with no_files():
                await client.send(request(box))
                attempts = router.server.pool.dialer.attempts
                await eventually(lambda: router.server.pool.dialer.attempts > attempts + 1)
            assert (await client.response())[1] == b"ok"

    @pytest.mark.parametrize("asked_before", [False, True])
    async def test_a_name_that_cannot_be_asked_for_is_a_502(self, *, asked_before: bool) -> None:
        """Without a channel, and with one that has no socket left."""
        async with stage() as router:
            box = await router.sandbox(always(ONE_REQUEST))
            client = await router.client()
            if asked_before:
                await client.send(request(box))
                await client.response()
            with no_files():
                await client.send(request(box, name=b"other"))
                assert (await client.error())[::2] == (502, "dns_failure")
            await client.send(request(box))
            assert (await client.response())[1] == b"ok"
