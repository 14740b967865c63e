"""The beginning and the end of every request, as the log and the metrics tell them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from fastrouter.policy.ids import HEAD_END, trace_id_in
from fastrouter.policy.target import Target
from fastrouter.telemetry.access_log import LONGEST_ID, NO_SUBJECT
from fastrouter.telemetry.metrics import ADDRESSED, NOBODY, Metrics
from fastrouter.telemetry.outcome import Outcome

if TYPE_CHECKING:
    from fastrouter.policy.plan import RequestPlan
    from fastrouter.telemetry.access_log import AccessLog
    from fastrouter.telemetry.tracing import Tracer

LEFT: Final = "client_closed"
"""The reason word of a request whose client left before the answer: nobody's failure."""

CUT_OFF: Final = "cut_off"
"""The reason word of a request that the router cut at the end of its grace time: it may have run."""

_BROKEN_OFF: Final = frozenset({LEFT, CUT_OFF})
# How many ids are made at once: a system call for each would cost as much as the rest of its account.
_IDS: Final = 64


class Accounts:
    """Opens and closes the account of each request."""

    __slots__ = ("_gives_ids", "_ids", "_tracer", "access_log", "metrics")

    def __init__(
        self,
        metrics: Metrics,
        access_log: AccessLog | None,
        *,
        gives_ids: bool,
        tracer: Tracer | None = None,
    ) -> None:
        """Count in ``metrics``, write to ``access_log``, and trace, where each is wanted.

        With ``gives_ids``, each request has an id.
        """
        self._tracer = tracer
        self.metrics = metrics
        self.access_log = access_log
        self._gives_ids = gives_ids
        self._ids: list[bytes] = []

    def begin(self, plan: RequestPlan | None) -> Outcome:
        """Begin to note what becomes of a request, with the id that it brings or is given here.

        ``plan`` is None where no head could be read.
        """
        outcome = Outcome(time.monotonic())
        if self._gives_ids:
            given = plan.request_id if plan is not None else b""
            outcome.request_id = request_id = given or self._made_id()
            outcome.head_end = HEAD_END % request_id
        if self._tracer is not None and plan is not None:
            outcome.trace = self._tracer.begin(
                plan.counted[0], plan.traceparent, plan.tracestate, outcome.started
            )
        return outcome

    def _made_id(self) -> bytes:
        """Return an id that nobody else has: 128 random bits, as hexadecimal digits."""
        if not self._ids:
            self._ids = os.urandom(16 * _IDS).hex(" ", 16).encode("ascii").split()
        return self._ids.pop()

    def settle(self, plan: RequestPlan | None, outcome: Outcome, now: float) -> None:
        """Count a request that ended ``now`` (monotonic seconds), and write its line."""
        if plan is None:
            counted, subject, trace_id = NOBODY, NO_SUBJECT, ""
        else:
            counted, subject = plan.counted, plan.log_subject
            trace_id = trace_id_in(plan.traceparent) if plan.traceparent else ""
        seconds = now - outcome.started
        if outcome.trace is not None and plan is not None:
            trace_id = outcome.trace.trace_id
            self._end_trace(plan, outcome, now)
        self.metrics.record(counted, outcome, seconds)
        if outcome.reason and outcome.reason not in _BROKEN_OFF:
            self.metrics.failed(counted, outcome, time.time(), sandbox_of(plan))
        if self.access_log is not None:
            self.access_log.record(subject, outcome, seconds, trace_id)

    def _end_trace(self, plan: RequestPlan, outcome: Outcome, now: float) -> None:
        assert self._tracer is not None  # noqa: S101 - it began the trace
        assert outcome.trace is not None  # noqa: S101 - asked by the caller
        facts = {
            "http.request.method": plan.counted[0],
            "http.request_id": outcome.request_id[:LONGEST_ID].decode("utf-8", "replace"),
            "sandbox.id": sandbox_of(plan),
            "sandbox.namespace": plan.counted[1].removeprefix(ADDRESSED),
        }
        self._tracer.end(outcome.trace, outcome, now, {name: fact for name, fact in facts.items() if fact})


def sandbox_of(plan: RequestPlan | None) -> str:
    """Return the id of the sandbox that a request is for; empty where it names none."""
    target = plan.target if plan is not None else None
    return target.key.sandbox_id if isinstance(target, Target) else ""
