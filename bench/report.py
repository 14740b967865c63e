"""From rounds to words: medians, the spread, the table, the warnings. Pure: nothing here measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from bench.stage import RELAY, ROUTER

if TYPE_CHECKING:
    from bench.scenarios import Scenario

# Below this the process under test was waiting for the other core, which then is what was measured.
BUSY_ENOUGH: Final = 0.90
# Above this somebody else took so much of the core under test that the round says little.
DISTURBED: Final = 0.05
MEGA: Final = 1_000_000

HEADINGS: Final = (
    "scenario",
    "unit",
    "relay",
    "router",
    "ratio",
    "needs",
    "holds",
    "p50 ms relay/router",
    "p99 ms relay/router",
    "CPU us/req relay/router",
    "spread relay/router",
)


@dataclass(frozen=True)
class Round:
    """One contender in one scenario for a few seconds."""

    scenario: str
    contender: str
    number: int
    requests: int
    bytes: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: dict[str, int]
    cpu_us_per_request: float
    core_share: float
    others_share: float | None
    rss_bytes: int
    open_files: int

    @property
    def failed(self) -> bool:
        """Whether anything went wrong, or nothing happened."""
        return any(self.errors.values()) or not self.requests


def rate(one: Round, scenario: Scenario) -> float:
    """Requests per second, or body megabytes per second where bytes are what counts."""
    return one.requests * (scenario.bulk / MEGA if scenario.bulk else 1) / one.seconds


def middle(rounds: Sequence[Round], value: Callable[[Round], float]) -> float | None:
    """The median over the rounds, None without any."""
    return median(map(value, rounds)) if rounds else None


def spread(values: Sequence[float]) -> float | None:
    """Distance of the extremes in parts of the median."""
    centre = median(values) if values else 0.0
    return (max(values) - min(values)) / centre if centre else None


@dataclass(frozen=True)
class Row:
    """A scenario with the rounds of both contenders."""

    scenario: Scenario
    relay: Sequence[Round]
    router: Sequence[Round]

    @classmethod
    def of(cls, scenario: Scenario, rounds: Sequence[Round]) -> Row:
        """Pick the rounds of a scenario."""
        own = [one for one in rounds if one.scenario == scenario.name]
        return cls(
            scenario,
            [one for one in own if one.contender == RELAY],
            [one for one in own if one.contender == ROUTER],
        )

    @property
    def ratio(self) -> float | None:
        """Router to relay, of the medians."""
        relay, router = (middle(rounds, self._rate) for rounds in (self.relay, self.router))
        return router / relay if relay and router is not None else None

    @property
    def holds(self) -> bool | None:
        """Whether the ratio is what the issue asks for."""
        return None if self.ratio is None else self.ratio >= self.scenario.required

    def cells(self) -> list[str]:
        """The row of the table."""
        holds = {True: "yes", False: "NO", None: "-"}[self.holds]
        return [
            self.scenario.title,
            "MB/s" if self.scenario.bulk else "req/s",
            _number(middle(self.relay, self._rate), "{:,.0f}"),
            _number(middle(self.router, self._rate), "{:,.0f}"),
            _number(self.ratio, "{:.2f}"),
            f"{self.scenario.required:.2f}",
            holds,
            self._both(lambda rounds: middle(rounds, lambda one: one.p50_us / 1000), "{:.2f}"),
            self._both(lambda rounds: middle(rounds, lambda one: one.p99_us / 1000), "{:.2f}"),
            self._both(lambda rounds: middle(rounds, lambda one: one.cpu_us_per_request), "{:.1f}"),
            self._both(lambda rounds: spread([self._rate(one) for one in rounds]), "{:.0%}"),
        ]

    def _rate(self, one: Round) -> float:
        return rate(one, self.scenario)

    def _both(self, value: Callable[[Sequence[Round]], float | None], form: str) -> str:
        return f"{_number(value(self.relay), form)} / {_number(value(self.router), form)}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def table(rows: Sequence[Row]) -> str:
    """The one table, columns aligned."""
    lines = [list(HEADINGS), *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join([line[0].ljust(widths[0]), *(map(str.rjust, line[1:], widths[1:]))]).rstrip()
        for line in lines
    ]
    return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:]])


def remarks(rows: Sequence[Row]) -> list[str]:
    """What a reader of the table must know before believing it."""
    return [
        f"{row.scenario.title}, {rounds[0].contender}: {text}"
        for row in rows
        for rounds in (row.relay, row.router)
        if rounds
        for text in _remarks(rounds)
    ]


def _remarks(rounds: Sequence[Round]) -> list[str]:
    texts = [
        f"FAILED in round {one.number}: {one.requests} answers, errors {one.errors}"
        for one in rounds
        if one.failed
    ]
    if waiting := [one for one in rounds if one.core_share + (one.others_share or 0.0) < BUSY_ENOUGH]:
        flatters = "the ratio flatters" if rounds[0].contender == RELAY else "the router could do more"
        share = min(one.core_share for one in waiting)
        texts.append(
            f"used only {share:.0%} of its core in {len(waiting)} of {len(rounds)} rounds, "
            f"the other core was the limit: {flatters}"
        )
    if disturbed := [share for one in rounds if (share := one.others_share or 0.0) > DISTURBED]:
        texts.append(
            f"other processes took up to {max(disturbed):.0%} of its core in {len(disturbed)} of "
            f"{len(rounds)} rounds: measure on a quiet machine"
        )
    return texts
