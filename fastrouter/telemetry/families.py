"""All metrics, by name: one table, which the page, the documentation and the dashboards are compared with.

The first group carries the names of agent-sandbox' Go router, so that its dashboards carry over.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

PREFIX: Final = "sandbox_router_"
# What every process tells goes by the names that all dashboards know, without the prefix.
PROCESS: Final = "process_"

# Seconds. Up to the 180 that a silent exchange may take.
DURATIONS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0),
)
# For what takes no longer than a dial may: DNS, connecting, the event loop's own delay.
SHORT_DURATIONS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

SIDES: Final = (("request",), ("response",))
# The reason words of what the router refuses: rows of the table in errors.py, and what ends for the client.
REJECTIONS: Final = (
    *("bad_request", "body_too_large", "duplicate_header", "headers_too_large"),
    *("internal_error", "invalid_namespace", "invalid_port", "invalid_sandbox_id", "invalid_target_ip"),
    *("invalid_token", "method_not_allowed", "missing_sandbox_id", "missing_token", "overloaded"),
    *("request_timeout", "shutting_down", "target_too_long", "too_many_connections"),
    *("unsupported_coding", "unsupported_version"),
)


class Family(NamedTuple):
    """One metric with all its label values."""

    name: str
    """Without the prefix, and for a counter without ``_total``."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, for a histogram."""
    known: tuple[tuple[str, ...], ...] = ()
    """Label values that are told before anything has happened: `rate()` sees no first event otherwise."""

    @property
    def stem(self) -> str:
        """The name that the page's HELP and TYPE lines carry in OpenMetrics."""
        return self.name if self.name.startswith(PROCESS) else f"{PREFIX}{self.name}"

    @property
    def sample(self) -> str:
        """The name of its samples on the page, for a histogram their stem."""
        return f"{self.stem}{'_total' if self.kind == 'counter' else ''}"


FAMILIES: Final = (
    Family("requests", "counter", "Requests answered.", ("method", "code", "sandbox_namespace")),
    Family("request_duration_seconds", "histogram", "Until the end of the response.", (), DURATIONS),
    Family("inflight_requests", "gauge", "Requests under way."),
    Family(
        "upstream_errors",
        "counter",
        "Requests that failed at the sandbox, by reason word.",
        ("sandbox_namespace", "reason"),
    ),
    Family("upstream_retries", "counter", "Dials tried again, and requests sent once more."),
    Family(
        "authz_decisions",
        "counter",
        "Requests that were let in or refused.",
        ("decision",),
        known=(("allowed",), ("denied",)),
    ),
    Family("build_info", "gauge", "1, with what runs.", ("version", "python")),
    # What follows is fastrouter's own.
    Family(
        "rejected",
        "counter",
        "Requests refused by the router, by reason word.",
        ("reason",),
        known=tuple((reason,) for reason in REJECTIONS),
    ),
    Family("time_to_first_byte_seconds", "histogram", "Until the response head.", (), DURATIONS),
    Family("downstream_connections", "gauge", "Client connections that are open."),
    Family("downstream_connections_accepted", "counter", "Client connections accepted."),
    Family("tls_handshake_failures", "counter", "TLS handshakes of clients that failed."),
    Family(
        "upstream_connections",
        "gauge",
        "Connections to sandboxes.",
        ("state",),
        known=(("active",), ("idle",)),
    ),
    Family(
        "upstream_acquired",
        "counter",
        "Connections taken for a request.",
        ("connection",),
        known=(("fresh",), ("reused",)),
    ),
    Family("dial_duration_seconds", "histogram", "Attempts to connect to a sandbox.", (), SHORT_DURATIONS),
    Family(
        "dns_lookups",
        "counter",
        "Names looked up.",
        ("outcome",),
        known=(("failed",), ("found",), ("not_found",)),
    ),
    Family("dns_lookup_duration_seconds", "histogram", "Questions to a DNS server.", (), SHORT_DURATIONS),
    Family(
        "head_cache_hits",
        "counter",
        "Heads that did not have to be parsed.",
        ("side",),
        known=SIDES,
    ),
    Family("head_cache_misses", "counter", "Heads that were parsed.", ("side",), known=SIDES),
    Family(
        "body_bytes",
        "counter",
        "Bytes of bodies and tunnels, without framing.",
        ("direction",),
        known=(("in",), ("out",)),
    ),
    Family("tunnels", "gauge", "Tunnels that are open."),
    Family("event_loop_lag_seconds", "histogram", "How late the event loop is.", (), SHORT_DURATIONS),
    Family("log_lines_dropped", "counter", "Log lines that nobody read."),
    Family("accepting", "gauge", "Processes that accept connections."),
    # Of all worker processes together.
    Family("process_cpu_seconds", "counter", "Processor time, user and system."),
    Family("process_resident_memory_bytes", "gauge", "Memory that is held."),
    Family("process_open_fds", "gauge", "Files and connections that are open."),
    Family("process_max_fds", "gauge", "Files and connections that may be open."),
    Family(
        "process_start_time_seconds", "gauge", "Since when the first of them runs, seconds since the epoch."
    ),
)
