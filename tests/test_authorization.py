"""The four modes of authorization, on the router in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastrouter.settings import Settings
from tests.shim import BOX, OK, SETTINGS, MockBackend, Response, Shim, raw_request
from tests.support import Client, always, ok, request, stage

TOKEN = replace(SETTINGS, auth_token="secret")
MOVED = replace(TOKEN, auth_header="X-Router-Authorization")
MISSING = (401, "Missing or invalid Authorization header.", "missing_token")
INVALID = (401, "Invalid token.", "invalid_token")
Fields = list[tuple[str, str]]


async def ask(settings: Settings, *fields: tuple[str, str], path: str = "/") -> tuple[Response, MockBackend]:
    backend = MockBackend(OK)
    async with Shim(settings=settings, backend=backend) as shim:
        return await shim.request("GET", path, [*BOX.items(), *fields]), backend


@pytest.mark.parametrize("value", ["Bearer secret", "bearer secret"])
async def test_the_token_opens_the_router_and_stops_there(value: str) -> None:
    response, backend = await ask(TOKEN, ("Authorization", value))
    assert response.status == 200
    assert b"secret" not in backend.sent
    assert b"authorization" not in backend.sent.lower()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ([], MISSING),
        ([("Authorization", "")], MISSING),
        ([("Authorization", "Basic c2VjcmV0")], MISSING),
        ([("Authorization", "secret")], MISSING),
        ([("Authorization", "Bearer other")], INVALID),
        ([("Authorization", "Bearer secret2")], INVALID),
        ([("Authorization", "Bearer secret"), ("Authorization", "Bearer other")], MISSING),
        ([("X-Router-Authorization", "Bearer secret")], MISSING),
    ],
)
async def test_anything_else_is_a_401_and_reaches_nobody(fields: Fields, error: tuple[int, str, str]) -> None:
    response, backend = await ask(TOKEN, *fields)
    assert response.error == error
    assert response.headers["www-authenticate"] == "Bearer"
    assert backend.dials == []


async def test_authorization_is_checked_before_the_routing_headers() -> None:
    async with Shim(settings=TOKEN) as shim:
        assert (await shim.request("GET", "/", {"X-Sandbox-ID": "NO"})).error == MISSING
        allowed = {"X-Sandbox-ID": "NO", "Authorization": "Bearer secret"}
        assert (await shim.request("GET", "/", allowed)).error[2] == "invalid_sandbox_id"


async def test_healthz_stays_open() -> None:
    async with Shim(settings=TOKEN) as shim:
        assert (await shim.request("GET", "/healthz")).status == 200
        assert (await shim.request("POST", "/healthz", BOX)).error == MISSING
        assert (await shim.request("GET", "/healthz/..", BOX)).error == MISSING


async def test_no_decision_is_kept_with_a_head() -> None:
    async with Shim(settings=TOKEN) as shim:
        client = shim.connect()
        for _ in range(3):
            client.send(raw_request("GET", "/", BOX))
            assert (await client.response()).error == MISSING
            client.send(raw_request("GET", "/", {**BOX, "Authorization": "Bearer secret"}))
            assert (await client.response()).status == 200


async def test_the_token_may_move_and_leaves_authorization_to_the_sandbox() -> None:
    users = ("Authorization", "Bearer users-own")
    response, backend = await ask(MOVED, users, ("X-Router-Authorization", "Bearer secret"))
    assert response.status == 200
    assert b"\r\nAuthorization: Bearer users-own\r\n" in backend.sent
    assert b"X-Router-Authorization" not in backend.sent
    assert (await ask(MOVED, users))[0].error == MISSING
    assert (await ask(MOVED, ("Authorization", "Bearer secret")))[0].error == MISSING


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        (SETTINGS, False),
        (replace(SETTINGS, allow_unauthenticated=True), False),
        (replace(SETTINGS, forward_authorization=True), True),
        (replace(SETTINGS, allow_unauthenticated=True, forward_authorization=True), True),
    ],
)
async def test_an_open_router_drops_authorization_unless_told(settings: Settings, passes: bool) -> None:
    response, backend = await ask(settings, ("Authorization", "Bearer users-own"))
    assert response.status == 200
    assert (b"Authorization: Bearer users-own" in backend.sent) is passes


async def test_the_routers_own_token_is_never_forwarded() -> None:
    forwarding = replace(TOKEN, forward_authorization=True)
    _, backend = await ask(forwarding, ("Authorization", "Bearer secret"))
    assert b"secret" not in backend.sent


async def upgrade(client: Client, port: int, *fields: bytes) -> tuple[int, str, str]:
    await client.send(request(port, b"Connection: Upgrade", b"Upgrade: websocket", *fields))
    return await client.error()


async def test_upgrades_need_the_token_too() -> None:
    async with stage(auth_token="secret") as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        assert await upgrade(client, box.port) == MISSING
        assert await upgrade(client, box.port, b"Authorization: Bearer x") == INVALID
        assert box.visits == []
