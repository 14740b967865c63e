"""The status page: one HTML file that asks for one JSON object a second, and what is in that object.

The object has totals only. The page takes the differences of what it sees, so that any number of people look
at the same router without it keeping anything for them.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from importlib import resources
from typing import Any, Final

from fastrouter import __version__
from fastrouter.telemetry.families import FAMILIES
from fastrouter.telemetry.snapshot import Snapshot, empty, merged

# A second of somebody's attention: more rows than these are for Prometheus.
MAX_NAMESPACES: Final = 50
MAX_FAILURES: Final = 50

EXPLANATIONS: Final = {
    "bad_request": "The client sent no valid HTTP.",
    "body_too_large": "The request body is longer than MAX_REQUEST_BODY_BYTES.",
    "client_closed": "The client left before the response had ended.",
    "connect_refused": "Nothing listens on the sandbox's port: it is starting, or has ended.",
    "connect_timeout": "The sandbox's address did not answer: its node is gone, or a policy drops packets.",
    "connect_unreachable": "There is no way to the sandbox's address.",
    "dns_failure": "The DNS server did not answer, or failed.",
    "dns_not_found": "There is no Service with this name: the sandbox does not exist, or no longer.",
    "duplicate_header": "A routing header came twice with different values.",
    "headers_too_large": "The request head is over 64 KiB or 256 fields.",
    "internal_error": "A defect in the router: its log has a traceback.",
    "invalid_namespace": "X-Sandbox-Namespace is no DNS label.",
    "invalid_port": "X-Sandbox-Port is no port.",
    "invalid_sandbox_id": "X-Sandbox-ID is no DNS label.",
    "invalid_target_ip": "X-Sandbox-Pod-IP is no address that may be dialled.",
    "invalid_token": "The token is a wrong one.",
    "method_not_allowed": "CONNECT is not served.",
    "missing_sandbox_id": "X-Sandbox-ID is missing.",
    "missing_token": "There is no bearer token in the request.",
    "overloaded": "The router is at MAX_CONNECTIONS.",
    "request_timeout": "The client did not send its request in time.",
    "shutting_down": "The router was about to end: a load balancer had not noticed yet.",
    "target_too_long": "The request line is over 16 KiB.",
    "too_many_connections": "The sandbox or the client has as many connections as it may have.",
    "unsupported_coding": "Transfer-Encoding is not chunked.",
    "unsupported_version": "Neither HTTP/1.0 nor HTTP/1.1.",
    "upstream_closed": "The sandbox closed the connection before its response had ended.",
    "upstream_protocol_error": "The sandbox answered with something that is no valid HTTP.",
    "upstream_timeout": "The sandbox was silent for longer than the timeout.",
}
"""Reason word -> what has happened, for somebody who sees it for the first time."""

_BUCKETS: Final = {family.name: family.buckets for family in FAMILIES if family.buckets}


@cache
def status_page() -> bytes:
    """Return the page: HTML with its styles and its script, nothing else to be loaded."""
    return resources.files("fastrouter.admin").joinpath("status.html").read_bytes()


def status_json(snapshots: list[Snapshot], unready: list[str], now: float) -> bytes:
    """Return what the page shows of the processes; ``unready`` says in words why they are not ready.

    No settings, no request targets, no headers: whoever may see the page may not know these.
    """
    whole = merged(snapshots) if snapshots else empty(0, __version__, now)
    failures = list(reversed(whole.failures[-MAX_FAILURES:]))
    reasons = _reasons(whole)
    words = {reason for reason, _, _ in reasons} | {failure.reason for failure in failures}
    told: dict[str, Any] = {
        "now": now,
        "version": whole.version,
        "python": _python(whole),
        "started": whole.started,
        "unready": unready,
        "workers": [_worker(each) for each in sorted(snapshots, key=lambda each: (each.started, each.pid))],
        "totals": _totals(whole),
        "classes": _classes(whole),
        "histograms": {
            name: {"bounds": _BUCKETS[name], "counts": histogram.counts, "sum": histogram.sum}
            for name, histogram in whole.histograms.items()
            if name in _BUCKETS
        },
        "namespaces": _namespaces(whole),
        "reasons": reasons,
        "lookups": sorted((outcome, count) for (outcome,), count in _rows(whole, "dns_lookups")),
        "failures": [asdict(failure) for failure in failures],
        "explanations": {word: EXPLANATIONS[word] for word in sorted(words & EXPLANATIONS.keys())},
    }
    return json.dumps(told, separators=(",", ":")).encode("ascii")


def _rows(snapshot: Snapshot, name: str) -> Iterable[tuple[tuple[str, ...], float]]:
    return snapshot.values.get(name, {}).items()


def _sum(snapshot: Snapshot, name: str, *labels: str) -> float:
    """Add up the values of a family whose first labels are these."""
    return sum(value for row, value in _rows(snapshot, name) if row[: len(labels)] == labels)


def _python(snapshot: Snapshot) -> str:
    versions = {python for (_, python), _ in _rows(snapshot, "build_info")}
    return ", ".join(sorted(versions)) or platform.python_version()


def _worker(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "pid": snapshot.pid,
        "version": snapshot.version,
        "started": snapshot.started,
        "accepting": bool(_sum(snapshot, "accepting")),
        "requests": _sum(snapshot, "requests"),
        "inflight": _sum(snapshot, "inflight_requests"),
        "connections": _sum(snapshot, "downstream_connections"),
        "memory": _sum(snapshot, "process_resident_memory_bytes"),
        "cpu": _sum(snapshot, "process_cpu_seconds"),
    }


def _totals(whole: Snapshot) -> dict[str, float]:
    return {
        "requests": _sum(whole, "requests"),
        "failures": _sum(whole, "upstream_errors") + _sum(whole, "rejected"),
        "retries": _sum(whole, "upstream_retries"),
        "allowed": _sum(whole, "authz_decisions", "allowed"),
        "denied": _sum(whole, "authz_decisions", "denied"),
        "inflight": _sum(whole, "inflight_requests"),
        "tunnels": _sum(whole, "tunnels"),
        "accepted": _sum(whole, "downstream_connections_accepted"),
        "downstream": _sum(whole, "downstream_connections"),
        "active": _sum(whole, "upstream_connections", "active"),
        "idle": _sum(whole, "upstream_connections", "idle"),
        "reused": _sum(whole, "upstream_acquired", "reused"),
        "fresh": _sum(whole, "upstream_acquired", "fresh"),
        "head_hits": _sum(whole, "head_cache_hits"),
        "head_misses": _sum(whole, "head_cache_misses"),
        "bytes_in": _sum(whole, "body_bytes", "in"),
        "bytes_out": _sum(whole, "body_bytes", "out"),
        "lines_dropped": _sum(whole, "log_lines_dropped"),
        "open_files": _sum(whole, "process_open_fds"),
        "max_files": _sum(whole, "process_max_fds"),
    }


def _classes(whole: Snapshot) -> dict[str, float]:
    """Return how many requests ended with which class of status code: `2xx` -> count."""
    found: dict[str, float] = {}
    for (_, code, _), count in _rows(whole, "requests"):
        name = f"{code[:1]}xx"
        found[name] = found.get(name, 0.0) + count
    return dict(sorted(found.items()))


def _namespaces(whole: Snapshot) -> list[tuple[str, float, float]]:
    """Return the busiest namespaces with their requests, and those of them that the sandbox failed."""
    found: dict[str, float] = {}
    for (_, _, namespace), count in _rows(whole, "requests"):
        found[namespace] = found.get(namespace, 0.0) + count
    busiest = sorted(found.items(), key=lambda row: (-row[1], row[0]))[:MAX_NAMESPACES]
    return [(name, count, _sum(whole, "upstream_errors", name)) for name, count in busiest]


def _reasons(whole: Snapshot) -> list[tuple[str, str, float]]:
    """Return the reason words with who is at fault and how often, the most frequent first."""
    found: dict[tuple[str, str], float] = {}
    for (_, reason), count in _rows(whole, "upstream_errors"):
        found[reason, "sandbox"] = found.get((reason, "sandbox"), 0.0) + count
    for (reason,), count in _rows(whole, "rejected"):
        found[reason, "request"] = found.get((reason, "request"), 0.0) + count
    rows = [(reason, whose, count) for (reason, whose), count in found.items() if count]
    return sorted(rows, key=lambda row: (-row[2], row[0]))
