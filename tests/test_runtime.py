"""What surrounds the server of a process: the log's form, traces, and what makes a start impossible."""

from __future__ import annotations

import ctypes
import sys
import threading
from unittest import mock

import pytest

from fastrouter import runtime
from fastrouter.settings import Settings
from fastrouter.telemetry.tracing import Tracer
from tests.otlp import receiver
from tests.processes import router_process
from tests.support import eventually

TRACED = b"GET / HTTP/1.1\r\nHost: a\r\nX-Sandbox-ID: a\r\ntraceparent: 00-1\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n"


async def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    runtime.keep_freed_memory()


async def test_traces_without_their_extra_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastrouter.telemetry.tracing", None)
    monkeypatch.setattr(runtime, "raise_file_limit", lambda: 0)
    with pytest.raises(runtime.StartError, match=r"pip install 'fastrouter\[otel\]'"):
        async with runtime.router(Settings(otel_endpoint="http://127.0.0.1:1")):
            pass


@pytest.mark.parametrize("value", ["true", " TRUE "])
async def test_opentelemetrys_own_switch_turns_traces_off(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    monkeypatch.setattr(runtime, "raise_file_limit", lambda: 0)
    async with runtime.router(Settings(otel_endpoint="http://127.0.0.1:1")) as server:
        plan = server.request_heads.get(TRACED)
        assert server.accounts.begin(plan).trace is None
        assert b"\r\ntraceparent: 00-1\r\n" in plan.upstream_head  # the client's own trace passes


async def test_tls_files_that_are_not_there_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "raise_file_limit", lambda: 0)
    with pytest.raises(runtime.StartError, match="cannot use the TLS files"):
        async with runtime.router(Settings(tls_cert_file="nowhere.crt", tls_key_file="nowhere.key")):
            pass


async def test_the_last_spans_are_sent_before_the_end() -> None:
    with receiver() as collector:
        async with router_process(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SERVICE_NAME="mine"
        ) as router:
            client = await router.client()
            await client.send(HEALTH)
            await client.response()
            router.process.terminate()
            await eventually(lambda: router.process.returncode is not None)
            client.close()
        assert router.process.returncode == 0
        assert [span.name for span in collector.spans] == ["GET"]
        assert collector.services == {"mine"}


async def test_a_collector_that_is_gone_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    stuck = mock.Mock(spec=Tracer, close=told.wait)
    monkeypatch.setattr(runtime, "_LAST_SPANS_SECONDS", 0.05)
    await runtime._send_the_last(stuck)
    told.set()


async def test_a_sample_and_a_level_reach_the_log() -> None:
    async with router_process(ACCESS_LOG_SAMPLE="0", LOG_LEVEL="info") as router:
        client = await router.client()
        await client.send(HEALTH + b"nonsense\r\n\r\n")
        await client.response()
        await client.rest()
        client.close()
        router.process.terminate()
        await eventually(lambda: router.process.returncode is not None)
    assert [line["status"] for line in router.lines if "status" in line] == [400]
