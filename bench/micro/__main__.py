"""Run the micro-benchmarks: `python -m bench.micro [arguments of pytest]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent
# They are no tests: only here does pytest look for them.
OPTIONS: Final = (
    *("-o", "python_files=bench_*.py", "-o", "python_functions=bench_*"),
    *("-p", "no:cacheprovider", "-p", "no:xdist"),
    "--benchmark-group-by=group",
    "--benchmark-columns=median,mean,min,ops,rounds,iterations",
    "--benchmark-sort=name",
    f"--benchmark-storage={(HERE.parent / 'results' / 'raw' / 'micro').as_uri()}",
    "--benchmark-max-time=0.5",
    # Many calls between two looks at the clock, which costs as much as a look-up.
    "--benchmark-min-time=0.0001",
    "--benchmark-disable-gc",
)


def main(arguments: list[str]) -> int:
    """Return pytest's exit code."""
    return int(pytest.main([str(HERE), *OPTIONS, *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
