"""Who the admin pages ask: one router, or a fleet of workers. The pages do not know which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fastrouter.telemetry.snapshot import Snapshot


class Source(Protocol):
    """Tells what runs here, and whether clients should be sent to it."""

    async def snapshots(self) -> list[Snapshot]:
        """Return what each worker process tells of itself; none where no process answers."""
        ...

    async def unready(self) -> list[str]:
        """Return why this router should get no new clients, in words; nothing: it is ready."""
        ...
