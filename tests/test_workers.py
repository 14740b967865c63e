"""The fleet: starting, asking, replacing and ending real worker processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from fastrouter import launch, workers
from fastrouter.control import Order
from fastrouter.launch import Worker
from fastrouter.settings import Settings
from fastrouter.telemetry.relay import Relay
from fastrouter.telemetry.snapshot import Snapshot, merged
from fastrouter.workers import Fleet, StartError
from tests.support import LIMIT, Client, eventually

SETTINGS = Settings(host="127.0.0.1", port=0, dns_servers=("127.0.0.1:1",), shutdown_grace=1.0)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n"


@pytest.fixture
def output() -> Relay:
    return Relay(os.open(os.devnull, os.O_WRONLY))


@pytest.fixture
async def fleet(output: Relay) -> AsyncIterator[Fleet]:
    made = Fleet(SETTINGS, 2, output)
    await made.start()
    yield made
    for pid in pids(made):
        os.kill(pid, signal.SIGCONT)
    await made.shutdown()


def pids(fleet: Fleet) -> list[int]:
    return sorted(worker.pid for worker in fleet._workers)


def worker_of(fleet: Fleet, slot: int) -> Worker:
    worker = fleet._slots[slot].worker
    assert worker is not None
    return worker


def failing(patch: pytest.MonkeyPatch, times: dict[int, int], error: Exception) -> None:
    """Let so many launches fail in a slot."""
    start = launch.launch

    async def may_fail(
        slot: int, settings: Settings, sockets: Sequence[Sequence[socket.socket]], output: int
    ) -> Worker:
        if times.get(slot):
            times[slot] -= 1
            raise error
        return await start(slot, settings, sockets, output)

    patch.setattr(workers, "launch", may_fail)


async def ask(fleet: Fleet, times: int) -> None:
    """Make requests, each on a connection of its own, so that every worker gets some."""
    for _ in range(times):
        client = Client(*await asyncio.open_connection(*fleet.address))
        await client.send(HEALTH)
        await client.response()
        client.close()


async def counted(fleet: Fleet) -> float:
    return requests(merged(await fleet.snapshots()))


def requests(snapshot: Snapshot) -> float:
    return sum(snapshot.values["requests"].values())


class TestStart:
    async def test_all_serve_and_each_takes_its_share(self, fleet: Fleet) -> None:
        await ask(fleet, 40)
        told = await fleet.snapshots()
        assert sorted(each.pid for each in told) == pids(fleet)
        assert sum(map(requests, told)) == 40
        assert min(map(requests, told)) > 0
        assert "Slot 1 <Worker 1 pid=" in repr(fleet)

    async def test_a_worker_that_ends_at_its_first_start_ends_the_router(
        self, output: Relay, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        made = Fleet(SETTINGS, 2, output)
        with pytest.raises(StartError, match="exit code 1") as caught:
            await made.start()
        assert caught.value.code == 1
        assert pids(made) == []


class TestSource:
    async def test_a_silent_worker_keeps_what_it_told_and_holds_nobody_up(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launch, "ANSWER_SECONDS", 0.2)
        await ask(fleet, 40)
        assert await counted(fleet) == 40
        os.kill(worker_of(fleet, 0).pid, signal.SIGSTOP)
        told = await fleet.snapshots()
        assert sum(map(requests, told)) == 40  # counters do not fall
        assert sum(bool(each.values.get("accepting")) for each in told) == 1

    async def test_one_worker_that_is_ready_is_enough(self, fleet: Fleet) -> None:
        answers: dict[int, list[str]] = {0: ["no DNS"], 1: []}
        for slot in (0, 1):

            async def answer(_: str, slot: int = slot) -> list[str]:
                return answers[slot]

            worker_of(fleet, slot).ask = answer  # type: ignore[method-assign, assignment]
        assert await fleet.unready() == []
        answers[1] = ["no DNS either"]
        assert await fleet.unready() == ["worker 0: no DNS", "worker 1: no DNS either"]

    async def test_workers_say_themselves_why_they_are_not_ready(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launch, "ANSWER_SECONDS", 8.0)
        reasons = await fleet.unready()  # nobody answers where the DNS server should be
        assert [reason.split(":")[0] for reason in reasons] == ["worker 0", "worker 1"]
        assert "DNS" in reasons[0]

    async def test_a_worker_that_is_silent_or_gone_is_named(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launch, "ANSWER_SECONDS", 0.2)
        monkeypatch.setattr(workers, "_FIRST_PAUSE", 5.0)
        os.kill(worker_of(fleet, 0).pid, signal.SIGSTOP)
        os.kill(worker_of(fleet, 1).pid, signal.SIGKILL)
        await worker_of(fleet, 1).ended()
        assert await fleet.unready() == ["worker 0 does not answer", "worker 1 is not running"]

    async def test_a_router_that_leaves_says_so(self, fleet: Fleet) -> None:
        fleet.leaving = True
        assert await fleet.unready() == ["shutting down"]


class TestLeaving:
    async def test_one_that_starts_then_learns_of_it(self, fleet: Fleet) -> None:
        fleet.leave()
        victim = worker_of(fleet, 0)
        victim.kill()
        await eventually(lambda: worker_of(fleet, 0) is not victim and worker_of(fleet, 0).listening)
        late = worker_of(fleet, 0)
        await late.ask("snapshot")  # what was sent before is read by then
        await late._channel.close()  # the parent is gone, by a second signal
        assert await late.ended() == 1


class TestReplacing:
    async def test_one_that_ended_is_replaced_and_what_it_counted_stays(self, fleet: Fleet) -> None:
        await ask(fleet, 30)
        before = await counted(fleet)
        victim = worker_of(fleet, 0)
        await victim.end("retire", LIMIT)  # not by the fleet: it goes well, and is replaced all the same
        assert await victim.ended() == 0
        await eventually(lambda: worker_of(fleet, 0) is not victim and worker_of(fleet, 0).listening)
        assert await counted(fleet) == before == 30
        gauges = [each.values.get("accepting", {}) for each in await fleet.snapshots()]
        assert sum(sum(each.values()) for each in gauges) == 2

    async def test_new_connections_go_to_the_others_meanwhile(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workers, "_FIRST_PAUSE", 30.0)
        os.kill(worker_of(fleet, 0).pid, signal.SIGKILL)
        assert await worker_of(fleet, 0).ended() == -signal.SIGKILL
        async with asyncio.timeout(2.0):
            await ask(fleet, 30)

    async def test_who_crashes_again_and_again_is_replaced_ever_later(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(workers, "_FIRST_PAUSE", 0.01)
        monkeypatch.setattr(workers, "_LONGEST_PAUSE", 0.04)
        monkeypatch.setattr(sys, "executable", "/bin/false")

        def pauses() -> list[float]:
            return [vars(record)["again_in"] for record in caplog.records if record.message == "worker died"]

        os.kill(worker_of(fleet, 0).pid, signal.SIGKILL)
        await eventually(lambda: len(pauses()) >= 6)
        assert pauses()[:5] == [0.01, 0.02, 0.04, 0.04, 0.04]
        async with asyncio.timeout(2.0):
            await ask(fleet, 10)  # the other one serves on

    async def test_one_that_lived_long_is_replaced_soon(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(workers, "_LONG_LIFE", 0.0)
        monkeypatch.setattr(workers, "_FIRST_PAUSE", 0.01)

        def pauses() -> list[float]:
            return [vars(record)["again_in"] for record in caplog.records if record.message == "worker died"]

        for times in (1, 2):
            os.kill(worker_of(fleet, 0).pid, signal.SIGKILL)
            await eventually(lambda times=times: len(pauses()) == times)  # type: ignore[misc]
            await eventually(lambda: worker_of(fleet, 0).listening)
        assert pauses() == [0.01, 0.01]

    @pytest.mark.parametrize("error", [OSError("no file left"), RuntimeError("can't start new thread")])
    async def test_where_none_can_be_started_for_a_while_it_is_tried_ever_later(
        self,
        error: Exception,
        fleet: Fleet,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(workers, "_FIRST_PAUSE", 0.01)
        failing(monkeypatch, {0: 3}, error)
        victim = worker_of(fleet, 0)
        victim.kill()
        await eventually(lambda: worker_of(fleet, 0) is not victim and worker_of(fleet, 0).listening)
        lines = [vars(record) for record in caplog.records if record.message == "cannot start a worker"]
        assert [line["again_in"] for line in lines] == [0.02, 0.04, 0.08]
        assert {line["error"] for line in lines} == {str(error)}

    async def test_the_others_get_all_connections_while_another_worker_is_waited_for(
        self, fleet: Fleet
    ) -> None:
        async with fleet._slots[0].turn:  # a restart that takes its time
            worker_of(fleet, 0).kill()
            await worker_of(fleet, 0).ended()
            async with asyncio.timeout(2.0):
                await ask(fleet, 30)


class TestRolling:
    async def test_new_settings_reach_every_worker_and_ports_stay(
        self, fleet: Fleet, caplog: pytest.LogCaptureFixture
    ) -> None:
        old, address = pids(fleet), fleet.address
        assert await fleet.roll(replace(SETTINGS, auth_token="new", port=1, workers=9))
        assert set(pids(fleet)).isdisjoint(old)
        assert fleet.address == address
        for _ in range(10):
            client = Client(*await asyncio.open_connection(*address))
            await client.send(b"GET / HTTP/1.1\r\nHost: r\r\nX-Sandbox-ID: box\r\n\r\n")
            assert (await client.error())[0] == 401
            client.close()
        (line,) = [record for record in caplog.records if "need a restart" in record.message]
        assert vars(line)["settings"] == ["port", "workers"]

    async def test_a_port_for_tls_does_not_appear_in_between(
        self, fleet: Fleet, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert await fleet.roll(replace(SETTINGS, tls_cert_file="new.crt", tls_key_file="new.key"))
        assert fleet.secure_address is None
        (line,) = [record for record in caplog.records if "need a restart" in record.message]
        assert vars(line)["settings"] == ["tls_cert_file", "tls_key_file"]

    async def test_settings_that_no_worker_starts_with_change_nothing(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.ERROR)
        old = pids(fleet)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/bin/false")
            assert not await fleet.roll(SETTINGS)
        await eventually(lambda: pids(fleet) == old)
        assert "all keep the old ones" in caplog.text
        await ask(fleet, 10)

    async def test_a_new_worker_that_dies_is_replaced_while_the_old_one_still_retires(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        may_end, end = asyncio.Event(), fleet._end

        async def end_later(worker: Worker, order: Order) -> None:
            await may_end.wait()
            await end(worker, order)

        monkeypatch.setattr(fleet, "_end", end_later)
        old = worker_of(fleet, 0)
        rolling = asyncio.create_task(fleet.roll(SETTINGS))
        await eventually(lambda: worker_of(fleet, 0) is not old)
        new = worker_of(fleet, 0)
        new.kill()
        await eventually(lambda: worker_of(fleet, 0) is not new and worker_of(fleet, 0).listening)
        assert old.code is None
        may_end.set()
        assert await rolling

    async def test_one_failure_after_the_first_success_is_tried_again(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(workers, "_FIRST_PAUSE", 0.01)
        failing(monkeypatch, {1: 2}, OSError("no file left"))
        assert await fleet.roll(replace(SETTINGS, auth_token="new"))
        assert [slot.settings.auth_token for slot in fleet._slots if slot.settings] == ["new", "new"]
        lines = [vars(record) for record in caplog.records if "does not start" in record.message]
        assert [(line["worker"], line["tries_left"]) for line in lines] == [(1, 5), (1, 4)]

    async def test_where_it_fails_for_good_the_log_says_how_many_differ(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(workers, "_FIRST_PAUSE", 0.01)
        monkeypatch.setattr(workers, "_TRIES", 2)
        failing(monkeypatch, {1: 2}, OSError("no file left"))
        assert not await fleet.roll(replace(SETTINGS, auth_token="new"))
        assert "workers differ: 1 of 2 have the new settings" in caplog.text
        assert "keep the old" not in caplog.text


class TestShutdown:
    async def test_afterwards_nobody_listens_and_the_requests_are_known(self, fleet: Fleet) -> None:
        await ask(fleet, 20)
        address = fleet.address
        await fleet.shutdown()
        assert pids(fleet) == []
        assert fleet.requests == 20
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)

    async def test_a_worker_that_does_not_end_is_killed(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(workers, "_SPARE_SECONDS", -0.9)
        stuck = worker_of(fleet, 0)
        os.kill(stuck.pid, signal.SIGSTOP)
        await fleet.shutdown()
        assert stuck.code == -signal.SIGKILL
        assert "does not end" in caplog.text
