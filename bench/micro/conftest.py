"""How many keys there are, and what they cost against one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

RATIOS: Final = pytest.StashKey[dict[str, dict[str, float]]]()
WAYS: Final = ("1 key", "one of {keys:,} keys", "all {keys:,} keys")


@dataclass(frozen=True)
class Crowd:
    """How many keys are kept, and whether all of them are asked for, or always the same one."""

    keys: int
    everyone: bool


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each benchmark that asks for a crowd all three."""
    if "crowd" not in metafunc.fixturenames:
        return
    many = int(os.environ.get("MICRO_KEYS", "100000"))
    crowds = (Crowd(1, everyone=False), Crowd(many, everyone=False), Crowd(many, everyone=True))
    names = [way.format(keys=many) for way in WAYS]
    metafunc.parametrize("crowd", crowds, ids=names)


@pytest.fixture(autouse=True)
def ratio(request: pytest.FixtureRequest) -> Iterator[None]:
    """Note the median of what is measured with several crowds."""
    # Asked for before the benchmark runs: its result has to outlive the teardown of this fixture.
    benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")
    yield
    item = request.node
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "crowd" in callspec.params and benchmark.stats is not None:
        medians = request.config.stash.setdefault(RATIOS, {}).setdefault(item.originalname, {})
        medians[callspec.id] = benchmark.stats.stats.median


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what many keys cost against one."""
    for name, medians in config.stash.get(RATIOS, {}).items():
        (first, base), *others = medians.items()
        ratios = ", ".join(f"{way} {median / base:.2f}" for way, median in others)
        terminalreporter.write_line(f"{name}: {first} {base * 1e9:,.0f} ns; times that: {ratios}")
