"""The thin test shim: any httpcore backend fits, and nothing but memory is used."""

from __future__ import annotations

import httpcore

from tests.shim import BOX, OK, SETTINGS, Shim


async def test_httpcores_own_mock_backend_can_stand_in() -> None:
    async with Shim(backend=httpcore.AsyncMockBackend([OK[:10], OK[10:30], OK[30:]])) as shim:
        response = await shim.request("POST", "/", BOX, b"body")
        assert (response.status, response.body) == (200, b"ok")


async def test_httpcores_own_mock_backend_can_answer_without_framing() -> None:
    pieces = [b"HTTP/1.1 200 OK\r\n\r\n", b"until ", b"the end"]
    async with Shim(backend=httpcore.AsyncMockBackend(pieces)) as shim:
        response = await shim.request("GET", "/", BOX)
        assert response.body == b"until the end"
        assert response.headers == {"connection": "close"}


async def test_it_needs_no_resolver_and_no_listener() -> None:
    async with Shim() as shim:
        await shim.request("GET", "/", BOX)
        assert shim.server.resolver is None
        assert shim.server.address == (SETTINGS.host, SETTINGS.port)


async def test_it_leaves_nothing_open() -> None:
    async with Shim() as shim:
        await shim.request("GET", "/", BOX)
        shim.connect().send(b"GET / HT")
        assert len(shim.server.connections) == 2
    statistics = shim.server.statistics()
    assert statistics["downstream_connections"] == 0
    assert (statistics["upstream_idle"], statistics["upstream_active"]) == (0, 0)
