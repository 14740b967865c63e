"""What a process tells of itself at one moment: plain values, which travel between processes and add up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Final

from fastrouter.telemetry.families import FAMILIES

Labels = tuple[str, ...]
"""The values of a family's labels, in its order."""

# How many of the latest failures a process remembers.
MAX_FAILURES: Final = 50


@dataclass(slots=True)
class Histogram:
    """How many observations fell into each bucket (not cumulated; the last one has no upper bound)."""

    counts: list[int]
    sum: float = 0.0


@dataclass(slots=True)
class Failure:
    """One request that failed."""

    time: float
    """Seconds since the epoch."""
    method: str
    sandbox_id: str
    namespace: str
    status: int
    reason: str


@dataclass(slots=True)
class Snapshot:
    """All metrics of one process, and what the status page shows besides."""

    pid: int
    version: str
    started: float
    """Seconds since the epoch."""
    values: dict[str, dict[Labels, float]] = field(default_factory=dict)
    """Counters and gauges: family -> label values -> value."""
    histograms: dict[str, Histogram] = field(default_factory=dict)
    """Family -> observations; histograms have no labels."""
    failures: list[Failure] = field(default_factory=list)
    """The latest ones, oldest first."""

    def to_json(self) -> str:
        """Return the snapshot as one line of JSON."""
        told = asdict(self)
        told["values"] = {name: [*rows.items()] for name, rows in self.values.items()}
        return json.dumps(told)

    @classmethod
    def from_json(cls, text: str) -> Snapshot:
        """Read what ``to_json`` wrote; anything else is a ``ValueError``, ``KeyError`` or ``TypeError``."""
        told = json.loads(text)
        told["values"] = {
            name: {tuple(labels): value for labels, value in rows} for name, rows in told["values"].items()
        }
        told["histograms"] = {name: Histogram(**each) for name, each in told["histograms"].items()}
        told["failures"] = [Failure(**each) for each in told["failures"]]
        return cls(**told)


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of what several processes tell: of all that runs here, since the first of them began.

    ``build_info`` says 1 however many they are. Raises ``ValueError`` where there is nothing to add, or where
    two processes count by different buckets.
    """
    first, *others = snapshots
    whole = Snapshot.from_json(first.to_json())
    for each in others:
        whole.started = min(whole.started, each.started)
        for name, rows in each.values.items():
            known = whole.values.setdefault(name, {})
            for labels, value in rows.items():
                known[labels] = _together(name, known.get(labels), value)
        for name, histogram in each.histograms.items():
            mine = whole.histograms.setdefault(name, Histogram([0] * len(histogram.counts)))
            mine.counts = [a + b for a, b in zip(mine.counts, histogram.counts, strict=True)]
            mine.sum += histogram.sum
        whole.failures += each.failures
    whole.failures = sorted(whole.failures, key=lambda failure: failure.time)[-MAX_FAILURES:]
    return whole


def _together(name: str, one: float | None, other: float) -> float:
    if one is None or name == "build_info":
        return other
    return min(one, other) if name == "process_start_time_seconds" else one + other


def empty(pid: int, version: str, started: float) -> Snapshot:
    """Return a snapshot in which nothing has happened yet."""
    plain = {family.name: dict[Labels, float]() for family in FAMILIES if family.kind != "histogram"}
    histograms = {
        family.name: Histogram([0] * (len(family.buckets) + 1)) for family in FAMILIES if family.buckets
    }
    return Snapshot(pid, version, started, plain, histograms)
