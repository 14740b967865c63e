from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fastrouter.telemetry.families import FAMILIES, PROCESS
from fastrouter.telemetry.process import tell_process
from fastrouter.telemetry.snapshot import Snapshot, empty


def told() -> dict[str, float]:
    snapshot = empty(os.getpid(), "1.2.3", 77.0)
    tell_process(snapshot)
    return {name: rows[()] for name, rows in snapshot.values.items() if rows}


def test_every_family_of_the_process_is_told_and_no_other() -> None:
    assert told().keys() == {family.name for family in FAMILIES if family.name.startswith(PROCESS)}


def test_open_files_are_counted() -> None:
    before = told()["process_open_fds"]
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    try:
        assert told()["process_open_fds"] == before + 3
    finally:
        for fd in fds:
            os.close(fd)


def test_an_older_kernel_has_its_folder_read(monkeypatch: pytest.MonkeyPatch) -> None:
    before = told()["process_open_fds"]
    stat = Path.stat

    def without_size(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = stat(path, follow_symlinks=follow_symlinks)
        return os.stat_result((*found[:6], 0, *found[7:10]))

    monkeypatch.setattr(Path, "stat", without_size)
    assert told()["process_open_fds"] == before


def test_memory_and_time_are_those_of_this_process() -> None:
    first = told()
    assert 5e6 < first["process_resident_memory_bytes"] < 5e9
    assert first["process_start_time_seconds"] == 77.0
    assert first["process_max_fds"] >= first["process_open_fds"]
    spent = time.process_time() + 0.01
    while time.process_time() < spent:
        pass
    assert told()["process_cpu_seconds"] >= first["process_cpu_seconds"] + 0.01


def test_without_proc_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> bytes:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_bytes", missing)
    snapshot = Snapshot(1, "1.2.3", 77.0)
    tell_process(snapshot)
    assert snapshot.values.keys() == {
        "process_cpu_seconds",
        "process_start_time_seconds",
        "process_max_fds",
    }
