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

from bench import load, sandbox
from bench.scenarios import MEGABYTE, NONCE, SCENARIOS, Scenario, pack, requests, unpack
from bench.serving import Address
from tests.bench.talking import EXECUTE, ROOT, running


def test_requests_carry_what_an_sdk_sends_and_say_their_length() -> None:
    for scenario in SCENARIOS:
        messages = requests(scenario, 8888)
        assert len(set(messages)) == scenario.sandboxes
        head, _, body = messages[-1].partition(b"\r\n\r\n")
        assert f"\r\nX-Sandbox-ID: sandbox-{scenario.sandboxes - 1}\r\n".encode() in head
        assert b"\r\nX-Sandbox-Port: 8888" in head
        found = sandbox.LENGTH.search(head + b"\r\n")
        assert len(body) == (int(found[1]) if found else 0)
        assert (NONCE in head) == scenario.nonce


def test_request_file_gives_back_what_was_packed() -> None:
    messages = [b"", b"one\n2\n", bytes(range(256))]
    assert unpack(pack(messages)) == messages


def test_every_head_gets_a_nonce_of_its_own_in_the_same_length() -> None:
    fresh = next(scenario for scenario in SCENARIOS if scenario.nonce)
    templates = requests(replace(fresh, sandboxes=3), 8888)
    sent = list(islice(load.message_stream(templates), 100))
    assert len(set(sent)) == 100
    assert {len(message) for message in sent} == {len(templates[0])}
    assert not any(NONCE in message for message in sent)


def test_percentiles() -> None:
    values = [float(number) for number in range(100)]
    assert load.percentile(values, 50) == 50
    assert load.percentile(values, 99) == 99
    assert load.percentile([7.0], 99) == 7
    assert load.percentile([], 99) == 0


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
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_load_generators_count_what_the_sandbox_answered(
    generator: Callable[[Address, list[bytes], Path], dict[str, Any]], scenario: Scenario, tmp_path: Path
) -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result = generator(address, requests(scenario, address[1]), tmp_path)
    assert set(result) == {"requests", "bytes", "seconds", "p50_us", "p99_us", "errors"}
    assert result["errors"] == {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}
    assert result["requests"] > 10
    assert result["bytes"] >= result["requests"] * (scenario.download or 100)
    assert 0.2 < result["seconds"] < 3
    assert 0 < result["p50_us"] <= result["p99_us"]


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


def test_own_generator_counts_refused_connections() -> None:
    with socket.socket() as bound_only:
        bound_only.bind(("127.0.0.1", 0))
        result: dict[str, Any] = load.drive(load.Plan(bound_only.getsockname(), [EXECUTE], 2, 0.2))
    assert result["errors"]["connect"] >= 2
