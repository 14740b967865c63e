"""What client connections and exchanges need of the server that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fastrouter.accounts import Accounts
    from fastrouter.net.bulkhead import Bulkhead
    from fastrouter.net.downstream import Downstream
    from fastrouter.net.outbox import Outbox
    from fastrouter.net.pool import Pool
    from fastrouter.net.tunnel import Tunnels
    from fastrouter.settings import Settings
    from fastrouter.telemetry.metrics import Metrics


class Owner(Protocol):
    """The server, as they see it."""

    settings: Settings
    pool: Pool
    accounts: Accounts
    tunnels: Tunnels
    outbox: Outbox
    shutting_down: bool
    metrics: Metrics

    def warn_of_timeout(self, value: str) -> None:
        """Log an ``X-Sandbox-Timeout`` that is none."""

    bulkhead: Bulkhead | None

    def opened(self, connection: Downstream) -> bool:
        """Register the connection; tell whether there is room for it."""

    def closed(self, connection: Downstream) -> None:
        """Forget the connection."""
