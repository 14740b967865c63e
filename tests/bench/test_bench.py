"""The whole run, tiny."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.needs import RELAY, ROUTER
from tests.bench.talking import ROOT


def bench_command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "bench", "--rounds", "1", "--out", str(out), *more]


def test_a_tiny_run_prints_the_table_and_keeps_the_numbers(tmp_path: Path) -> None:
    more = ["--seconds", "0.2", "--connections", "8", "--generator", "own", "--no-plots"]
    more += ["--scenario", "traced", "idle", "--pairs", "40"]
    done = subprocess.run(  # noqa: S603
        bench_command(tmp_path, *more), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nnew trace ids in every head  relay " in done.stdout
    assert "\nidle pairs of connections " in done.stdout
    assert "router access log: on, " in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "table.md"}
    text = (tmp_path / "results.json").read_text()
    assert str(ROOT) not in text
    assert sys.prefix not in text
    kept = json.loads(text)
    measured = {(one["scenario"], one["contender"]): one for one in kept["rounds"]}
    assert set(measured) == {("traced", RELAY), ("traced", ROUTER), ("idle", ROUTER)}
    assert measured["idle", ROUTER]["pairs"] == 40
    assert measured["idle", ROUTER]["files_per_pair"] == 2.0
    assert measured["traced", ROUTER]["cpu_us_per_request"] > 1
    assert kept["machine"]["packages"]["uvloop"]


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
