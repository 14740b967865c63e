"""How many CPUs this process may use: what ``WORKERS=auto`` means."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CONTROLLER: Final = "cpu"


def allowed(root: Path = Path("/")) -> int:
    """Return the CPUs that affinity and the cgroup's quota leave, a part of one rounded up; at least 1.

    Without the quota, a container that may use two of a machine's 64 CPUs would start 64 workers.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield every quota that applies, in CPUs."""
    for folder in _groups(root):
        # Version 2 has "QUOTA PERIOD" in one file, "max" for none; version 1 two files, and -1.
        told = _read(folder / "cpu.max").split()
        told = told or [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
        try:
            quota, period = map(int, told)
        except ValueError:
            continue
        if quota > 0 and period > 0:
            yield quota / period


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's group and of all above it: each of them may have a quota."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers and _CONTROLLER not in controllers.split(","):
            continue
        top = mount / controllers if controllers else mount
        # In a container, the name is often the host's and not there: then the top is the group itself.
        folder = top / name.strip("/")
        yield from [folder, *folder.parents[: len(folder.parts) - len(top.parts)]]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
