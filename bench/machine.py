"""What a number depends on: the machine and the versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

PACKAGES: Final = ("uvloop", "h11", "httpcore", "aiodns")


def describe(programs: dict[str, str | None]) -> dict[str, object]:
    """Machine, Python, packages, and the programs by what they say of themselves with ``-v``."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "programs": {name: _version(path) for name, path in programs.items() if path},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(path: str) -> str:
    # A program that PATH named. Both print to where they like, and wrk exits with 1 after it.
    done = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    return (done.stdout + done.stderr).strip().splitlines()[0]
