"""Readiness of a whole router: what DNS does to it, and what a signal does."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from fastrouter.admin.local import Local
from fastrouter.demo.dns import DnsServer
from fastrouter.server import Server
from fastrouter.settings import Settings
from tests.admin.asking import Answer, ask
from tests.processes import RouterProcess, router_process
from tests.support import LIMIT, Visit, always, eventually, ok, request, stage


def port(router: RouterProcess, name: str) -> tuple[str, int]:
    """Return where a router's admin port is."""
    line = router.line("admin ports")
    assert line is not None
    host, _, number = line[name].rpartition(":")
    return host, int(number)


async def ready(router: RouterProcess) -> Answer:
    return await ask(port(router, "health"), "/readyz")


async def reasons(router: RouterProcess) -> list[str]:
    answer = await ready(router)
    assert answer.status == 503
    told: list[str] = json.loads(answer.body)["reasons"]
    return told


class TestDns:
    async def test_ready_depends_on_what_dns_says_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with stage() as router:
            source = Local(router.server)
            assert await source.unready() == []
            assert router.dns.questions == [("kubernetes.default.svc.cluster.local", "A")]
            router.dns.mode = "servfail"
            monkeypatch.setattr(router.server.resolver, "_probed_until", 0.0)
            (told,) = await source.unready()
            assert told.startswith("DNS does not answer: ")
            router.dns.mode = "answer"
            monkeypatch.setattr(router.server.resolver, "_probed_until", 0.0)
            assert await source.unready() == []

    async def test_a_dns_server_that_comes_back_makes_a_process_ready(self) -> None:
        async with DnsServer({}) as dns:
            dns.mode = "servfail"
            async with router_process(DNS_SERVERS=dns.address) as router:
                (reason,) = await reasons(router)
                assert reason.startswith("DNS does not answer: ")
                assert (await ask(port(router, "health"), "/healthz")).status == 200
                dns.mode = "answer"
                async with asyncio.timeout(LIMIT):
                    while (await ready(router)).status != 200:  # noqa: ASYNC110 - its result is kept for 2 s
                        await asyncio.sleep(0.05)


class TestListening:
    async def test_a_pause_for_want_of_files_is_no_reason(self) -> None:
        async with stage() as router:
            router.server._listeners.pause()
            assert await Local(router.server).unready() == []

    async def test_before_the_start_and_after_the_end_there_is_no_listening(self) -> None:
        server = Server(Settings(host="127.0.0.1", port=0, shutdown_grace=0.0))
        assert await Local(server).unready() == ["not listening"]
        await server.start()
        assert server.listening
        await server.shutdown()
        assert await Local(server).unready() == ["shutting down"]
        assert not server.listening


class TestSignals:
    async def test_after_sigterm_it_serves_on_not_ready_for_the_delay(self) -> None:
        async with (
            DnsServer({"box.default.svc.cluster.local": ["127.0.0.1"]}) as dns,
            stage() as other,
            router_process(DNS_SERVERS=dns.address, SHUTDOWN_DELAY_SECONDS="0.5") as router,
        ):
            sandbox = await other.sandbox(always(ok()))
            kept = await router.client()
            assert (await ready(router)).status == 200
            router.process.send_signal(signal.SIGTERM)
            await eventually(lambda: router.line("shutting down") is not None)
            assert await reasons(router) == ["shutting down"]
            new = await router.client()
            for client in (kept, new):
                await client.send(request(sandbox))
                head, _ = await client.response()
                assert head.startswith(b"HTTP/1.1 200 ")
                assert b"close" not in head.lower()
                client.close()
            assert await asyncio.wait_for(router.process.wait(), LIMIT) == 0

    async def test_a_second_signal_ends_the_delay_at_once(self) -> None:
        async with router_process(SHUTDOWN_DELAY_SECONDS="60") as router:
            router.process.send_signal(signal.SIGTERM)
            await eventually(lambda: router.line("shutting down") is not None)
            router.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(router.process.wait(), LIMIT) == -signal.SIGTERM

    async def test_the_admin_ports_stay_until_the_last_exchange_is_done(self) -> None:
        async with (
            DnsServer({"box.default.svc.cluster.local": ["127.0.0.1"]}) as dns,
            stage() as other,
            router_process(DNS_SERVERS=dns.address) as router,
        ):
            gate = asyncio.Event()

            async def hold(visit: Visit) -> None:
                await visit.head()
                await gate.wait()
                await visit.send(ok())

            sandbox = await other.sandbox(hold)
            client = await router.client()
            await client.send(request(sandbox))
            await eventually(lambda: bool(sandbox.visits))
            router.process.send_signal(signal.SIGTERM)
            await eventually(lambda: router.line("shutting down") is not None)
            assert await reasons(router) == ["shutting down"]
            assert (
                b"sandbox_router_inflight_requests 1" in (await ask(port(router, "metrics"), "/metrics")).body
            )
            gate.set()
            assert (await client.response())[0].startswith(b"HTTP/1.1 200 ")
            client.close()
            assert await asyncio.wait_for(router.process.wait(), LIMIT) == 0


class TestPorts:
    async def test_a_taken_admin_port_is_a_clear_line_and_exit_code_1(self) -> None:
        async with router_process() as first:
            taken = port(first, "metrics")[1]
            async with router_process(METRICS_PORT=str(taken)) as second:
                assert await asyncio.wait_for(second.process.wait(), LIMIT) == 1
                line = second.line("cannot listen on an admin port")
                assert line is not None
                assert f"{taken})" in line["error"]
