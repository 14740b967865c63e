"""What every load generator counts, and the one form in which it is reported."""

from __future__ import annotations

import random
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Final

from bench.answers import HEAD_END
from bench.scenarios import NONCE, SHORT_NONCE

# As wrk: an answer that took longer than this is an error. The loops run for seconds only.
ANSWER_TIMEOUT: Final = 2.0
# Grouped, so that a split gives the places too, at the odd positions.
NONCES: Final = re.compile(b"(%b|%b)" % (NONCE, SHORT_NONCE))
KINDS: Final = ("connect", "read", "write", "status", "timeout")

Result = dict[str, object]


@dataclass
class Tally:
    """What came back."""

    requests: int = 0
    bytes: int = 0
    latencies: array[float] = field(default_factory=lambda: array("d"))
    errors: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def restart(self) -> None:
        """Forget what came back while connections were opened; what failed stays an error."""
        self.requests = self.bytes = 0
        del self.latencies[:]

    def result(self, seconds: float) -> Result:
        """Sum up, in the form that load.lua prints."""
        ordered = sorted(self.latencies)
        return {
            "requests": self.requests,
            "bytes": self.bytes,
            "seconds": round(seconds, 6),
            "p50_us": microseconds(ordered, 50),
            "p99_us": microseconds(ordered, 99),
            "p999_us": microseconds(ordered, 99.9),
            "errors": self.errors,
        }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of sorted values; 0 for none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def microseconds(ordered: Sequence[float], percent: float) -> float:
    """A percentile of sorted seconds, as it is reported."""
    return round(percentile(ordered, percent) * 1e6, 1)


def message_stream(messages: Sequence[bytes]) -> Iterator[bytes]:
    """Round robin over the messages, each with a new nonce in every place that its head has for one."""
    # Not in the body: a search through 64 MB took 0.17 s of the run.
    if messages[0].find(NONCE, 0, messages[0].find(HEAD_END)) < 0:
        # The very same objects again and again: an upload of 64 MB is never copied.
        yield from cycle(messages)
    for pieces in cycle([NONCES.split(message) for message in messages]):
        # Not a secret: the value has to differ, no more.
        value = b"%016x" % random.getrandbits(64)
        for place in range(1, len(pieces), 2):
            pieces[place] = value if len(pieces[place]) == len(NONCE) else value[: len(SHORT_NONCE)]
        yield b"".join(pieces)
