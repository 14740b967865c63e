"""The admin ports as the settings have them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fastrouter.admin.serving import serving
from fastrouter.settings import Settings
from tests.admin.asking import Told, ask
from tests.support import free_port

SETTINGS = Settings(host="127.0.0.1", health_port=0, metrics_port=0)
HEALTH = ("/healthz", "/readyz", "/", "/status.json")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def refuses(address: tuple[str, int]) -> bool:
    with socket.socket() as client:
        return client.connect_ex(address) != 0


async def test_each_port_has_its_own_pages() -> None:
    async with serving(SETTINGS, Told()) as servers:
        health, metrics = servers["health"].address, servers["metrics"].address
        assert health != metrics
        assert [(await ask(health, path)).status for path in HEALTH] == [200] * 4
        assert (await ask(health, "/metrics")).status == 404
        assert (await ask(metrics, "/metrics")).status == 200
        assert [(await ask(metrics, path)).status for path in HEALTH] == [404] * 4
    assert refuses(health)
    assert refuses(metrics)


async def test_one_number_for_both_is_one_port_with_all_pages() -> None:
    port = free_port()
    async with serving(replace(SETTINGS, health_port=port, metrics_port=port), Told()) as servers:
        assert servers["health"] is servers["metrics"]
        for path in (*HEALTH, "/metrics"):
            assert (await ask(("127.0.0.1", port), path)).status == 200


async def test_the_log_tells_the_addresses(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(replace(SETTINGS, host="::1"), Told()) as servers:
        (record,) = caplog.records
    assert record.message == "admin ports"
    for name, server in servers.items():
        assert server.address[0] == "::1"
        assert getattr(record, name).startswith("[::1]:")
        assert not getattr(record, name).endswith(":0")


async def test_a_port_that_is_off_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(replace(SETTINGS, health_port=None, metrics_port=None), Told()) as servers:
        assert servers == {}
    assert caplog.records == []
    async with serving(replace(SETTINGS, health_port=None), Told()) as servers:
        assert list(servers) == ["metrics"]
    async with serving(replace(SETTINGS, metrics_port=None), Told()) as servers:
        assert list(servers) == ["health"]


async def test_a_taken_port_is_an_error_and_leaves_nothing_open(taken: int) -> None:
    port = free_port()
    with pytest.raises(OSError, match=f"{taken}.*in use"):
        async with serving(replace(SETTINGS, health_port=port, metrics_port=taken), Told()):
            pytest.fail("served")
    assert refuses(("127.0.0.1", port))


async def test_what_happens_inside_closes_them() -> None:
    async def fail(address: list[tuple[str, int]]) -> None:
        async with serving(SETTINGS, Told()) as servers:
            address.append(servers["health"].address)
            raise ValueError("inside")

    addresses: list[tuple[str, int]] = []
    with pytest.raises(ValueError, match="inside"):
        await fail(addresses)
    assert refuses(addresses[0])
