"""Workers that die or are replaced while clients never pause."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import time
import urllib.request
from pathlib import Path

import trustme

from tests.adversity.callers import Callers, street
from tests.adversity.test_shutdown import GOODBYE, switch
from tests.fleet import OFF, ended, fleet, gone, started, workers
from tests.processes import RouterProcess, router_process
from tests.support import LIMIT, Client, ScriptedSandbox, Visit, eventually, free_port, request
from tests.test_tunnels import UPGRADE

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n"
LONG = b"/" + b"long" * 2000  # a line of the access log that no pipe takes in one piece


def cut(answers: list[str]) -> list[str]:
    """Return the failures that are no cut connections."""
    return [failure for failure in answers if "Error" not in failure]


class TestKilled:
    async def test_only_its_own_requests_fail_and_another_one_takes_its_place(self) -> None:
        async with street() as boxes, fleet() as router:
            callers = Callers(boxes, lambda: [router.address])
            callers.start(10)
            await callers.warm(100)
            victim = workers(router)[0]
            os.kill(victim, signal.SIGKILL)
            await eventually(lambda: router.line("worker died") is not None)
            await callers.warm(20)  # by then the callers have read what the kernel reset before that line
            failed = len(callers.tally.failures)
            # The other one goes on, with all that comes.
            await callers.warm(100)
            await eventually(lambda: len(started(router)) == 3)
            await callers.warm(200)
            tally = await callers.stop()
            pids = workers(router)
        line = router.line("worker died")
        assert line is not None
        assert (line["ended"], line["pid"], line["again_in"]) == ("SIGKILL", victim, 0.1)
        assert len(pids) == 2
        assert victim not in pids
        # Those that were on its connections; whoever came later found another one.
        assert 0 < len(tally.failures) <= 20
        assert cut(tally.failures) == []
        assert len(tally.failures) == failed

    async def test_who_waits_in_its_queue_is_served_by_the_next_one(self) -> None:
        async with fleet() as router:
            for pid in workers(router):
                os.kill(pid, signal.SIGSTOP)
            clients = [await router.client() for _ in range(20)]  # the kernel alone says yes
            for client in clients:
                await client.send(b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n")
            for pid in workers(router):
                os.kill(pid, signal.SIGKILL)
            for client in clients:
                head, _ = await client.response()
                assert head.startswith(b"HTTP/1.1 200 ")
                client.close()


class TestRolling:
    async def test_sighup_replaces_all_and_no_command_fails(self) -> None:
        async with street() as boxes, fleet() as router:
            before = workers(router)
            callers = Callers(boxes, lambda: [router.address])
            callers.start(10)
            await callers.warm(100)
            router.process.send_signal(signal.SIGHUP)
            await eventually(lambda: router.line("SIGHUP: all workers are replaced") is not None)
            await callers.warm(100)
            tally = await callers.stop()
            after = workers(router)
            router.process.terminate()
            assert await ended(router) == 0
        assert tally.failures == []
        assert tally.turned_away == 0
        assert tally.told_to_leave > 0
        assert len(after) == 2
        assert set(before).isdisjoint(after)
        assert sum(line.get("status") == 200 for line in router.lines) == tally.answered

    async def test_kept_connections_that_are_idle_get_one_more_answer(self) -> None:
        async with fleet() as router:
            clients = [await router.client() for _ in range(12)]
            for client in clients:
                await client.send(HEALTH)
                await client.response()
            router.process.send_signal(signal.SIGHUP)
            await eventually(lambda: len(started(router)) == 3)
            await asyncio.sleep(0.2)  # the old one has been told to go by then: it says so only when it has
            for client in clients:
                await client.send(HEALTH)
                assert (await client.response())[0].startswith(b"HTTP/1.1 200 ")
                client.close()

    async def test_a_tunnel_is_told_to_go_and_an_exchange_is_finished(self) -> None:
        box = ScriptedSandbox(switch)
        await box.start()
        async with fleet() as router:
            tunnels = [await router.client() for _ in range(6)]
            for tunnel in tunnels:
                await tunnel.send(request(box, *UPGRADE))
                assert (await tunnel.head()).startswith(b"HTTP/1.1 101 ")
            router.process.send_signal(signal.SIGHUP)
            for tunnel in tunnels:
                assert await tunnel.rest() == b"\x88\x1d\x03\xe9" + GOODBYE
                tunnel.close()
        await box.close()


class TestAlone:
    async def test_when_the_parent_is_killed_no_worker_stays(self) -> None:
        async with street() as boxes, fleet() as router:
            callers = Callers(boxes, lambda: [router.address], may_be_turned_away=True, may_end=True)
            callers.start(5)
            await callers.warm(50)
            pids = workers(router)
            router.process.kill()
            for pid in pids:
                await gone(pid)
            await eventually(lambda: callers.finished)
            # What they had begun, they finished.
            assert (await callers.stop()).failures == []
        assert len(pids) == 2


async def two_signals_end_all(router: RouterProcess) -> None:
    pids = workers(router)
    router.process.terminate()
    await eventually(lambda: router.line("shutting down") is not None)
    router.process.terminate()
    assert await ended(router) == -signal.SIGTERM
    for pid in pids:
        await gone(pid)


class TestSignals:
    async def test_sigterm_under_load_loses_nothing(self) -> None:
        async with street() as boxes, fleet() as router:
            callers = Callers(boxes, lambda: [router.address], may_be_turned_away=True, may_end=True)
            callers.start(10)
            await callers.warm(100)
            router.process.terminate()
            assert await ended(router) == 0
            await eventually(lambda: callers.finished)
            tally = await callers.stop()
        assert tally.failures == []
        stopped = router.line("stopped")
        assert stopped is not None
        assert stopped["requests"] == tally.answered + tally.turned_away

    async def test_a_second_signal_ends_all_at_once(self) -> None:
        async def silent(visit: Visit) -> None:
            await visit.gone()

        box = ScriptedSandbox(silent)
        await box.start()
        async with fleet() as router:
            client = await router.client()
            await client.send(request(box))
            await eventually(lambda: bool(box.visits))
            await two_signals_end_all(router)
            client.close()
        await box.close()

    async def test_within_the_delay_too(self) -> None:
        async with fleet(SHUTDOWN_DELAY_SECONDS="60") as router:
            await two_signals_end_all(router)

    async def test_sent_to_all_processes_it_is_the_parents(self) -> None:
        """As systemd does: the workers serve on through the delay."""
        async with fleet(SHUTDOWN_DELAY_SECONDS="60") as router:
            for pid in workers(router):
                os.kill(pid, signal.SIGTERM)
            router.process.terminate()
            await eventually(lambda: router.line("shutting down") is not None)
            for _ in range(12):
                client = await router.client()
                await client.send(HEALTH)
                assert (await client.response())[0].startswith(b"HTTP/1.1 200 ")
                client.close()
            router.process.terminate()
            await ended(router)


class TestLines:
    async def test_long_lines_of_two_workers_do_not_tear_even_where_one_is_killed(self) -> None:
        async with fleet() as router:  # its lines are parsed one by one: half a line fails the test
            clients = [await router.client() for _ in range(8)]
            for client in clients:
                client.writer.write(40 * (b"GET " + LONG + b" HTTP/1.1\r\nHost: r\r\n\r\n"))
                await asyncio.sleep(0)
            # Nobody reads for a while, so that all pipes are full and every write is one in pieces.
            time.sleep(0.8)  # noqa: ASYNC251 - on purpose: the reader is a task of this loop
            for client in clients:
                for _ in range(40):
                    await client.response()
            for client in clients:
                client.writer.write(40 * (b"GET " + LONG + b" HTTP/1.1\r\nHost: r\r\n\r\n"))
                await asyncio.sleep(0)
            time.sleep(0.4)  # noqa: ASYNC251
            os.kill(workers(router)[0], signal.SIGKILL)
            await eventually(lambda: len(started(router)) == 3)
            router.process.terminate()
            assert await ended(router) == 0
            for client in clients:
                client.close()
        said = {line["worker"] for line in router.lines if line.get("message") == "worker started"}
        assert said == {0, 1}
        # What the killed one had not written is lost, and the kernel chose how many clients it had.
        assert sum("status" in line for line in router.lines) > 40


class TestMetrics:
    async def test_counters_of_the_dead_and_the_replaced_are_not_lost(self) -> None:
        port = free_port()

        def answered() -> float:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT) as page:
                lines = page.read().decode().splitlines()
            rows = [line for line in lines if line.startswith("sandbox_router_requests_total{")]
            return sum(float(row.rsplit(" ", 1)[1]) for row in rows)

        async with street() as boxes, fleet(METRICS_PORT=str(port)) as router:
            callers = Callers(boxes, lambda: [router.address])
            callers.start(4)
            await callers.warm(50)
            seen = [await asyncio.to_thread(answered)]
            os.kill(workers(router)[0], signal.SIGKILL)
            await eventually(lambda: len(started(router)) == 3)
            seen.append(await asyncio.to_thread(answered))
            router.process.send_signal(signal.SIGHUP)
            while router.line("SIGHUP: all workers are replaced") is None:
                seen.append(await asyncio.to_thread(answered))
            tally = await callers.stop()
            seen.append(await asyncio.to_thread(answered))
            assert seen == sorted(seen)
            # All but what the killed one answered after the first look at it.
            assert seen[0] + 1 < seen[-1] <= tally.answered + len(tally.failures)


class TestTls:
    async def test_https_is_served_by_all_and_replaced_as_well(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_pem.write_to_path(tmp_path / "key")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "chain")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        files = {"TLS_CERT_FILE": str(tmp_path / "chain"), "TLS_KEY_FILE": str(tmp_path / "key")}

        async def ask(port: int) -> None:
            for _ in range(12):
                client = Client(*await asyncio.open_connection("127.0.0.1", port, ssl=context))
                await client.send(HEALTH)
                assert (await client.response())[0].startswith(b"HTTP/1.1 200 ")
                client.close()

        async with fleet(2, HTTPS_PORT="0", **files) as router:
            line = router.line("listening")
            assert line is not None
            await ask(line["settings"]["https_port"])
            router.process.send_signal(signal.SIGHUP)
            await eventually(lambda: router.line("SIGHUP: all workers are replaced") is not None)
            await ask(line["settings"]["https_port"])

    async def test_files_that_are_none_are_exit_code_2_and_no_loop(self, tmp_path: Path) -> None:
        files = {"TLS_CERT_FILE": str(tmp_path / "none"), "TLS_KEY_FILE": str(tmp_path / "none")}
        async with router_process(0, WORKERS="2", HTTPS_PORT="0", **{**OFF, **files}) as router:
            assert await ended(router) == 2
        told = [line["message"] for line in router.lines if line["level"] == "error"]
        assert set(told) == {"cannot start"}
