"""From the settings to what they decide about every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrouter.policy.ids import TRACEPARENT, TRACESTATE
from fastrouter.policy.rules import Rules
from fastrouter.policy.target import Targets

if TYPE_CHECKING:
    from fastrouter.settings import Settings


def rules_of(settings: Settings, *, traces: bool = False) -> Rules:
    """Return what the settings decide about every request; ``traces`` tells that there is a tracer."""
    credentials = settings.auth_header.lower().encode("ascii")
    drops = {credentials} if settings.auth_token else set()
    # With a token in another header, and where it is asked for, Authorization is the sandbox's.
    if not (settings.forward_authorization or drops - {b"authorization"}):
        drops.add(b"authorization")
    if traces:
        drops |= {TRACEPARENT, TRACESTATE}  # the router's own span stands in their place
    return Rules(
        cluster_domain=settings.cluster_domain,
        longest_timeout=settings.proxy_timeout,
        longest_body=settings.max_body,
        credentials=credentials if settings.auth_token else b"",
        drops=frozenset(drops),
        honour_pod_ip=settings.honours_pod_ip,
        trusts_proxies=bool(settings.trusted_proxies),
        # h2c would carry requests past every check of the router, listed or not.
        upgrades=frozenset(name.encode("ascii") for name in settings.upgrade_protocols) - {b"h2c"},
        forward_origin=settings.forward_websocket_origin,
        traces=traces,
        targets=Targets(),
        request_ids=settings.request_id,
    )
