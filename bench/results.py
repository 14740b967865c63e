"""What was measured, as data: rounds, medians, and the JSON file that everything shown is made from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.needs import RELAY, ROUTER, Need
from bench.scenarios import Scenario

MEGA: Final = 1_000_000
FORMAT: Final = 2
# Settings of a run that are sums.
ADDED: Final = frozenset({"log_lines", "seconds"})


@dataclass(frozen=True)
class Round:
    """One contender in one scenario for a few seconds. None: not known of this contender, or of this kind."""

    scenario: str
    contender: str
    number: int
    requests: int
    bytes: int
    seconds: float
    p50_us: float
    p99_us: float
    p999_us: float
    errors: dict[str, int]
    cpu_us_per_request: float | None = None
    core_share: float | None = None
    others_share: float | None = None
    rss_bytes: int | None = None
    open_files: int | None = None
    rate_asked: float | None = None
    behind_p99_us: float | None = None
    """How late the load generator itself was."""
    pairs: int | None = None
    kb_per_pair: float | None = None
    files_per_pair: float | None = None

    @property
    def failed(self) -> bool:
        """Whether anything went wrong, or nothing happened."""
        return any(self.errors.values()) or not (self.requests or self.pairs)


def rate(one: Round, scenario: Scenario) -> float:
    """Requests per second, or body megabytes per second where bytes are what counts."""
    # Downloads by their bytes: of a few large ones, those under way at the end would be lost.
    if scenario.bulk and not scenario.upload:
        return one.bytes / MEGA / one.seconds
    return one.requests * (scenario.bulk / MEGA if scenario.bulk else 1) / one.seconds


FIGURES: Final[dict[str, Callable[[Round, Scenario], float | None]]] = {
    "rate": rate,
    "p50_us": lambda one, _: one.p50_us,
    "p99_us": lambda one, _: one.p99_us,
    "p999_us": lambda one, _: one.p999_us,
    "cpu_us": lambda one, _: one.cpu_us_per_request,
    "kb_per_pair": lambda one, _: one.kb_per_pair,
    "rss_mb": lambda one, _: None if one.rss_bytes is None else one.rss_bytes / MEGA,
}


def spread(values: Sequence[float]) -> float | None:
    """Distance of the extremes in parts of the median."""
    centre = median(values) if values else 0.0
    return (max(values) - min(values)) / centre if centre else None


@dataclass(frozen=True)
class Verdict:
    """What became of a requirement. `value` is None where it was not measured."""

    scenario: Scenario
    need: Need
    value: float | None

    @property
    def state(self) -> str:
        """One word or two for it."""
        if self.value is None:
            return "not measured"
        return "holds" if self.need.met(self.value) else "MISSED"


@dataclass
class Results:
    """One run of the benchmark."""

    scenarios: list[Scenario]
    contenders: list[str]
    """In the order in which they are shown."""
    machine: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    when: str = ""

    def of(self, scenario: str, contender: str) -> list[Round]:
        """The rounds of a contender in a scenario."""
        return [one for one in self.rounds if (one.scenario, one.contender) == (scenario, contender)]

    def values(self, scenario: Scenario, contender: str, figure: str) -> list[float]:
        """A figure of every round that has it."""
        found = (FIGURES[figure](one, scenario) for one in self.of(scenario.name, contender))
        return [value for value in found if value is not None]

    def median(self, scenario: Scenario, contender: str, figure: str) -> float | None:
        """The median over the rounds, None without any."""
        values = self.values(scenario, contender, figure)
        return median(values) if values else None

    def ratio(self, scenario: Scenario, contender: str, figure: str | None = None) -> float | None:
        """A contender's median to the relay's."""
        figure = figure or scenario.figure
        return _divided(self.median(scenario, contender, figure), self.median(scenario, RELAY, figure))

    def measured(self, scenario: Scenario) -> list[str]:
        """The contenders that have rounds of a scenario."""
        return [name for name in self.contenders if self.of(scenario.name, name)]

    def failed(self, scenario: str, contender: str) -> bool:
        """Whether any round of a contender went wrong."""
        return any(one.failed for one in self.of(scenario, contender))

    def verdicts(self) -> list[Verdict]:
        """Every requirement of the scenarios that were run."""
        return [
            Verdict(scenario, need, self._value(scenario, need))
            for scenario in self.scenarios
            for need in scenario.needs
        ]

    def _value(self, scenario: Scenario, need: Need) -> float | None:
        own = self._sound(scenario, ROUTER, need.figure)
        if need.against is None:
            return own
        other = next((one for one in self.scenarios if one.name == need.scenario), None)
        if need.scenario and other is None:
            return None
        if need.kept and other is not None:
            kept = [
                _divided(self._sound(scenario, name, need.figure), self._sound(other, name, need.figure))
                for name in (ROUTER, need.against)
            ]
            return _divided(*kept)
        return _divided(own, self._sound(other or scenario, need.against, need.figure))

    def _sound(self, scenario: Scenario, contender: str, figure: str) -> float | None:
        # A figure that came with errors proves nothing.
        return None if self.failed(scenario.name, contender) else self.median(scenario, contender, figure)

    def together(self, others: Sequence[Results]) -> Results:
        """This run with the rounds of others, so that a machine that is loud for a while decides less.

        Raises ``ValueError`` where they are of another machine, or of other scenarios or contenders.
        """
        whole = replace(self, rounds=list(self.rounds), settings=dict(self.settings))
        same = (self.machine, self.scenarios, self.contenders)
        for other in others:
            if (other.machine, other.scenarios, other.contenders) != same:
                msg = "only runs of the same scenarios and contenders on one machine can be put together"
                raise ValueError(msg)
            last = Counter((one.scenario, one.contender) for one in whole.rounds)
            whole.rounds += [
                replace(one, number=one.number + last[one.scenario, one.contender]) for one in other.rounds
            ]
            for name in ADDED & self.settings.keys():
                whole.settings[name] += other.settings[name]
        return whole

    def save(self, path: Path) -> None:
        """Write the JSON file."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a JSON file again."""
        data = json.loads(path.read_text())
        if data.pop("format", None) != FORMAT:
            msg = f"{path.name} is no result of this benchmark (format {FORMAT})"
            raise ValueError(msg)
        scenarios = [Scenario.of(fields) for fields in data.pop("scenarios")]
        rounds = [Round(**fields) for fields in data.pop("rounds")]
        return cls(scenarios=scenarios, rounds=rounds, **data)


def _divided(value: float | None, by: float | None) -> float | None:
    return None if value is None or not by else value / by
