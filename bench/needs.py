"""What the router must show: each requirement as data, tied to a scenario in bench/scenarios.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RELAY: Final = "relay"
ROUTER: Final = "router"
FAN_OUT: Final = "fan-out relay"

WORDS: Final = {"rate": "throughput", "p99_us": "p99", "kb_per_pair": "KB of RSS per pair"}


@dataclass(frozen=True)
class Need:
    """A limit on one of the router's figures, or on its ratio to another figure of the same run."""

    figure: str
    limit: float
    against: str | None = None
    """The contender to divide by; None: the figure itself is limited."""
    most: bool = False
    """The limit is the most that is allowed, not the least."""
    scenario: str | None = None
    """The scenario that the other figure comes from; None: the same one."""
    kept: bool = False
    """Compare what is kept of the figure in `scenario`: the router's part to the other's part."""

    def words(self) -> str:
        """Say what is asked."""
        sign = "<=" if self.most else ">="
        if self.kept:
            return (
                f"{WORDS[self.figure]} kept from {self.scenario!r}, to {self.against} {sign} {self.limit:g}"
            )
        other = f" to {self.against}" if self.against else ""
        other = f" to {self.against} in {self.scenario!r}" if self.scenario else other
        ratio = " ratio" if self.against else ""
        return f"{WORDS[self.figure]}{ratio}{other} {sign} {self.limit:g}"

    def met(self, value: float) -> bool:
        """Whether a value keeps the limit."""
        return value <= self.limit if self.most else value >= self.limit


AHEAD_OF_PEERS: Final = (
    *(Need("rate", 1.0, peer) for peer in ("nginx", "caddy", "envoy")),
    Need("rate", 40.0, "fastapi"),
)
BODY_NEEDS: Final = (Need("rate", 0.90, RELAY), Need("rate", 1.0, "haproxy"))
