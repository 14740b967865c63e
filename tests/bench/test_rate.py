"""The open-loop generator: it keeps its schedule, and waiting counts."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bench import rate
from bench.scenarios import MEGABYTE, NONCE, pack
from tests.bench.scripted import ANSWER, CHUNKED, answering, answering_once, refusing, scripted
from tests.bench.talking import EXECUTE, ROOT, running

NO_ERRORS = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}
KEYS = {"requests", "bytes", "seconds", "p50_us", "p99_us", "p999_us", "errors", "behind_p99_us"}


def drive(*plan: Any, **more: Any) -> dict[str, Any]:
    return rate.drive(rate.Plan(*plan, **more))


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "ANSWER_TIMEOUT", 0.2)


def test_rate_sends_exactly_what_the_schedule_says() -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result = drive(address, [EXECUTE], 1000, 8, 0.3)
    assert set(result) == KEYS
    assert result["requests"] == 300
    assert result["errors"] == NO_ERRORS
    assert result["bytes"] > 300 * 200
    assert 0.3 <= result["seconds"] < 0.5
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["p999_us"] < 300_000
    assert 0 < result["behind_p99_us"] <= result["p999_us"]


def test_rate_command_line_prints_one_line(tmp_path: Path) -> None:
    path = tmp_path / "requests"
    path.write_bytes(pack([EXECUTE.replace(b"\r\n", b"\r\nX-Nonce: " + NONCE + b"\r\n", 1)]))
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        command = [sys.executable, "-m", "bench.rate", "--target", "{}:{}".format(*address)]
        command += ["--requests", str(path), "--rate", "500", "--connections", "4", "--seconds", "0.2"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=30, check=True)  # noqa: S603
    result = json.loads(done.stdout)
    assert (result["requests"], result["errors"]) == (100, NO_ERRORS)


def test_rate_counts_the_wait_for_a_stalled_server_in_every_request_that_was_due() -> None:
    stall = threading.Event()

    def handler(sock: socket.socket) -> None:
        while sock.recv(65536):
            stall.wait(0.25)
            stall.set()
            sock.sendall(ANSWER)

    with scripted(handler) as address:
        result = drive(address, [EXECUTE], 400, 1, 0.4)
    assert (result["requests"], result["errors"]) == (160, NO_ERRORS)
    # A closed loop would have seen one slow answer of 160. Here 100 requests were due meanwhile.
    assert result["p50_us"] > 30_000
    assert result["p99_us"] > 200_000
    # And it was not the generator that was late.
    assert result["behind_p99_us"] < 50_000


@pytest.mark.usefixtures("short_grace")
def test_rate_counts_what_is_never_answered_as_timeouts() -> None:
    with scripted(answering(b"")) as address:
        result = drive(address, [EXECUTE], 100, 4, 0.2)
    assert result["requests"] == 0
    assert result["errors"] == NO_ERRORS | {"timeout": 20}
    assert 0.39 < result["seconds"] < 1


@pytest.mark.usefixtures("short_grace")
def test_rate_counts_refused_connections_and_all_that_could_not_be_sent() -> None:
    with refusing() as address:
        result = drive(address, [EXECUTE], 100, 4, 0.2)
    assert result["requests"] == 0
    assert result["errors"]["timeout"] == 20
    # Dialled anew, but not without a pause.
    assert 4 < result["errors"]["connect"] < 60


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("answer", [ANSWER[:-1], ANSWER[:10], ANSWER + b"x", b"no http\r\n\r\n"])
def test_rate_counts_only_whole_answers(answer: bytes) -> None:
    with scripted(answering_once(answer)) as address:
        result = drive(address, [EXECUTE], 100, 4, 0.1)
    assert result["requests"] == 0
    assert result["errors"]["read"] >= 4


def test_rate_counts_refusing_answers() -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result = drive(address, [b"GET /nothing HTTP/1.1\r\nHost: s\r\n\r\n"], 200, 4, 0.2)
    assert result["errors"] == NO_ERRORS | {"status": 40}
    assert result["requests"] == 40


def test_rate_takes_a_connection_that_closes_between_requests_for_no_error() -> None:
    with scripted(answering_once(ANSWER)) as address:
        result = drive(address, [EXECUTE], 50, 8, 0.3)
    assert (result["requests"], result["errors"]) == (15, NO_ERRORS)


def test_rate_reads_answers_in_pieces_of_other_lengths_and_in_chunks() -> None:
    answers = [ANSWER, ANSWER.replace(b": 2", b": 5") + b"abc", CHUNKED + b"2\r\nok\r\n0\r\n\r\n"]

    def handler(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(1000):
            if not sock.recv(65536):
                return
            answer = answers[number % len(answers)]
            for start in range(0, len(answer), 7):
                sock.sendall(answer[start : start + 7])

    with scripted(handler) as address:
        result = drive(address, [EXECUTE], 200, 4, 0.2)
    assert (result["requests"], result["errors"]) == (40, NO_ERRORS)


def test_rate_sends_requests_that_the_socket_takes_in_pieces() -> None:
    size = 8 * MEGABYTE
    message = b"POST /upload HTTP/1.1\r\nHost: s\r\ncontent-length: %d\r\n\r\n" % size + bytes(size)
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result = drive(address, [message, EXECUTE], 40, 2, 0.3)
    assert (result["requests"], result["errors"]) == (12, NO_ERRORS)
