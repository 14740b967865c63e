"""The pages of the admin ports, by path."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Final

from fastrouter.admin.http import Reply, Route, plain
from fastrouter.admin.status import status_json, status_page
from fastrouter.telemetry.exposition import exposition
from fastrouter.telemetry.snapshot import merged

if TYPE_CHECKING:
    from fastrouter.admin.source import Source
    from fastrouter.telemetry.snapshot import Snapshot
    from fastrouter.wire.heads import RequestHead

_SHARED_SECONDS: Final = 0.5
_JSON: Final = "application/json"


class Shared:
    """A source whose numbers all who ask within half a second share: to gather 5,000 series takes 20 ms."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._until = 0.0
        self._asking: asyncio.Task[list[Snapshot]] | None = None

    async def snapshots(self) -> list[Snapshot]:
        """Return what the source tells, or told just now."""
        loop = asyncio.get_running_loop()
        if self._asking is None or loop.time() >= self._until:
            self._until = loop.time() + _SHARED_SECONDS
            self._asking = loop.create_task(self._source.snapshots())
        return await asyncio.shield(self._asking)

    async def unready(self) -> list[str]:
        """Return what the source says now."""
        return await self._source.unready()


def routes_for_health(source: Source) -> dict[bytes, Route]:
    """Return the probes and the status page."""

    async def alive(_: RequestHead) -> Reply:
        # That the event loop came round to answer is all there is to say: a restart mends nothing else.
        return _json(200, {"status": "ok"})

    async def ready(_: RequestHead) -> Reply:
        reasons = await source.unready()
        if reasons:
            return _json(503, {"status": "not ready", "reasons": reasons})
        return _json(200, {"status": "ready"})

    async def page(_: RequestHead) -> Reply:
        return Reply(200, "text/html; charset=utf-8", status_page())

    async def numbers(_: RequestHead) -> Reply:
        told = status_json(await source.snapshots(), await source.unready(), time.time())
        return Reply(200, _JSON, told)

    return {b"/healthz": alive, b"/readyz": ready, b"/": page, b"/status.json": numbers}


def routes_for_metrics(source: Source) -> dict[bytes, Route]:
    """Return the metrics, in the format that the client prefers."""

    async def metrics(head: RequestHead) -> Reply:
        snapshots = await source.snapshots()
        if not snapshots:
            return plain(503, "No worker process answers.")
        return Reply(200, *exposition(merged(snapshots), _accept(head)))

    return {b"/metrics": metrics}


def _accept(head: RequestHead) -> str:
    """Return the formats that a client takes; several lines are one list (RFC 9110 5.3)."""
    return ", ".join(value.decode("latin-1") for name, _, value in head.fields if name == b"accept")


def _json(status: int, told: dict[str, object]) -> Reply:
    return Reply(status, _JSON, json.dumps(told, separators=(",", ":")).encode("ascii"))
