"""X-Sandbox-Timeout: the client's own limit on silence."""

from __future__ import annotations

import logging
import time

import pytest

from tests.shim import BOX, OK, SETTINGS, MockBackend, Shim
from tests.support import Visit, request, stage


@pytest.mark.parametrize(
    ("value", "connect"),
    [("59.999", 5.0), ("5.", 5.0), ("2", 2.0), (".5", 0.5), ("0.25", 0.25), ("9999", 5.0)],
)
async def test_a_connect_takes_the_clients_timeout_and_at_most_five_seconds(
    value: str, connect: float
) -> None:
    backend = MockBackend(OK)
    async with Shim(settings=SETTINGS, backend=backend) as shim:
        assert (await shim.request("GET", "/", {**BOX, "X-Sandbox-Timeout": value})).status == 200
    assert [dial.timeout for dial in backend.dials] == [connect]
    assert b"Timeout" not in backend.sent


@pytest.mark.parametrize(
    "value", ["", "0", "0.0", "-1", "+1", "1e3", "inf", "nan", "1s", "1 2", "." * 3, "9" * 400]
)
async def test_what_is_no_time_is_the_default_and_one_warning(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = MockBackend(OK)
    with caplog.at_level(logging.WARNING):
        async with Shim(settings=SETTINGS, backend=backend) as shim:
            assert (await shim.request("GET", "/", {**BOX, "X-Sandbox-Timeout": value})).status == 200
    assert [dial.timeout for dial in backend.dials] == [5.0]
    assert len([record for record in caplog.records if "X-Sandbox-Timeout" in record.message]) == 1


async def silent(visit: Visit) -> None:
    await visit.head()
    await visit.gone()


@pytest.mark.parametrize(("value", "longest"), [(b"0.5", 180.0), (b"100", 0.5)])
async def test_it_limits_silence_and_is_itself_limited(value: bytes, longest: float) -> None:
    async with stage(proxy_timeout=longest) as router:
        client = await router.client()
        began = time.monotonic()
        await client.send(request(await router.sandbox(silent), b"X-Sandbox-Timeout: " + value))
        assert (await client.error())[::2] == (504, "upstream_timeout")
        assert 0.5 <= time.monotonic() - began < 1.6


async def test_it_holds_for_its_own_request_only() -> None:
    async def slow_then_silent(visit: Visit) -> None:
        await visit.head()
        await visit.send(OK)
        await visit.gone()

    async with stage(proxy_timeout=1.0) as router:
        box = await router.sandbox(slow_then_silent)
        client = await router.client()
        await client.send(request(box, b"X-Sandbox-Timeout: 0.1"))
        assert (await client.response())[1] == b"ok"
        began = time.monotonic()
        await client.send(request(box))
        assert (await client.error())[0] == 504
        assert time.monotonic() - began >= 1.0
