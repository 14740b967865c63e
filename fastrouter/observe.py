"""All metrics of a running server at one moment."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

from fastrouter import __version__
from fastrouter.net.inbound import EXCHANGE
from fastrouter.telemetry.process import tell_process
from fastrouter.telemetry.snapshot import Snapshot, empty

if TYPE_CHECKING:
    from fastrouter.server import Server
    from fastrouter.wire.head_cache import HeadCache


def snapshot_of(server: Server, started: float) -> Snapshot:
    """Return what a server tells that was ``started`` then, in seconds since the epoch."""
    told = empty(os.getpid(), __version__, started)
    server.metrics.tell(told)
    tell_process(told)
    counters, dialer, log = server.pool.counters, server.pool.dialer, server.access_log
    caches: dict[str, list[HeadCache[Any]]] = {
        "request": [server.request_heads, server.secure_heads],
        "response": [server.response_heads],
    }
    told.values |= {
        "inflight_requests": {(): sum(each.phase is EXCHANGE for each in server.connections)},
        "upstream_retries": {(): dialer.retries + server.metrics.replayed},
        "build_info": {(__version__, platform.python_version()): 1},
        "downstream_connections": {(): len(server.connections)},
        "upstream_connections": {("active",): counters.in_use, ("idle",): server.pool.idle},
        "upstream_acquired": {
            ("reused",): counters.reused,
            ("fresh",): counters.acquired - counters.reused,
        },
        "head_cache_hits": {(side,): sum(each.hits for each in kept) for side, kept in caches.items()},
        "head_cache_misses": {(side,): sum(each.misses for each in kept) for side, kept in caches.items()},
        "tunnels": {(): server.tunnels.open},
        "log_lines_dropped": {(): log.dropped if log is not None else 0},
        "accepting": {(): server.accepting},
        "tls_handshake_failures": {(): server.failed_handshakes},
    }
    return told
