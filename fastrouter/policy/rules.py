"""What the settings decide about every request, constant for a process, and where plans have targets from."""

from __future__ import annotations

from typing import NamedTuple

from fastrouter.policy.target import Targets


class Rules(NamedTuple):
    """Handed to the plan of every request; names of fields are lower case."""

    cluster_domain: str = "cluster.local"
    longest_timeout: float = 180.0
    """Cap of ``X-Sandbox-Timeout``, seconds."""
    longest_body: int = 0
    """Cap of request bodies, bytes; 0: none."""
    credentials: bytes = b""
    """The field that carries the router's token; empty where none is asked for."""
    drops: frozenset[bytes] = frozenset({b"authorization"})
    """Fields with credentials that are not for the sandbox."""
    honour_pod_ip: bool = False
    trusts_proxies: bool = False
    """Whether any peer's ``X-Forwarded-*`` may count."""
    upgrades: frozenset[bytes] = frozenset({b"websocket"})
    """Protocols that a request may upgrade to."""
    scheme: bytes = b"http"
    """What the client's connection speaks, for ``X-Forwarded-Proto``; each has head caches of its own."""
    forward_origin: bool = False
    """Whether ``Origin`` of an upgrade goes on."""
    traces: bool = False
    """Whether the router tells the sandbox of a span of its own, in the place of the client's."""
    targets: Targets | None = None
    """Where plans have their targets from, one object for those that are equal; None: each its own."""
    request_ids: bool = False
    """Whether requests and their responses carry ``X-Request-ID``."""
