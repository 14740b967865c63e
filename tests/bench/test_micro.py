"""The micro-benchmarks run: each once, untimed, with few keys."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.bench.talking import ROOT

MODULES = {path.name for path in (ROOT / "bench" / "micro").glob("bench_*.py")}


def micro(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Inherited from a parallel run of the tests, these would turn all measuring off.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "bench.micro", *arguments],
        cwd=ROOT,
        env={**environ, "MICRO_KEYS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_benchmark_runs() -> None:
    done = micro("--benchmark-disable", "--verbose")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"^bench/micro/(\w+\.py)::\S.* PASSED", done.stdout, re.MULTILINE)) == MODULES
    assert " skipped" not in done.stdout


def test_a_measurement_prints_a_table_by_module_and_what_many_keys_cost(tmp_path: Path) -> None:
    done = micro(
        *("-k", "unknown_key", "--benchmark-max-time=0.01", "--benchmark-min-time=0.00001"),
        *(f"--benchmark-storage={tmp_path.as_uri()}", "--benchmark-autosave"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "benchmark 'net.pool': 3 tests" in done.stdout
    assert re.search(r"unknown_key: 1 key .* one of 100 keys [0-9.]+, all 100 keys [0-9.]+", done.stdout)
    assert len(list(tmp_path.rglob("*.json"))) == 1
