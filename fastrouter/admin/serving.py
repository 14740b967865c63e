"""Opens the admin ports, and closes them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from fastrouter.admin.http import AdminServer, Route
from fastrouter.admin.pages import Shared, routes_for_health, routes_for_metrics

if TYPE_CHECKING:
    from fastrouter.admin.source import Source
    from fastrouter.settings import Settings

_ROUTES: Final = {"health": routes_for_health, "metrics": routes_for_metrics}

_log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(settings: Settings, source: Source) -> AsyncIterator[dict[str, AdminServer]]:
    """Serve health and metrics for as long as the context lasts; yields the servers by these names.

    Raises ``OSError``, which names the address, where one is taken or not ours.
    """
    async with AsyncExitStack() as stack:
        servers: dict[str, AdminServer] = {}
        shared = Shared(source)
        for port, names in _ports(settings):
            routes: dict[bytes, Route] = {}
            for name in names:
                routes |= _ROUTES[name](shared)
            server = AdminServer(settings.host, port, routes)
            await server.start()
            stack.push_async_callback(server.close)
            servers |= dict.fromkeys(names, server)
        if servers:
            told = {name: _authority(server.address) for name, server in servers.items()}
            _log.info("admin ports", extra=told)
        yield servers


def _ports(settings: Settings) -> list[tuple[int, tuple[str, ...]]]:
    """Return each port with what it serves; two zeros are two free ports, any other two alike are one."""
    health, metrics = settings.health_port, settings.metrics_port
    if health and health == metrics:
        return [(health, ("health", "metrics"))]
    wanted = (("health", health), ("metrics", metrics))
    return [(port, (name,)) for name, port in wanted if port is not None]


def _authority(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
