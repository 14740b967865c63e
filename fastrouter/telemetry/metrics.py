"""What the router counts. Plain numbers on the way of a request; ``snapshot`` gives them their names."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from fastrouter.telemetry.families import DURATIONS, SHORT_DURATIONS
from fastrouter.telemetry.snapshot import MAX_FAILURES, Failure, Histogram, Labels, Snapshot

if TYPE_CHECKING:
    from fastrouter.telemetry.outcome import Outcome

Counted = tuple[str, str]
"""A request as it is counted: method and namespace."""

NOBODY: Final[Counted] = ("none", "none")
"""Stands for method and namespace where no head could be read."""
OTHER: Final = "other"

# Clients choose namespaces and methods, sandboxes choose status codes: what they invent must not become
# memory here and in Prometheus. A namespace gets a name of its own once a sandbox in it was reached.
MAX_NAMESPACES: Final = 200
MAX_SERIES: Final = 5000
ADDRESSED: Final = "@"
"""Before a namespace whose sandboxes are reached by an address: no DNS has confirmed it, so half of the names
are out of its reach."""
# A code up to here is a class: 2 stands for 2xx.
_CLASSES: Final = 9
_CODES: Final = frozenset(int(status) for status in HTTPStatus) | {499}
_DENIALS: Final = frozenset({"missing_token", "invalid_token"})


class Observations:
    """How often a duration fell into each bucket."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Count by ``bounds``, seconds, ascending."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def histogram(self) -> Histogram:
        """Return a copy of the numbers."""
        return Histogram(list(self.counts), self.sum)


class Metrics:
    """The counters of one process."""

    __slots__ = (
        "_namespaces",
        "_requests",
        "allowed",
        "bytes_in",
        "bytes_out",
        "connections",
        "dials",
        "durations",
        "errors",
        "failures",
        "first_bytes",
        "lag",
        "lookups",
        "questions",
        "rejected",
        "replayed",
        "streamed",
    )

    def __init__(self) -> None:
        self._requests: defaultdict[int, dict[Counted, int]] = defaultdict(dict)
        self._namespaces: set[str] = set()
        self.errors: dict[tuple[str, str], int] = {}
        """Failures of sandboxes by namespace and reason word."""
        self.rejected: dict[str, int] = {}
        """The router's own refusals by reason word."""
        self.failures: deque[Failure] = deque(maxlen=MAX_FAILURES)
        self.durations = Observations(DURATIONS)
        self.first_bytes = Observations(DURATIONS)
        """Of the responses that did not come whole; of the others, the first byte was the last one."""
        self.streamed = Observations(DURATIONS)
        """The durations of those."""
        self.dials = Observations(SHORT_DURATIONS)
        self.questions = Observations(SHORT_DURATIONS)
        self.lookups: dict[str, int] = {}
        """Questions to DNS servers by outcome."""
        self.lag = Observations(SHORT_DURATIONS)
        self.allowed = 0
        """Requests with the right token."""
        self.connections = 0
        """Client connections accepted."""
        self.replayed = 0
        """Requests sent once more, after a kept connection turned out dead."""
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def requests(self) -> int:
        """How many requests were answered."""
        return sum(count for _, _, count in self._series())

    @property
    def faults(self) -> int:
        """How many of them failed or were refused."""
        return sum(self.errors.values()) + sum(self.rejected.values())

    def record(self, counted: Counted, outcome: Outcome, seconds: float) -> None:
        """Count one request that took ``seconds``."""
        try:
            self._requests[outcome.status][counted] += 1
        except KeyError:
            self._first(counted, outcome)
        durations = self.durations
        durations.counts[bisect_left(DURATIONS, seconds)] += 1
        durations.sum += seconds
        if outcome.first_byte:
            self.first_bytes.add(outcome.first_byte - outcome.started)
            self.streamed.add(seconds)
        self.bytes_in += outcome.bytes_in
        self.bytes_out += outcome.bytes_out

    def failed(self, counted: Counted, outcome: Outcome, now: float, sandbox_id: str) -> None:
        """Count a request that failed, and remember it; ``now`` is seconds since the epoch."""
        reason = outcome.reason
        method, namespace = counted
        if outcome.is_upstreams:
            key = self._name_of(namespace, outcome), reason
            self.errors[key] = self.errors.get(key, 0) + 1
        else:
            self.rejected[reason] = self.rejected.get(reason, 0) + 1
        self.failures.append(Failure(now, method, sandbox_id, _plain(namespace), outcome.status, reason))

    def looked_up(self, outcome: str, seconds: float) -> None:
        """Count a question to a DNS server."""
        self.lookups[outcome] = self.lookups.get(outcome, 0) + 1
        self.questions.add(seconds)

    def _first(self, counted: Counted, outcome: Outcome) -> None:
        """Count a request of a kind that has no number yet, under a label that may be a coarser one."""
        method, namespace = counted
        code = outcome.status if outcome.status in _CODES else outcome.status // 100
        counted = method, self._name_of(namespace, outcome)
        if counted not in self._requests[code] and sum(map(len, self._requests.values())) >= MAX_SERIES:
            code, counted = outcome.status // 100, (OTHER, OTHER)
        counts = self._requests[code]
        counts[counted] = counts.get(counted, 0) + 1

    def _series(self) -> Iterator[tuple[int, Counted, int]]:
        """Yield code, method and namespace, and count."""
        for code, counts in self._requests.items():
            for counted, count in counts.items():
                yield code, counted, count

    def _name_of(self, namespace: str, outcome: Outcome) -> str:
        known = self._namespaces
        if namespace in known or namespace == NOBODY[1]:
            return namespace
        if not outcome.upstream or len(known) >= MAX_NAMESPACES:
            return OTHER
        if namespace.startswith(ADDRESSED):
            addressed = sum(name.startswith(ADDRESSED) for name in known)
            if addressed >= MAX_NAMESPACES // 2:
                return OTHER
        known.add(namespace)
        return namespace

    def _first_bytes(self) -> Histogram:
        """Return the times to the first byte of all responses, those that came whole included."""
        rows = zip(self.durations.counts, self.streamed.counts, self.first_bytes.counts, strict=True)
        total = self.durations.sum - self.streamed.sum + self.first_bytes.sum
        return Histogram([every - streamed + first for every, streamed, first in rows], total)

    def tell(self, snapshot: Snapshot) -> None:
        """Put all of it into a snapshot."""
        values = snapshot.values
        values["requests"] = _added(
            ((method, str(code) if code > _CLASSES else f"{code}xx", _plain(namespace)), count)
            for code, (method, namespace), count in self._series()
        )
        values["upstream_errors"] = _added(
            ((_plain(namespace), reason), count) for (namespace, reason), count in self.errors.items()
        )
        values["rejected"] = {(reason,): float(count) for reason, count in self.rejected.items()}
        denied = sum(count for reason, count in self.rejected.items() if reason in _DENIALS)
        values["authz_decisions"] = {("allowed",): self.allowed, ("denied",): denied}
        values["downstream_connections_accepted"] = {(): self.connections}
        values["dns_lookups"] = {(outcome,): count for outcome, count in self.lookups.items()}
        values["body_bytes"] = {("in",): self.bytes_in, ("out",): self.bytes_out}
        snapshot.histograms = {
            "request_duration_seconds": self.durations.histogram(),
            "time_to_first_byte_seconds": self._first_bytes(),
            "dial_duration_seconds": self.dials.histogram(),
            "dns_lookup_duration_seconds": self.questions.histogram(),
            "event_loop_lag_seconds": self.lag.histogram(),
        }
        snapshot.failures = list(self.failures)


def _plain(namespace: str) -> str:
    return namespace.removeprefix(ADDRESSED)


def _added(rows: Iterable[tuple[Labels, int]]) -> dict[Labels, float]:
    """Return rows with those of one name added up: a namespace may be reached in both ways."""
    whole: dict[Labels, float] = {}
    for labels, count in rows:
        whole[labels] = whole.get(labels, 0.0) + count
    return whole
