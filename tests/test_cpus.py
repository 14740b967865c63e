"""CPUs by affinity and by quota: the files of both versions of cgroups, in a folder of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastrouter import cpus


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_without_cgroups_it_is_the_affinity(tmp_path: Path) -> None:
    assert cpus.allowed(tmp_path) == 8


def test_without_affinity_it_is_what_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cpus.allowed(tmp_path) == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.allowed(tmp_path) == 1


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("10000 100000", 1),
        ("6400000 100000", 8),
        ("max 100000", 8),
        ("nonsense", 8),
        ("0 100000", 8),
        ("100000 0", 8),
    ],
)
def test_version_2(tmp_path: Path, quota: str, count: int) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/")
    write(tmp_path / "sys/fs/cgroup/cpu.max", quota)
    assert cpus.allowed(tmp_path) == count


def test_a_quota_further_up_counts_as_well(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/pods/box")
    write(tmp_path / "sys/fs/cgroup/pods/box/cpu.max", "max 100000")
    write(tmp_path / "sys/fs/cgroup/pods/cpu.max", "300000 100000")
    assert cpus.allowed(tmp_path) == 3


@pytest.mark.parametrize(("quota", "count"), [("-1", 8), ("150000", 2)])
def test_version_1(tmp_path: Path, quota: str, count: int) -> None:
    write(tmp_path / "proc/self/cgroup", "3:cpuset:/x\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/")
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", quota)
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000")
    assert cpus.allowed(tmp_path) == count


def test_a_container_that_sees_the_hosts_name_finds_its_quota_at_the_top(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "1:cpu:/docker/abc")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert cpus.allowed(tmp_path) == 4


def test_on_this_machine_it_is_a_number() -> None:
    assert 1 <= cpus.allowed() <= 8
