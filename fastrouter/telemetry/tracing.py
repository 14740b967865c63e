"""A server span per request for OpenTelemetry. Loaded where it is wanted; needs ``fastrouter[otel]``.

A span is begun with the request, since the sandbox is told its id (W3C Trace Context), and filled in at the
end from what the router knows by then: nothing is recorded on the way.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import NoOpTracer, Span, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from fastrouter.telemetry.outcome import Outcome

# It warns of each malformed tracestate, which clients choose: a flood of them would push out access lines.
logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)

_W3C: Final = TraceContextTextMapPropagator()
# OpenTelemetry's conventions call the server's span of a 5xx an error, and no other.
_FAILURE: Final = 500


class Trace:
    """The span of one request."""

    __slots__ = ("connected", "lines", "resolved", "span", "trace_id")

    def __init__(self, span: Span, lines: bytes) -> None:
        self.span = span
        self.lines = lines
        """The field lines that tell the sandbox of it."""
        self.trace_id = format_trace_id(span.get_span_context().trace_id)
        self.resolved = 0.0
        """When the sandbox's name was known, monotonic seconds; 0: it was not asked for."""
        self.connected = 0.0
        """When the connection was there, likewise."""


class Tracer:
    """Makes spans and sends them to an OTLP endpoint, from a thread of its own."""

    def __init__(self, endpoint: str, version: str, *, exporter: SpanExporter | None = None) -> None:
        """Send to ``endpoint`` (OTLP over HTTP) or through ``exporter``; ``OTEL_*`` say the rest."""
        own = Resource({SERVICE_NAME: "fastrouter", SERVICE_VERSION: version})
        told = own.merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=told, shutdown_on_exit=False)
        exporter = exporter or OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("fastrouter", version)
        self._epoch = time.time_ns() - time.monotonic_ns()

    @property
    def is_on(self) -> bool:
        """False where ``OTEL_SDK_DISABLED`` (OpenTelemetry) says so: spans would have no ids."""
        return not isinstance(self._tracer, NoOpTracer)

    def begin(self, method: str, traceparent: bytes, tracestate: bytes, started: float) -> Trace:
        """Begin the span of a request that came at ``started``, in its client's trace where there is one."""
        told = {"traceparent": traceparent.decode("latin-1"), "tracestate": tracestate.decode("latin-1")}
        parent = _W3C.extract({name: value for name, value in told.items() if value}, Context())
        span = self._tracer.start_span(
            method, context=parent, kind=SpanKind.SERVER, start_time=self._at(started)
        )
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(span, Context()))
        lines = "".join(f"{name}: {value}\r\n" for name, value in carrier.items())
        return Trace(span, lines.encode("latin-1"))

    def end(self, trace: Trace, outcome: Outcome, now: float, facts: dict[str, str]) -> None:
        """End a span at ``now`` with what became of its request; ``facts`` are further attributes."""
        span = trace.span
        span.set_attributes(facts)
        span.set_attribute("http.response.status_code", outcome.status)
        span.set_attribute("http.request.body.size", outcome.bytes_in)
        span.set_attribute("http.response.body.size", outcome.bytes_out)
        if trace.resolved:
            span.add_event("dns", timestamp=self._at(trace.resolved))
        if trace.connected:
            told = {"attempts": outcome.dials, "seconds": outcome.dial_seconds}
            span.add_event("dial", told, self._at(trace.connected))
        if outcome.upstream:
            span.set_attribute("server.address", outcome.upstream)
            span.set_attribute("connection.reused", outcome.reused)
            if outcome.first_byte or not outcome.reason:
                span.add_event("first_byte", timestamp=self._at(outcome.first_byte or now))
            told = {"bytes_in": outcome.bytes_in, "bytes_out": outcome.bytes_out}
            span.add_event("transfer", told, self._at(now))
        if outcome.reason:
            span.set_attribute("error.type", outcome.reason)
        if outcome.status >= _FAILURE:
            span.set_status(StatusCode.ERROR, outcome.reason)
        span.end(self._at(now))

    def close(self) -> None:
        """Send what is left, and stop; takes seconds where nobody answers."""
        self._provider.shutdown()

    def _at(self, moment: float) -> int:
        """Return a moment of the monotonic clock as nanoseconds since the epoch."""
        return self._epoch + int(moment * 1e9)
