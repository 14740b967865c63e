"""What a number depends on: the machine and the versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

PACKAGES: Final = ("uvloop", "h11", "httpcore", "aiodns", "fastapi", "uvicorn", "httpx")
# How a program is asked for its version, where it is not -v.
ASK: Final = {"caddy": "version", "envoy": "--version"}


def describe(programs: dict[str, str | None]) -> dict[str, object]:
    """Machine, Python, packages, and the programs by what they say of themselves. No names, no paths."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "packages": _packages(),
        "programs": {
            name: _version(path, ASK.get(name, "-v"))
            for name, path in programs.items()
            if path and path != sys.executable
        },
    }


def _packages() -> dict[str, str]:
    installed = {one.name.lower() for one in metadata.distributions() if one.name}
    return {name: metadata.version(name) for name in PACKAGES if name in installed}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(path: str, flag: str) -> str:
    # A program that PATH named. They print to where they like, and wrk exits with 1 after it.
    done = subprocess.run([path, flag], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    return without_paths((done.stdout + done.stderr).strip())


def without_paths(text: str) -> str:
    """The first line; Envoy begins it with its own path."""
    first = text.splitlines()[0] if text else "unknown"
    return " ".join(word for word in first.split() if not word.startswith("/"))
