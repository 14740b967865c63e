"""One worker process: started, asked, and ended, however it behaves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fastrouter import launch
from fastrouter.launch import Worker
from fastrouter.net.ports import Ports
from fastrouter.settings import Settings
from fastrouter.telemetry.snapshot import empty
from tests.support import eventually

SETTINGS = Settings(
    host="127.0.0.1", port=0, auth_token="very-secret", dns_servers=("127.0.0.1:1",), shutdown_grace=1.0
)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    ports = Ports("127.0.0.1", 0, 1)
    output = os.open(os.devnull, os.O_WRONLY)
    made = await launch.launch(0, SETTINGS, [ports.of(0), []], output)
    os.close(output)
    assert await made.started()
    yield made
    if made.code is None:
        made.kill()
        await made.ended()
    ports.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named before ``worker``: one that is started later has these times."""
    monkeypatch.setattr(launch, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(launch, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(launch, "SILENT_SECONDS", 0.3)


@asynccontextmanager
async def starting() -> AsyncIterator[Worker]:
    """Give a worker that does not serve yet."""
    ports = Ports("127.0.0.1", 0, 1)
    output = os.open(os.devnull, os.O_WRONLY)
    made = await launch.launch(0, SETTINGS, [ports.of(0), []], output)
    os.close(output)
    try:
        yield made
    finally:
        made.kill()
        await made.ended()
        ports.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_it_answers_until_it_ends(worker: Worker) -> None:
    snapshot = await worker.snapshot()
    assert snapshot is not None
    assert snapshot.pid == worker.pid
    assert snapshot.values["accepting"] == {(): 1.0}
    await worker.end("shutdown", 5.0)
    assert await worker.ended() == 0
    assert repr(worker) == f"<Worker 0 pid={worker.pid} listening=False exit=0>"
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await worker.ask("snapshot")
    kept = await worker.snapshot()
    assert kept is not None
    assert "accepting" not in kept.values
    assert time.monotonic() - began < 0.5  # nobody waits for the dead


async def test_who_asks_while_it_dies_is_told_at_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "ANSWER_SECONDS", 60.0)
    os.kill(worker.pid, signal.SIGSTOP)
    asking = asyncio.create_task(worker.ask("snapshot"))
    await asyncio.sleep(0)
    worker.kill()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asking, 5.0)


async def test_one_that_does_not_end_in_time_is_killed(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    await worker.end("shutdown", 0.1)
    assert await worker.ended() == -signal.SIGKILL
    assert "does not end" in caplog.text


async def test_an_answer_that_comes_too_late_is_nobodys(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(launch, "ANSWER_SECONDS", 0.05)
        os.kill(worker.pid, signal.SIGSTOP)
        assert await worker.snapshot() is None  # it has never told anything
        os.kill(worker.pid, signal.SIGCONT)
    snapshot = await worker.snapshot()
    assert snapshot is not None
    assert snapshot.pid == worker.pid


async def test_one_that_says_nothing_any_more_is_killed(
    impatient: None, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    assert await asyncio.wait_for(worker.ended(), 5.0) == -signal.SIGKILL
    assert "does not answer" in caplog.text


async def test_one_that_answers_is_left_alone_however_often_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, impatient: None, worker: Worker
) -> None:
    monkeypatch.setattr(launch, "ANSWER_SECONDS", 5.0)
    await eventually(lambda: worker._heard > 10 or worker.code is not None)
    assert worker.code is None


async def test_one_that_does_not_begin_to_serve_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(launch, "START_SECONDS", 0.1)
    async with starting() as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        assert not await asyncio.wait_for(worker.started(), 5.0)
        assert worker.code == -signal.SIGKILL
    assert "does not start" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
async def test_what_is_sent_to_all_does_not_end_one_that_is_starting(number: signal.Signals) -> None:
    async with starting() as worker:
        os.kill(worker.pid, number)
        assert await worker.started()
    # The parent itself hears it again.
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


async def test_an_answer_before_the_last_word_does_not_replace_it(worker: Worker) -> None:
    older, newer = empty(1, "1", 0.0), empty(1, "1", 0.0)
    newer.values["requests"][("GET", "200", "default")] = 3.0
    asking = asyncio.create_task(worker.snapshot())
    await asyncio.sleep(0)
    # Both are read before the task that asks goes on.
    worker._take({"number": worker._number, "answer": older.to_json()})
    worker._take({"last": newer.to_json()})
    assert await asking == older
    assert worker.last == newer


async def test_where_no_process_can_be_started_no_descriptor_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no process left")

    monkeypatch.setattr(launch, "_execute", refuse)
    before = descriptors()
    with pytest.raises(OSError, match="no process left"):
        await launch.launch(0, SETTINGS, [[], []], 1)
    assert descriptors() == before


async def test_the_token_is_neither_on_the_command_line_nor_in_the_environment(worker: Worker) -> None:
    told = b"".join(Path(f"/proc/{worker.pid}/{name}").read_bytes() for name in ("cmdline", "environ"))  # noqa: ASYNC240 - no disk
    assert b"fastrouter.worker" in told
    assert SETTINGS.auth_token.encode() not in told


@pytest.mark.parametrize(
    ("code", "words"), [(3, "exit code 3"), (-9, "SIGKILL"), (-99, "signal 99"), (0, "exit code 0")]
)
def test_an_end_is_described_in_words(code: int, words: str) -> None:
    assert launch.described(code) == words


def test_modules_come_from_the_current_folder_only_where_they_do_for_the_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert launch._isolation() == []
    here = {"", str(Path.cwd())}
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in here])
    assert launch._isolation() == ["-P"]


def test_what_stays_of_a_process_is_what_it_counted() -> None:
    snapshot = empty(1, "1", 0.0)
    snapshot.values["requests"][("GET", "200", "default")] = 3.0
    snapshot.values["tunnels"][()] = 2.0
    kept = launch.counted(snapshot)
    assert kept.values["requests"] == {("GET", "200", "default"): 3.0}
    assert "tunnels" not in kept.values
    assert json.loads(kept.to_json())["histograms"] == json.loads(snapshot.to_json())["histograms"]
