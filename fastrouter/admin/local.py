"""The source of a router that is one process: its own server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fastrouter.telemetry.snapshot import Snapshot


class Router(Protocol):
    """What readiness depends on."""

    @property
    def listening(self) -> bool:
        """True from the start to the end of listening, a pause for want of files included."""
        ...

    @property
    def leaving(self) -> bool:
        """True once the router was told to stop, though it may serve on for a while."""
        ...

    def snapshot(self) -> Snapshot:
        """Return all metrics of this process."""
        ...

    async def dns_fault(self) -> str:
        """Return why DNS does not answer; nothing where it does."""
        ...


class Local:
    """Answers for one router.

    A router that is out of file descriptors, or at its connection limit, stays ready: with all of them under
    the same load, a balancer that takes one out makes it worse for the next.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    def __repr__(self) -> str:
        return f"<Local {self._router!r}>"

    async def snapshots(self) -> list[Snapshot]:
        """Return the one snapshot there is."""
        return [self._router.snapshot()]

    async def unready(self) -> list[str]:
        """Return why not, in words."""
        router = self._router
        # Where DNS does not matter any more, the answer need not wait for it.
        fault = await router.dns_fault() if router.listening and not router.leaving else ""
        # Looked at again: it may have been told to stop meanwhile.
        if router.leaving:
            return ["shutting down"]
        if not router.listening:
            return ["not listening"]
        return [f"DNS does not answer: {fault}"] if fault else []
