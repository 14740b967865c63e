"""The whole run, tiny."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.scenarios import SCENARIOS
from bench.stage import RELAY, ROUTER
from tests.bench.talking import ROOT


def bench_command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "bench", "--rounds", "1", "--out", str(out), *more]


@pytest.mark.parametrize("only", [["--only", RELAY], []], ids=["relay only", "relay and router"])
def test_a_tiny_run_prints_the_table_and_keeps_the_numbers(tmp_path: Path, only: list[str]) -> None:
    more = ["--seconds", "0.3", "--connections", "8", "--generator", "own", *only]
    done = subprocess.run(  # noqa: S603
        bench_command(tmp_path, *more), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for scenario in SCENARIOS:
        assert f"\n{scenario.title} " in done.stdout
    [path] = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    contenders = {RELAY} if only else {RELAY, ROUTER}
    assert {(one["scenario"], one["contender"]) for one in kept["rounds"]} == {
        (scenario.name, contender) for scenario in SCENARIOS for contender in contenders
    }
    assert kept["machine"]["packages"]["uvloop"]
    if not only:
        assert "router after 1,000 sandboxes: " in done.stdout
        assert "router access log: on, " in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_every_child(tmp_path: Path, number: signal.Signals) -> None:
    command = bench_command(tmp_path, "--only", RELAY, "--seconds", "30", "--generator", "own")
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as runner:  # noqa: S603
        assert runner.stderr
        assert "measuring" in runner.stderr.readline()
        children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
        runner.send_signal(number)
        assert runner.wait(20) == 128 + number
    assert len(children) >= 2
    assert not any(Path("/proc", child).exists() for child in children)
