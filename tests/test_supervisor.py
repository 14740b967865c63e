"""The process: its start line, its limits, its signals and its exit codes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastrouter import __version__, cpus, launch, runtime, supervisor, workers
from fastrouter.demo.dns import DnsServer
from fastrouter.settings import Settings, SettingsError
from fastrouter.telemetry import logs
from tests.processes import RouterProcess, router_process
from tests.support import (
    ScriptedSandbox,
    Visit,
    eventually,
    ok,
    request,
)

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n"


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer({"box.default.svc.cluster.local": ["127.0.0.1"]}) as server:
        yield server


class Slow:
    """A sandbox that answers each request when it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def __call__(self, visit: Visit) -> None:
        while True:
            await visit.head()
            await self.may_answer.wait()
            await visit.send(ok(b"late"))


async def ended(router: RouterProcess) -> int:
    return await asyncio.wait_for(router.process.wait(), 10.0)


async def received(router: RouterProcess) -> None:
    """Wait until the router has taken a signal."""
    await eventually(lambda: router.line("shutting down") is not None)


class TestStart:
    async def test_the_start_line_shows_the_effective_settings(self, dns: DnsServer) -> None:
        async with router_process(
            DNS_SERVERS=dns.address,
            PROXY_TIMEOUT_SECONDS="7.5",
            ACCESS_LOG="false",
            CLUSTER_DOMAIN="corp.test",
        ) as router:
            line = router.line("listening")
            assert line is not None
            assert (line["level"], line["version"]) == ("info", __version__)
            shown = line["settings"]
            assert shown["port"] > 0
            expected = {
                "host": "127.0.0.1",
                "proxy_timeout": 7.5,
                "cluster_domain": "corp.test",
                "dns_servers": [dns.address],
                "access_log": False,
            }
            assert {name: shown[name] for name in expected} == expected
            client = await router.client()
            await client.send(HEALTH)
            await client.response()
            client.close()
            router.process.send_signal(signal.SIGTERM)
            assert await ended(router) == 0
            assert not any("status" in line for line in router.lines)  # the access log is off

    async def test_the_limit_of_open_files_is_raised(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
        try:
            async with router_process() as router:
                assert resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    async def test_a_taken_port_is_exit_code_1_and_one_line(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "fastrouter", "--host", "127.0.0.1", "--port", str(taken.getsockname()[1])),
                env={**os.environ, "HEALTH_PORT": "off", "METRICS_PORT": "off"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            output, errors = await asyncio.wait_for(process.communicate(), 10.0)
        assert process.returncode == 1
        assert b'"message": "cannot listen"' in output
        assert output.count(b"\n") == 1
        assert errors == b""


# Signals itself within its start.
EARLY = """
import os, signal
from fastrouter import cli, runtime
make = runtime.Server
def made(*arguments, **more):
    os.kill(os.getpid(), signal.SIGTERM)
    return make(*arguments, **more)
runtime.Server = made
raise SystemExit(cli.main(["--host", "127.0.0.1", "--port", "0"]))
"""


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_an_idle_router_ends_at_once_with_0(self, number: signal.Signals) -> None:
        async with router_process() as router:
            client = await router.client()
            await client.send(HEALTH)
            await client.response()
            began = time.monotonic()
            router.process.send_signal(number)
            assert await ended(router) == 0
            assert time.monotonic() - began < 3.0
            assert await client.rest() == b""
            client.close()
        line = router.line("shutting down")
        assert line is not None
        assert line["signal"] == number.name
        stopped = router.line("stopped")
        assert stopped is not None
        assert stopped["requests"] == 1
        assert sum("status" in line for line in router.lines) == 1

    async def test_sigterm_under_load_loses_no_request(self, dns: DnsServer) -> None:
        slow = Slow()
        box = ScriptedSandbox(slow)
        await box.start()
        async with router_process(DNS_SERVERS=dns.address) as router:
            busy = [await router.client() for _ in range(50)]
            kept = await router.client()
            await kept.send(HEALTH)
            await kept.response()
            for client in busy:
                await client.send(request(box))
            await eventually(lambda: box.received.count(b"GET ") == 50)
            router.process.send_signal(signal.SIGTERM)
            await received(router)
            await kept.send(request(box))
            assert b"X-Sandbox-Router-Error: shutting_down\r\nConnection: close\r\n" in await kept.rest()
            slow.may_answer.set()
            whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate"
            assert [await client.rest() for client in busy] == [whole] * 50
            assert await ended(router) == 0
            for client in [*busy, kept]:
                client.close()
        assert sum(line.get("status") == 200 for line in router.lines) == 51
        await box.close()

    async def test_the_grace_time_is_a_limit(self, dns: DnsServer) -> None:
        box = ScriptedSandbox(Slow())
        await box.start()
        async with router_process(DNS_SERVERS=dns.address, SHUTDOWN_GRACE_SECONDS="0.5") as router:
            client = await router.client()
            await client.send(request(box))
            await eventually(lambda: bool(box.received))
            router.process.send_signal(signal.SIGTERM)
            assert await ended(router) == 0
            assert await client.rest() == b""
            client.close()
        assert router.line("shutdown: grace time is over") is not None
        await box.close()

    async def test_a_signal_before_the_router_serves_ends_it_as_soon_as_it_does(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", EARLY),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "HEALTH_PORT": "off", "METRICS_PORT": "off"},
        )
        output, _ = await asyncio.wait_for(process.communicate(), 10.0)
        assert process.returncode == 0
        assert [json.loads(line)["message"] for line in output.splitlines()][-2:] == [
            "shutting down",
            "stopped",
        ]

    async def test_a_second_signal_ends_it_at_once(self, dns: DnsServer) -> None:
        box = ScriptedSandbox(Slow())
        await box.start()
        async with router_process(DNS_SERVERS=dns.address) as router:
            client = await router.client()
            await client.send(request(box))
            await eventually(lambda: bool(box.received))
            router.process.send_signal(signal.SIGTERM)
            await received(router)
            router.process.send_signal(signal.SIGTERM)
            assert await ended(router) == -signal.SIGTERM
            client.close()
        await box.close()


class TestHangup:
    async def test_one_worker_says_that_there_is_nothing_to_replace_and_serves_on(self) -> None:
        async with router_process(HEALTH_PORT="off", METRICS_PORT="off") as router:
            router.process.send_signal(signal.SIGHUP)
            await eventually(lambda: any("SIGHUP" in line.get("message", "") for line in router.lines))
            client = await router.client()
            await client.send(HEALTH)
            assert (await client.response())[0].startswith(b"HTTP/1.1 200 ")
            client.close()
            router.process.terminate()
            assert await ended(router) == 0


class TestWorkers:
    async def test_auto_with_one_cpu_is_the_single_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        single: list[Settings] = []

        def note(settings: Settings) -> None:
            single.append(settings)
            raise runtime.StartError

        monkeypatch.setattr(cpus, "allowed", lambda: 1)
        monkeypatch.setattr(runtime, "router", note)
        assert await supervisor.serve(Settings(workers=0)) == 2
        assert len(single) == 1

    async def test_auto_with_more_is_one_worker_for_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        counts: list[int] = []

        async def note(_: Settings, count: int, *_more: object) -> int:
            counts.append(count)
            return 0

        monkeypatch.setattr(cpus, "allowed", lambda: 3)
        monkeypatch.setattr(supervisor, "_serve_fleet", note)
        assert await supervisor.serve(Settings(workers=0)) == 0
        assert counts == [3]

    async def test_a_taken_port_is_exit_code_1_and_one_line(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "fastrouter", "--host", "127.0.0.1", "--port", str(taken.getsockname()[1])),
                env={**os.environ, "WORKERS": "2", "HEALTH_PORT": "off", "METRICS_PORT": "off"},
                stdout=asyncio.subprocess.PIPE,
            )
            output, _ = await asyncio.wait_for(process.communicate(), 10.0)
        assert process.returncode == 1
        assert b'"message": "cannot listen"' in output
        assert output.count(b"\n") == 1

    async def test_a_worker_that_cannot_be_started_is_exit_code_1_and_leaves_none_behind(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        begun: list[launch.Worker] = []

        async def once(*args: Any) -> launch.Worker:
            if begun:
                raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
            begun.append(await launch.launch(*args))
            return begun[0]

        monkeypatch.setattr(workers, "launch", once)
        monkeypatch.setattr(logs, "send_through", lambda *_, **__: None)
        monkeypatch.setattr(logs, "set_up", lambda *_, **__: None)
        settings = Settings(host="127.0.0.1", port=0, workers=2, health_port=None, metrics_port=None)
        assert await supervisor.serve(settings) == 1
        assert begun[0].code is not None
        assert [record.message for record in caplog.records] == ["cannot start a worker"]

    async def test_settings_are_read_again_and_invalid_ones_change_nothing(self) -> None:
        asked = asyncio.Event()
        rolled: list[Settings] = []
        answers: list[Settings | Exception] = [SettingsError("PORT: no"), OSError("gone"), Settings(port=7)]

        class Rolls:
            async def roll(self, settings: Settings) -> bool:
                rolled.append(settings)
                return True

        def reload() -> Settings:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        renewing = asyncio.create_task(supervisor._renew(Rolls(), asked, reload))  # type: ignore[arg-type]
        for left in (2, 1, 0):
            asked.set()
            await eventually(lambda left=left: len(answers) == left)  # type: ignore[misc]
        await eventually(lambda: rolled == [Settings(port=7)])
        renewing.cancel()

    @pytest.mark.parametrize("error", [OSError("no file left"), RuntimeError("can't start new thread")])
    async def test_a_restart_that_the_machine_refuses_is_told_and_the_next_one_is_tried(
        self, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        asked = asyncio.Event()
        outcomes: list[Exception | None] = [error, None]

        class Rolls:
            async def roll(self, _: Settings) -> bool:
                outcome = outcomes.pop(0)
                if outcome is not None:
                    raise outcome
                return True

        renewing = asyncio.create_task(supervisor._renew(Rolls(), asked, Settings))  # type: ignore[arg-type]
        for left in (1, 0):
            asked.set()
            await eventually(lambda left=left: len(outcomes) == left or renewing.done())  # type: ignore[misc]
        assert outcomes == []
        (line,) = [record for record in caplog.records if "cannot replace" in record.message]
        assert vars(line)["error"] == str(error)
        renewing.cancel()
