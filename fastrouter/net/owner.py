"""What client connections and exchanges need of the server that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fastrouter.net.bulkhead import Bulkhead
    from fastrouter.net.downstream import Downstream
    from fastrouter.net.pool import Pool
    from fastrouter.net.tunnel import Tunnels
    from fastrouter.policy.plan import RequestPlan
    from fastrouter.settings import Settings
    from fastrouter.telemetry.access_log import AccessLog
    from fastrouter.wire.head_cache import HeadCache


class Owner(Protocol):
    """The server, as they see it."""

    settings: Settings
    pool: Pool
    request_heads: HeadCache[RequestPlan]
    access_log: AccessLog | None
    tunnels: Tunnels
    shutting_down: bool
    requests: int
    errors: int

    def warn_of_timeout(self, value: str) -> None:
        """Log an ``X-Sandbox-Timeout`` that is none."""

    bulkhead: Bulkhead | None

    def opened(self, connection: Downstream) -> bool:
        """Register the connection; tell whether there is room for it."""

    def closed(self, connection: Downstream) -> None:
        """Forget the connection."""
