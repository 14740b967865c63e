"""The access log: whole lines through a real pipe, also when nobody reads it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fastrouter.policy.plan import plan_request
from fastrouter.policy.rules import Rules
from fastrouter.telemetry import access_log
from fastrouter.telemetry.access_log import NO_SUBJECT, AccessLog
from fastrouter.telemetry.outcome import Outcome

LIMIT = 10.0


def subject(path: str = "/execute") -> str:
    raw = f"POST {path} HTTP/1.1\r\nHost: a\r\nX-Sandbox-ID: box\r\n\r\n"
    return plan_request(raw.encode("latin-1"), Rules()).log_subject


def outcome(**facts: object) -> Outcome:
    made = Outcome(0.0)
    made.status = 200
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def lines(data: bytes) -> list[dict[str, Any]]:
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


class Pipe:
    """A pipe whose reader reads when the test wants it."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()

    def log(self) -> AccessLog:
        """Return a log into it, made as small as can be: a reader that has stopped is felt after one page."""
        made = AccessLog(self.write_fd)
        fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, 4096)
        return made

    def close_writer(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def read(self) -> bytes:
        """Wait for a batch and return it."""
        assert select.select([self.read_fd], [], [], LIMIT)[0]
        return os.read(self.read_fd, 65536)

    def read_to_end(self, finish: Callable[[], None]) -> bytes:
        """Read all there is, while ``finish`` runs to the end in a thread, and close."""

        def run() -> None:
            finish()
            self.close_writer()

        thread = threading.Thread(target=run)
        thread.start()
        data = b""
        while piece := os.read(self.read_fd, 65536):
            data += piece
        thread.join(LIMIT)
        return data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close_writer()
    os.close(made.read_fd)


def written(path: Path, write: Callable[[AccessLog], None]) -> list[dict[str, Any]]:
    """Return the lines that a log into a file holds after ``write`` and its end."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        log = AccessLog(fd)
        write(log)
        log.close()
    finally:
        os.close(fd)
    return lines(path.read_bytes())


def test_a_line_tells_the_facts_of_its_request(tmp_path: Path) -> None:
    facts = outcome(status=201, bytes_in=7, bytes_out=9, upstream="10.0.0.7:8888", reused=True)
    before = datetime.now(UTC)
    (line,) = written(tmp_path / "log", lambda log: log.record(subject("/a?secret"), facts, 0.0123459))
    told = datetime.fromisoformat(line.pop("time"))
    assert before.timestamp() - 0.001 <= told.timestamp() <= datetime.now(UTC).timestamp()
    assert line == {
        "method": "POST",
        "path": "/a",
        "sandbox_id": "box",
        "namespace": "default",
        "status": 201,
        "duration_ms": 12.345,
        "bytes_in": 7,
        "bytes_out": 9,
        "upstream": "10.0.0.7:8888",
        "connection": "reused",
        "error": None,
    }


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"upstream": "[::1]:80"}, ("[::1]:80", "fresh", None)),
        (
            {"upstream": "a:1", "reused": True, "reason": "upstream_closed"},
            ("a:1", "reused", "upstream_closed"),
        ),
        ({"reason": "dns_not_found"}, (None, None, "dns_not_found")),
    ],
)
def test_a_line_tells_where_a_request_went_and_why_it_failed(
    tmp_path: Path, facts: dict[str, object], told: tuple[str | None, ...]
) -> None:
    (line,) = written(tmp_path / "log", lambda log: log.record(subject(), outcome(**facts), 0.0))
    assert (line["upstream"], line["connection"], line["error"]) == told


def test_a_request_without_a_head_has_a_line_with_the_same_members(tmp_path: Path) -> None:
    def write(log: AccessLog) -> None:
        log.record(NO_SUBJECT, outcome(status=400, reason="bad_request"), 0.0)
        log.record(subject(), outcome(), 0.0)

    without, with_head = written(tmp_path / "log", write)
    assert list(without) == list(with_head)
    assert [without[name] for name in ("method", "path", "sandbox_id", "namespace")] == [None] * 4


@pytest.mark.parametrize("path", ['/","status":200,"x":"', "/\\", '/"}', "/%0A{}", "/%00"])
def test_no_path_forges_a_line(tmp_path: Path, path: str) -> None:
    (line,) = written(tmp_path / "log", lambda log: log.record(subject(path), outcome(status=502), 0.0))
    assert (line["path"], line["status"]) == (path, 502)


def test_the_second_of_the_time_follows_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(log: AccessLog) -> None:
        for now in (1700000000.25, 1700000000.999, 1700000001.0):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            log.record(subject(), outcome(started=now), 0.0)

    times = [line["time"] for line in written(tmp_path / "log", write)]
    assert times == ["2023-11-14T22:13:20.250Z", "2023-11-14T22:13:20.999Z", "2023-11-14T22:13:21.000Z"]


def test_a_flush_brings_what_is_buffered_to_the_reader(pipe: Pipe) -> None:
    log = pipe.log()
    log.record(subject("/first"), outcome(), 0.0)
    assert repr(log) == f"<AccessLog fd={pipe.write_fd} buffered=1 dropped=0>"
    log.flush()
    assert [line["path"] for line in lines(pipe.read())] == ["/first"]
    assert "buffered=0" in repr(log)
    log.flush()  # nothing to do
    log.close()


def record_many(log: AccessLog, number: int) -> None:
    for each in range(number):
        log.record(subject(f"/{each}"), outcome(), 0.0)


def paths(found: list[dict[str, Any]]) -> list[str]:
    return [line["path"] for line in found if "path" in line]


def test_a_full_buffer_is_flushed_by_itself(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_FLUSH_CHARS", 300)
    log = pipe.log()
    record_many(log, 1)
    assert "buffered=1 " in repr(log)
    record_many(log, 1)
    assert paths(lines(pipe.read())) == ["/0", "/0"]
    assert "buffered=0 " in repr(log)
    log.close()


def test_lines_come_whole_and_in_order_through_a_pipe_smaller_than_they(pipe: Pipe) -> None:
    log = pipe.log()
    record_many(log, 2000)
    assert paths(lines(pipe.read_to_end(log.close))) == [f"/{each}" for each in range(2000)]


def test_a_pipe_that_another_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.write_fd, False)
    log = pipe.log()
    record_many(log, 500)
    assert paths(lines(pipe.read_to_end(log.close))) == [f"/{each}" for each in range(500)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Little may wait for the reader: a tenth of a megabyte would do, and be slow to fill."""
    monkeypatch.setattr(access_log, "_FLUSH_CHARS", 5000)
    monkeypatch.setattr(access_log, "_MAX_WAITING_BATCHES", 4)
    return 4 * 5000


def test_a_reader_that_stops_costs_lines_and_not_the_router(pipe: Pipe, small: int) -> None:
    log = pipe.log()
    record_many(log, 2000)  # some 400 kB: that it returns at all is half of the test
    log.flush()
    kept = 2000 - log.dropped
    found = pipe.read_to_end(log.close)
    notices = [line for line in lines(found) if "level" in line]
    assert notices[-1] == {"level": "warning", "message": "access lines dropped", "total": log.dropped}
    assert paths(lines(found)) == sorted(set(paths(lines(found))), key=lambda path: int(path[1:]))
    assert len(paths(lines(found))) == kept
    # What waited, the batch in the writer's hand, and one more where it was quick to take the first.
    assert small <= len(found) <= small + 3 * 5500


def test_an_end_does_not_wait_for_a_reader_that_stopped(
    pipe: Pipe, small: int, caplog: pytest.LogCaptureFixture
) -> None:
    log = pipe.log()
    record_many(log, 400)
    began = time.monotonic()
    log.close()
    assert time.monotonic() - began < 5.0  # one second for the queue, one for the thread
    (record,) = caplog.records
    assert record.message == "the access log is not being read: lines are lost"
    pipe.read_to_end(lambda: end_of(log))


def end_of(log: AccessLog) -> None:
    """Wait until the thread that a reader held up has written all and ended."""
    log.close()
    for thread in threading.enumerate():
        if thread.name == "access-log":
            thread.join(LIMIT)


def test_a_log_that_cannot_be_written_says_so_once_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[bytes] = []
    really_write = os.write

    def write_to_a_full_disk(fd: int, data: bytes) -> int:
        attempts.append(bytes(data))
        if len(attempts) <= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really_write(fd, data)

    def write(log: AccessLog) -> None:
        monkeypatch.setattr(os, "write", write_to_a_full_disk)
        for number in range(5):
            log.record(subject(f"/{number}"), outcome(), 0.0)
            log.flush()

    assert paths(written(tmp_path / "log", write)) == ["/3", "/4"]
    assert [record.message for record in caplog.records] == ["cannot write the access log"]


def test_a_reader_that_left_does_not_end_the_router(caplog: pytest.LogCaptureFixture) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    log = AccessLog(write_fd)
    log.record(subject(), outcome(), 0.0)
    log.close()
    os.close(write_fd)
    assert [record.message for record in caplog.records] == ["cannot write the access log"]


def test_an_end_twice_is_an_end(tmp_path: Path) -> None:
    def write(log: AccessLog) -> None:
        log.record(subject(), outcome(), 0.0)
        log.close()

    assert len(written(tmp_path / "log", write)) == 1


def test_a_line_of_another_log_is_written_whole_and_dropped_when_nobody_reads() -> None:
    read_fd, write_fd = os.pipe()
    log = AccessLog(write_fd)
    try:
        log.say('{"message":"told"}\n')
        assert os.read(read_fd, 100) == b'{"message":"told"}\n'
        for _ in range(1000):
            log.say("x" * 65536)
        assert log.dropped > 0
    finally:
        os.close(read_fd)
        log.close()
        os.close(write_fd)


def sampled(tmp_path: Path, share: float, *facts: Outcome) -> list[int]:
    """Return the statuses of the lines that are left of these requests."""
    fd = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        log = AccessLog(fd, share=share)
        for each in facts:
            log.record(subject(), each, 0.1)
        log.close()
    finally:
        os.close(fd)
    return [line["status"] for line in lines((tmp_path / "log").read_bytes())]


def test_a_sample_leaves_out_successes_and_no_failure(tmp_path: Path) -> None:
    refused = outcome(status=404, reason="bad_request")
    facts = [outcome(), outcome(status=404), outcome(status=500), refused, outcome(status=502)]
    assert sampled(tmp_path, 0.0, *facts) == [500, 404, 502]
    assert sampled(tmp_path, 1.0, *facts) == [200, 404, 500, 404, 502]


def test_a_sample_is_a_share(tmp_path: Path) -> None:
    # Of 2,000, a fair 0.25 is below 350 or above 650 once in more than 10**20 runs.
    assert 350 < len(sampled(tmp_path, 0.25, *[outcome()] * 2000)) < 650


def test_another_shape_is_written_in_its_place(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    try:
        log = AccessLog(fd, shape=lambda line: f"{json.loads(line)['status']}\n")
        log.record(NO_SUBJECT, outcome(status=418), 0.1)
        log.close()
    finally:
        os.close(fd)
    assert (tmp_path / "log").read_bytes() == b"418\n"


def test_ids_stand_behind_the_facts(tmp_path: Path) -> None:
    facts = outcome(request_id=b"abc")
    (line,) = written(tmp_path / "log", lambda log: log.record(subject(), facts, 0.1, "0af7"))
    assert list(line)[-2:] == ["request_id", "trace_id"]
    assert (line["request_id"], line["trace_id"]) == ("abc", "0af7")


def test_its_pipe_is_made_larger_and_one_that_is_larger_stays_as_it_is(pipe: Pipe) -> None:
    AccessLog(pipe.write_fd).close()
    assert fcntl.fcntl(pipe.write_fd, fcntl.F_GETPIPE_SZ) == 256 * 1024
    fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, 512 * 1024)
    AccessLog(pipe.write_fd).close()
    assert fcntl.fcntl(pipe.write_fd, fcntl.F_GETPIPE_SZ) == 512 * 1024
