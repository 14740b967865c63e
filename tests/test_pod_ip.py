"""X-Sandbox-Pod-IP, on the mock backend: an accepted address would be dialled for real."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastrouter.settings import Settings
from tests.shim import BOX, OK, SETTINGS, MockBackend, Response, Shim

OPEN = replace(SETTINGS, allow_unauthenticated=True)
MALFORMED = (400, "Invalid target IP address format.", "invalid_target_ip")
FORBIDDEN = (400, "Invalid target IP address.", "invalid_target_ip")


async def ask(value: str, settings: Settings = OPEN) -> tuple[Response, MockBackend]:
    backend = MockBackend(OK)
    async with Shim(settings=settings, backend=backend) as shim:
        return await shim.request("GET", "/", {**BOX, "X-Sandbox-Pod-IP": value}), backend


@pytest.mark.parametrize(
    ("value", "dialled", "host"),
    [
        ("10.1.2.3", "10.1.2.3", "10.1.2.3:8888"),
        ("203.0.113.9", "203.0.113.9", "203.0.113.9:8888"),
        ("fd00::1", "fd00::1", "[fd00::1]:8888"),
        ("[fd00::1]", "fd00::1", "[fd00::1]:8888"),
        ("FD00:0:0:0:0:0:0:1", "fd00::1", "[fd00::1]:8888"),
        ("fd00:0000:0000:0000:0000:0000:0000:0001", "fd00::1", "[fd00::1]:8888"),
        ("::ffff:10.1.2.3", "::ffff:a01:203", "[::ffff:a01:203]:8888"),
    ],
)
async def test_an_address_is_dialled_and_is_the_host(value: str, dialled: str, host: str) -> None:
    response, backend = await ask(value)
    assert response.status == 200
    assert [dial.host.replace("::ffff:10.1.2.3", "::ffff:a01:203") for dial in backend.dials] == [dialled]
    sent = backend.sent.replace(b"::ffff:10.1.2.3", b"::ffff:a01:203")
    assert b"\r\nHost: %b\r\n" % host.encode() in sent
    assert b"Pod-IP" not in backend.sent


@pytest.mark.parametrize(
    "value",
    [
        "", "box", "10.1.2", "10.1.2.3.4", "10.1.2.256", "010.1.2.3", "10.1.2.3:80", "10.1.2.3/32",
        "0x0a010203", "167838211", "[10.1.2.3]", "[fd00::1", "fd00::1]", "[[fd00::1]]", "fd00::1%eth0",
        "[fe80::1%25eth0]",
        "fe80::1%1", "fd00::1::2", "\uff11\uff10.1.2.3", "10.1.2.3, 10.1.2.4",
    ],
)  # fmt: skip
async def test_what_is_no_address_is_a_400(value: str) -> None:
    backend = MockBackend(OK)
    async with Shim(settings=OPEN, backend=backend) as shim:
        raw = value.encode("utf-8").decode("latin-1")
        response = await shim.request("GET", "/", {**BOX, "X-Sandbox-Pod-IP": raw})
    assert response.error == MALFORMED
    assert backend.dials == []


@pytest.mark.parametrize(
    "value",
    [
        "127.0.0.1", "127.8.8.8", "169.254.169.254", "224.0.0.1", "239.1.1.1", "0.0.0.0", "::1", "::",
        "fe80::1", "ff02::1", "[::1]", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "::ffff:7f00:1",
        "[::ffff:169.254.169.254]",
        "::ffff:0.0.0.0", "::ffff:224.0.0.1", "::127.0.0.1", "::169.254.169.254", "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
    ],
)  # fmt: skip
async def test_addresses_of_the_router_its_node_and_many_are_refused(value: str) -> None:
    response, backend = await ask(value)
    assert response.error == FORBIDDEN
    assert backend.dials == []


@pytest.mark.parametrize("value", ["10.1.2.3", "127.0.0.1", "nonsense", ""])
async def test_an_unconfigured_router_ignores_it_whatever_it_says(value: str) -> None:
    response, backend = await ask(value, SETTINGS)
    assert response.status == 200
    assert [dial.host for dial in backend.dials] == ["box.default.svc.cluster.local"]


async def test_a_token_makes_it_count() -> None:
    backend = MockBackend(OK)
    async with Shim(settings=replace(SETTINGS, auth_token="secret"), backend=backend) as shim:
        fields = {**BOX, "X-Sandbox-Pod-IP": "10.1.2.3", "Authorization": "Bearer secret"}
        assert (await shim.request("GET", "/", fields)).status == 200
    assert [dial.host for dial in backend.dials] == ["10.1.2.3"]


async def test_sandboxes_that_share_an_address_share_no_connection() -> None:
    backend = MockBackend(OK)
    async with Shim(settings=OPEN, backend=backend) as shim:
        for name in ("one", "two", "one", "two"):
            fields = {"X-Sandbox-ID": name, "X-Sandbox-Pod-IP": "10.1.2.3"}
            assert (await shim.request("GET", "/", fields)).status == 200
    assert len(backend.dials) == 2
