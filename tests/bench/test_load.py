"""The requests and both load generators."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bench import load, sandbox, tally
from bench.scenarios import MEGABYTE, NONCE, SCENARIOS, SHORT_NONCE, pack, requests, unpack
from bench.serving import Address
from tests.bench.scripted import ANSWER, CHUNKED, answering, answering_once, refusing, scripted
from tests.bench.talking import EXECUTE, ROOT, running

UPLOAD = b"POST /upload HTTP/1.1\r\nHost: s\r\ncontent-length: %d\r\n\r\n"
NO_ERRORS = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}


def test_requests_carry_what_an_sdk_sends_and_say_their_length() -> None:
    for scenario in SCENARIOS:
        few = replace(scenario, sandboxes=min(scenario.sandboxes, 5), upload=min(scenario.upload, MEGABYTE))
        messages = requests(few, 8888)
        assert len(set(messages)) == few.sandboxes
        head, _, body = messages[-1].partition(b"\r\n\r\n")
        assert f"\r\nX-Sandbox-ID: sandbox-{few.sandboxes - 1}\r\n".encode() in head
        assert b"\r\nX-Sandbox-Port: 8888" in head
        found = sandbox.LENGTH.search(head + b"\r\n")
        assert len(body) == (int(found[1]) if found else 0)


def test_request_file_gives_back_what_was_packed() -> None:
    messages = [b"", b"one\n2\n", bytes(range(256))]
    assert unpack(pack(messages)) == messages


def test_every_head_gets_a_nonce_of_its_own_in_the_same_length() -> None:
    templates = [b"GET /%d HTTP/1.1\r\nX-Nonce: " % number + NONCE + b"\r\n\r\n" for number in range(3)]
    sent = list(islice(tally.message_stream(templates), 100))
    assert len(set(sent)) == 100
    assert {len(message) for message in sent} == {len(templates[0])}
    assert not any(NONCE in message for message in sent)
    assert [message[:6] for message in sent[:4]] == [b"GET /0", b"GET /1", b"GET /2", b"GET /0"]


def test_all_places_of_a_message_get_the_same_nonce() -> None:
    template = b"a " + SHORT_NONCE + b" b " + NONCE + b" c " + NONCE + b" " + SHORT_NONCE + b"\r\n\r\n"
    for message in islice(tally.message_stream([template]), 3):
        _, short, _, one, _, two, last = message.split()
        assert (len(one), one, short, last) == (16, two, one[:8], one[:8])


def test_messages_without_a_nonce_are_never_copied() -> None:
    upload = b"POST / HTTP/1.1\r\n\r\n" + NONCE  # in a body it is none
    assert all(message is upload for message in islice(tally.message_stream([upload]), 3))


def test_percentiles() -> None:
    values = [float(number) for number in range(1000)]
    assert tally.percentile(values, 50) == 500
    assert tally.percentile(values, 99) == 990
    assert tally.percentile(values, 99.9) == 999
    assert tally.percentile([7.0], 99.9) == 7
    assert tally.percentile([], 99) == 0


def drive_own(address: Address, messages: list[bytes], tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "requests"
    path.write_bytes(pack(messages))
    command = [sys.executable, "-m", "bench.load", "--target", "{}:{}".format(*address)]
    command += ["--requests", str(path), "--connections", "8", "--seconds", "0.3"]
    return _json_of(command)


def drive_wrk(address: Address, messages: list[bytes], tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "requests"
    path.write_bytes(pack(messages))
    script = str(ROOT / "bench" / "load.lua")
    command = ["wrk", "-t1", "-c8", "-d1s", "-s", script, "http://{}:{}/".format(*address), "--", str(path)]
    return _json_of(command)


def _json_of(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=30, check=True)  # noqa: S603
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


GENERATORS = [drive_own, drive_wrk] if shutil.which("wrk") else [drive_own]


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize(
    ("message", "least"),
    [
        (EXECUTE, 100),
        (EXECUTE.replace(b"\r\n", b"\r\nX-Request-ID: " + SHORT_NONCE + b"-" + NONCE + b"\r\n", 1), 100),
        (b"GET /big?bytes=%d HTTP/1.1\r\nHost: s\r\n\r\n" % MEGABYTE, MEGABYTE),
        (b"GET /chunks?count=20&size=500 HTTP/1.1\r\nHost: s\r\n\r\n", 10_000),
        (UPLOAD % MEGABYTE + b"u" * MEGABYTE, 100),
    ],
    ids=["execute", "nonces", "download", "chunks", "upload"],
)
def test_load_generators_count_what_the_sandbox_answered(
    generator: Callable[[Address, list[bytes], Path], dict[str, Any]],
    message: bytes,
    least: int,
    tmp_path: Path,
) -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result = generator(address, [message], tmp_path)
    assert set(result) == {"requests", "bytes", "seconds", "p50_us", "p99_us", "p999_us", "errors"}
    assert result["errors"] == NO_ERRORS
    assert result["requests"] > 10
    assert result["bytes"] >= result["requests"] * least
    assert 0.2 < result["seconds"] < 3
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["p999_us"]


@pytest.mark.parametrize("generator", GENERATORS)
def test_load_generators_count_refusing_answers_as_errors(
    generator: Callable[[Address, list[bytes], Path], dict[str, Any]], tmp_path: Path
) -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result = generator(address, [b"GET /nothing HTTP/1.1\r\nHost: s\r\n\r\n"], tmp_path)
    assert result["errors"]["status"] == result["requests"] > 0


def test_own_generator_counts_answers_of_the_wrong_length() -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result: dict[str, Any] = load.drive(load.Plan(address, [EXECUTE], 2, 0.2, body=MEGABYTE))
    assert result["requests"] == 0
    assert result["errors"]["read"] >= 2


@pytest.mark.parametrize(("body", "good"), [(10_000, True), (9_999, False)])
def test_own_generator_checks_the_payload_of_chunked_answers(body: int, good: bool) -> None:
    message = b"GET /chunks?count=20&size=500 HTTP/1.1\r\n\r\n"
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result: dict[str, Any] = load.drive(load.Plan(address, [message], 2, 0.2, body=body))
    assert (result["requests"] > 0, result["errors"]["read"] == 0) == (good, good)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("answer", [ANSWER[:-1], ANSWER[:20], CHUNKED + b"2\r\nok\r\n0\r\n", b""])
def test_own_generator_counts_only_whole_answers(answer: bytes, fresh: bool) -> None:
    with scripted(answering_once(answer)) as address:
        result: dict[str, Any] = load.drive(load.Plan(address, [EXECUTE], 2, 0.1, fresh=fresh))
    assert result["requests"] == 0
    assert result["errors"]["read"] >= 2


@pytest.mark.parametrize("answer", [ANSWER, CHUNKED + b"2\r\nok\r\n0\r\n\r\n"])
def test_own_generator_opens_a_connection_for_every_request(answer: bytes) -> None:
    asked: list[int] = []

    def handler(sock: socket.socket) -> None:
        asked.append(len(sock.recv(65536)))
        sock.sendall(answer)
        asked.append(len(sock.recv(65536)))

    with scripted(handler) as address:
        result: dict[str, Any] = load.drive(load.Plan(address, [EXECUTE], 2, 0.2, body=2, fresh=True))
    assert result["errors"] == NO_ERRORS
    assert result["requests"] > 10
    # Each connection carried one request, and then the end. The last two were under way.
    assert abs(asked.count(len(EXECUTE)) - result["requests"]) <= 2
    assert set(asked) == {0, len(EXECUTE)}


def test_own_generator_ends_in_time_during_long_uploads() -> None:
    size = 64 * MEGABYTE
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result: dict[str, Any] = load.drive(load.Plan(address, [UPLOAD % size + bytes(size)], 2, 0.3))
    assert result["errors"] == NO_ERRORS
    assert result["requests"] > 0
    assert result["seconds"] < 0.6


def test_own_generator_refuses_bytes_behind_an_answer() -> None:
    with scripted(answering(ANSWER * 2)) as address:
        result: dict[str, Any] = load.drive(load.Plan(address, [EXECUTE], 2, 0.1))
    assert result["requests"] == 0
    assert result["errors"]["read"] >= 2


@pytest.mark.parametrize("fresh", [False, True])
def test_own_generator_counts_refused_connections(fresh: bool) -> None:
    with refusing() as address:
        result: dict[str, Any] = load.drive(load.Plan(address, [EXECUTE], 2, 0.2, fresh=fresh))
    assert result["errors"]["connect"] >= 2
    assert result["errors"] == NO_ERRORS | {"connect": result["errors"]["connect"]}
