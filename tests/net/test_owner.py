"""The server is what connections take it for."""

from __future__ import annotations

from fastrouter.net.owner import Owner
from fastrouter.server import Server
from fastrouter.settings import Settings


async def test_a_server_has_all_that_connections_need() -> None:
    server: Owner = Server(Settings())
    members = set(Owner.__annotations__) | {name for name in vars(Owner) if not name.startswith("_")}
    assert len(members) > 8
    assert [name for name in sorted(members) if not hasattr(server, name)] == []
