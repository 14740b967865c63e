"""X-Forwarded-*: whose word counts."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tests.support import Stage, always, ok, request, stage

CLAIMS = (
    b"X-Forwarded-For: 1.1.1.1, 2.2.2.2",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: public.example",
)
LOOPBACK = (ip_network("127.0.0.0/8"),)


async def seen(router: Stage, *fields: bytes) -> list[bytes]:
    box = await router.sandbox(always(ok()))
    client = await router.client()
    await client.send(request(box, *fields))
    await client.response()
    return [line for line in box.received.split(b"\r\n") if line.startswith(b"X-Forwarded-")]


@pytest.mark.parametrize("networks", [(), (ip_network("10.0.0.0/8"),)])
@pytest.mark.parametrize("fields", [(), CLAIMS])
async def test_a_forged_chain_changes_nothing(
    networks: tuple[object, ...], fields: tuple[bytes, ...]
) -> None:
    async with stage(trusted_proxies=networks) as router:
        assert await seen(router, *fields) == [
            b"X-Forwarded-Proto: http",
            b"X-Forwarded-Host: router",
            b"X-Forwarded-For: 127.0.0.1",
        ]


async def test_a_trusted_proxys_chain_is_kept_and_appended_to() -> None:
    async with stage(trusted_proxies=LOOPBACK) as router:
        assert await seen(router, *CLAIMS, b"X-Forwarded-For: 3.3.3.3") == [
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: public.example",
            b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.1",
        ]


async def test_a_trusted_proxy_that_says_nothing_is_the_start_of_the_chain() -> None:
    async with stage(trusted_proxies=LOOPBACK) as router:
        assert await seen(router) == [
            b"X-Forwarded-Proto: http",
            b"X-Forwarded-Host: router",
            b"X-Forwarded-For: 127.0.0.1",
        ]
