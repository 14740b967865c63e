"""The pages of the admin ports, by path."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from fastrouter.admin.http import Reply, Route, plain
from fastrouter.admin.status import status_json, status_page
from fastrouter.telemetry.exposition import exposition
from fastrouter.telemetry.snapshot import merged

if TYPE_CHECKING:
    from fastrouter.admin.source import Source
    from fastrouter.wire.heads import RequestHead

_JSON: Final = "application/json"


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
