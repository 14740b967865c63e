"""The benchmark measures what it says: its servers, its load generators, its arithmetic, and a tiny whole run."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench import dns, load, nginx, relay, report, sandbox
from bench.processes import Child, core_busy_seconds, on_core
from bench.scenarios import MEGABYTE, NONCE, SCENARIOS, Scenario, pack, requests, unpack
from bench.serving import Address, bound_address, parse_address
from bench.stage import RELAY, ROUTER

ROOT = Path(__file__).parent.parent.parent
SERVER = 5.0
LONG = bytes(range(256)) * 16 * 1024  # 4 MB

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def through_relay(handler: Handler, conversation: Conversation) -> None:
    """Hold a conversation through a relay on uvloop, as it runs in the benchmark."""

    async def go() -> None:
        upstream = await asyncio.start_server(handler, "127.0.0.1", 0)
        server = await relay.start(("127.0.0.1", 0), bound_address(upstream))
        await _converse(bound_address(server), conversation)
        server.close()
        upstream.close()

    uvloop.run(go())


def with_sandbox(conversation: Conversation) -> None:
    async def go() -> None:
        server = await sandbox.start(("127.0.0.1", 0))
        await _converse(bound_address(server), conversation)
        server.close()

    uvloop.run(go())


async def _converse(address: Address, conversation: Conversation) -> None:
    async with asyncio.timeout(SERVER):
        reader, writer = await asyncio.open_connection(*address)
        try:
            await conversation(reader, writer)
        finally:
            writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    found = sandbox.LENGTH.search(head)
    assert found
    return head, await reader.readexactly(int(found[1]))


# --- relay ---------------------------------------------------------------------------------------------


def test_relay_moves_every_byte_both_ways_and_passes_the_half_close_on() -> None:
    async def echo_until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"the end")
        writer.close()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(LONG)
        writer.write_eof()
        assert await reader.read(-1) == LONG + b"the end"

    through_relay(echo_until_end, converse)


def test_relay_passes_bytes_on_that_arrive_before_the_upstream_is_there() -> None:
    async def say_first_byte(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1))
        writer.close()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        assert await reader.read(-1) == b"x"

    for _ in range(20):
        through_relay(say_first_byte, converse)


def test_relay_stops_reading_while_the_other_side_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[relay.Side] = []
    pause = relay.Side.pause_writing

    def record(side: relay.Side) -> None:
        paused.append(side)
        pause(side)
        full.set()

    async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(str(len(await reader.read(-1))).encode())
        writer.close()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(LONG * 8)
        writer.write_eof()
        await full.wait()
        side = paused[0]
        assert side.peer is not None
        assert not side.peer.transport.is_reading()
        assert side.transport.get_write_buffer_size() < MEGABYTE
        go_on.set()
        assert await reader.read(-1) == str(len(LONG * 8)).encode()

    monkeypatch.setattr(relay.Side, "pause_writing", record)
    full, go_on = asyncio.Event(), asyncio.Event()
    through_relay(read_late, converse)


def test_relay_closes_the_upstream_when_the_client_is_gone() -> None:
    gone = asyncio.Event()

    async def wait_for_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        assert await reader.read(-1) == b""
        gone.set()
        writer.close()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await gone.wait()

    through_relay(wait_for_the_end, converse)


def test_relay_drops_the_client_when_nothing_listens_upstream() -> None:
    async def go() -> None:
        with socket.socket() as bound_only:
            bound_only.bind(("127.0.0.1", 0))
            server = await relay.start(("127.0.0.1", 0), bound_only.getsockname())
            await _converse(bound_address(server), converse)
            server.close()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)

    uvloop.run(go())


# --- sandbox -------------------------------------------------------------------------------------------

EXECUTE = b'POST /execute HTTP/1.1\r\nHost: s\r\nContent-Length: 11\r\n\r\n{"a": "bc"}'
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: s\r\ncontent-length: %d\r\n\r\n"


def test_sandbox_answers_as_uvicorn_would() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EXECUTE)
        head, body = await read_answer(reader)
        assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
        assert b"\r\nserver: uvicorn\r\n" in head
        assert json.loads(body)["exit_code"] == 0
        assert 140 <= len(body) <= 170

    with_sandbox(converse)


def test_sandbox_answers_pipelined_requests_in_order() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EXECUTE + UPLOAD % 3 + b"abc" + b"GET /big?bytes=5 HTTP/1.1\r\n\r\n" + EXECUTE)
        bodies = [(await read_answer(reader))[1] for _ in range(4)]
        assert bodies == [sandbox.BODY, b'{"received":3}', bytes(range(5)), sandbox.BODY]

    with_sandbox(converse)


def test_sandbox_reads_requests_that_arrive_byte_by_byte() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for number in range(len(EXECUTE) * 2):
            writer.write((EXECUTE * 2)[number : number + 1])
            await writer.drain()
        assert [(await read_answer(reader))[1] for _ in range(2)] == [sandbox.BODY] * 2

    with_sandbox(converse)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 16 * 1024, 3 * MEGABYTE + 1])
def test_sandbox_skips_upload_bodies_by_count(size: int) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The body looks like requests: only the count says that it is none.
        body = (EXECUTE * (size // len(EXECUTE) + 1))[:size]
        for _ in range(3):
            writer.write(UPLOAD % size + body + EXECUTE)
            assert (await read_answer(reader))[1] == b'{"received":%d}' % size
            assert (await read_answer(reader))[1] == sandbox.BODY

    with_sandbox(converse)


def test_sandbox_holds_a_download_back_while_the_client_does_not_read() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /big?bytes=50000000 HTTP/1.1\r\n\r\n" + EXECUTE)
        await reader.readuntil(b"\r\n\r\n")
        pattern, seen = bytes(range(256)) * 256, 0
        while seen < 50_000_000:
            piece = await reader.readexactly(min(len(pattern), 50_000_000 - seen))
            assert piece == pattern[: len(piece)]
            seen += len(piece)
        assert (await read_answer(reader))[1] == sandbox.BODY

    with_sandbox(converse)


def test_sandbox_stops_sending_above_the_high_water_mark() -> None:
    class Full(asyncio.Transport):
        written = 0

        def write(self, data: Any) -> None:
            self.written += len(data)
            if self.written > sandbox.HIGH_WATER:
                responder.pause_writing()

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            assert high == sandbox.HIGH_WATER

    responder, transport = sandbox.Responder(sandbox.Replies()), Full()
    responder.connection_made(transport)
    request = b"GET /big?bytes=50000000 HTTP/1.1\r\n\r\n"
    responder.get_buffer(-1)[: len(request)] = request
    responder.buffer_updated(len(request))
    assert transport.written < 2 * sandbox.HIGH_WATER


def test_sandbox_answers_404_to_anything_else() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /nothing HTTP/1.1\r\n\r\n")
        assert (await read_answer(reader))[0].startswith(b"HTTP/1.1 404 ")

    with_sandbox(converse)


def test_nginx_is_configured_to_give_the_same_answer(tmp_path: Path) -> None:
    command = nginx.command("nginx", tmp_path, 12345, 1000)
    text = (tmp_path / "nginx.conf").read_text()
    assert command == ["nginx", "-c", str(tmp_path / "nginx.conf")]
    assert f"return 200 '{sandbox.BODY.decode()}';" in text
    assert "listen 0.0.0.0:12345 " in text
    assert text.count("{") == text.count("}")


def test_every_sandbox_has_a_loopback_address_of_its_own() -> None:
    addresses = {dns.sandbox_address(number) for number in range(1000)}
    assert len(addresses) == 1000
    assert dns.zone("sandbox-999.default.svc.cluster.local.") == ["127.1.3.250"]
    assert dns.zone("sandbox-0.default.svc.cluster.local") == ["127.1.0.1"]
    assert dns.zone("other.default.svc.cluster.local") is None
    assert dns.zone("sandbox-99999.default.svc.cluster.local") is None


# --- scenarios and load --------------------------------------------------------------------------------


def test_requests_carry_what_an_sdk_sends_and_say_their_length() -> None:
    for scenario in SCENARIOS:
        messages = requests(scenario, 8888)
        assert len(set(messages)) == scenario.sandboxes
        head, _, body = messages[-1].partition(b"\r\n\r\n")
        assert f"\r\nX-Sandbox-ID: sandbox-{scenario.sandboxes - 1}\r\n".encode() in head
        assert b"\r\nX-Sandbox-Port: 8888" in head
        found = sandbox.LENGTH.search(head + b"\r\n")
        assert len(body) == (int(found[1]) if found else 0)
        assert (NONCE in head) == scenario.nonce


def test_request_file_gives_back_what_was_packed() -> None:
    messages = [b"", b"one\n2\n", bytes(range(256))]
    assert unpack(pack(messages)) == messages


def test_every_head_gets_a_nonce_of_its_own_in_the_same_length() -> None:
    fresh = next(scenario for scenario in SCENARIOS if scenario.nonce)
    templates = requests(replace(fresh, sandboxes=3), 8888)
    sent = list(islice(load.message_stream(templates), 100))
    assert len(set(sent)) == 100
    assert {len(message) for message in sent} == {len(templates[0])}
    assert not any(NONCE in message for message in sent)


def test_percentiles() -> None:
    values = [float(number) for number in range(100)]
    assert load.percentile(values, 50) == 50
    assert load.percentile(values, 99) == 99
    assert load.percentile([7.0], 99) == 7
    assert load.percentile([], 99) == 0


@contextmanager
def running(module: str, *arguments: str) -> Iterator[tuple[Child, Address]]:
    with Child(module, [sys.executable, "-m", module, *arguments], core=None) as child:
        yield child, child.listening_on()


def drive_own(address: Address, messages: list[bytes], tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "requests"
    path.write_bytes(pack(messages))
    command = [sys.executable, "-m", "bench.load", "--target", "{}:{}".format(*address)]
    command += ["--requests", str(path), "--connections", "8", "--seconds", "0.3"]
    return _json_of(command)


def drive_wrk(address: Address, messages: list[bytes], tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "requests"
    path.write_bytes(pack(messages))
    script = str(ROOT / "bench" / "load.lua")
    command = ["wrk", "-t1", "-c8", "-d1s", "-s", script, "http://{}:{}/".format(*address), "--", str(path)]
    return _json_of(command)


def _json_of(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=30, check=True)  # noqa: S603
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


GENERATORS = [drive_own, drive_wrk] if shutil.which("wrk") else [drive_own]


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_load_generators_count_what_the_sandbox_answered(
    generator: Callable[[Address, list[bytes], Path], dict[str, Any]], scenario: Scenario, tmp_path: Path
) -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result = generator(address, requests(scenario, address[1]), tmp_path)
    assert set(result) == {"requests", "bytes", "seconds", "p50_us", "p99_us", "errors"}
    assert result["errors"] == {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}
    assert result["requests"] > 10
    assert result["bytes"] >= result["requests"] * (scenario.download or 100)
    assert 0.2 < result["seconds"] < 3
    assert 0 < result["p50_us"] <= result["p99_us"]


@pytest.mark.parametrize("generator", GENERATORS)
def test_load_generators_count_refusing_answers_as_errors(
    generator: Callable[[Address, list[bytes], Path], dict[str, Any]], tmp_path: Path
) -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result = generator(address, [b"GET /nothing HTTP/1.1\r\nHost: s\r\n\r\n"], tmp_path)
    assert result["errors"]["status"] == result["requests"] > 0


def test_own_generator_counts_answers_of_the_wrong_length() -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result: dict[str, Any] = load.drive(load.Plan(address, [EXECUTE], 2, 0.2, body=MEGABYTE))
    assert result["requests"] == 0
    assert result["errors"]["read"] >= 2


def test_own_generator_counts_refused_connections() -> None:
    with socket.socket() as bound_only:
        bound_only.bind(("127.0.0.1", 0))
        result: dict[str, Any] = load.drive(load.Plan(bound_only.getsockname(), [EXECUTE], 2, 0.2))
    assert result["errors"]["connect"] >= 2


# --- processes -----------------------------------------------------------------------------------------


def test_a_child_tells_its_address_its_use_and_ends_with_the_block() -> None:
    core = min(os.sched_getaffinity(0))
    before = core_busy_seconds(core)
    command = [sys.executable, "-m", "bench.sandbox", "--listen", "127.0.0.1:0"]
    with Child("sandbox", command, core=core) as child:
        assert child.listening_on()[1] > 0
        assert os.sched_getaffinity(child.popen.pid) == {core}
        assert child.cpu_seconds() > 0
        assert child.resident_bytes() > MEGABYTE
        assert child.open_files() >= 3
    assert child.popen.returncode == 0
    assert core_busy_seconds(core) >= before


def test_output_of_a_child_is_drained_and_counted() -> None:
    script = "for number in range(100_000): print('a line of an access log', number)"
    with Child("talker", [sys.executable, "-c", script], core=None) as child:
        assert child.popen.wait(SERVER) == 0
    assert child.output.lines == 100_000
    assert child.output.start.startswith(b"a line of an access log 0\n")


def test_pinning_is_taken_back() -> None:
    before = os.sched_getaffinity(0)
    with on_core(max(before)):
        assert os.sched_getaffinity(0) == {max(before)}
    assert os.sched_getaffinity(0) == before


def test_addresses() -> None:
    assert parse_address("127.0.0.1:80") == ("127.0.0.1", 80)
    for text in ("127.0.0.1", ":80", "host:", "host:8x"):
        with pytest.raises(ValueError, match="not HOST:PORT"):
            parse_address(text)


# --- report --------------------------------------------------------------------------------------------


def one_round(contender: str, number: int, requests: int, **changes: Any) -> report.Round:
    errors = {"connect": 0, "status": 0}
    sample = report.Round("one", contender, number, requests, 0, 1.0, 500, 900, errors, 10, 0.99, 0.0, 1, 64)
    return replace(sample, **changes)


def one_row(relay_rates: list[int], router_rates: list[int], **changes: Any) -> report.Row:
    rounds = [one_round(RELAY, number, rate) for number, rate in enumerate(relay_rates, 1)]
    rounds += [one_round(ROUTER, number, rate, **changes) for number, rate in enumerate(router_rates, 1)]
    return report.Row.of(SCENARIOS[0], rounds)


def test_ratio_is_that_of_the_medians() -> None:
    row = one_row([100, 1000, 90], [10, 60, 70])
    assert row.ratio == 0.6
    assert row.holds is True
    assert one_row([100], [49]).holds is False
    assert one_row([100], []).holds is None


def test_spread_is_in_parts_of_the_median() -> None:
    assert report.spread([90, 100, 120]) == 0.3
    assert report.spread([5]) == 0
    assert report.spread([]) is None
    assert report.spread([0, 0]) is None


def test_bulk_counts_body_bytes_per_second() -> None:
    bulk = next(scenario for scenario in SCENARIOS if scenario.download)
    assert report.rate(one_round(RELAY, 1, 100, seconds=2.0), bulk) == pytest.approx(52.4288)


def test_table_shows_both_contenders_in_aligned_columns() -> None:
    text = report.table([one_row([88_000, 90_000, 92_000], [45_000, 45_000, 54_000]), one_row([100], [])])
    heading, rule, first, second = text.splitlines()
    assert len(rule) == len(heading) == len(first) == len(second)
    assert first.split() == [
        *("one", "sandbox", "req/s", "90,000", "45,000", "0.50", "0.50", "yes"),
        *("0.50", "/", "0.50", "0.90", "/", "0.90", "10.0", "/", "10.0", "4%", "/", "20%"),
    ]
    assert "-" in second.split()


def test_remarks_name_failures_idle_cores_and_disturbance() -> None:
    assert report.remarks([one_row([100, 100], [50, 50])]) == []
    failed = one_row([100], [50], errors={"connect": 0, "status": 3})
    assert "router: FAILED in round 1: 50 answers, errors" in report.remarks([failed])[0]
    idle = one_row([100], [50, 50], core_share=0.8)
    assert "used only 80% of its core in 2 of 2 rounds" in report.remarks([idle])[0]
    disturbed = one_row([100], [50], core_share=0.8, others_share=0.2)
    assert [line.partition(":")[2] for line in report.remarks([disturbed])] == [
        " other processes took up to 20% of its core in 1 of 1 rounds: measure on a quiet machine"
    ]


def test_a_round_without_any_answer_has_failed() -> None:
    assert one_round(ROUTER, 1, 0).failed
    assert not one_round(ROUTER, 1, 1).failed


# --- the whole run -------------------------------------------------------------------------------------


def bench_command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "bench", "--rounds", "1", "--out", str(out), *more]


@pytest.mark.parametrize("only", [["--only", RELAY], []], ids=["relay only", "relay and router"])
def test_a_tiny_run_prints_the_table_and_keeps_the_numbers(tmp_path: Path, only: list[str]) -> None:
    more = ["--seconds", "0.3", "--connections", "8", "--generator", "own", *only]
    done = subprocess.run(  # noqa: S603
        bench_command(tmp_path, *more), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for scenario in SCENARIOS:
        assert f"\n{scenario.title} " in done.stdout
    [path] = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    contenders = {RELAY} if only else {RELAY, ROUTER}
    assert {(one["scenario"], one["contender"]) for one in kept["rounds"]} == {
        (scenario.name, contender) for scenario in SCENARIOS for contender in contenders
    }
    assert kept["machine"]["packages"]["uvloop"]
    if not only:
        assert "router after 1,000 sandboxes: " in done.stdout
        assert "router access log: on, " in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_every_child(tmp_path: Path, number: signal.Signals) -> None:
    command = bench_command(tmp_path, "--only", RELAY, "--seconds", "30", "--generator", "own")
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as runner:  # noqa: S603
        assert runner.stderr
        assert "measuring" in runner.stderr.readline()
        children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
        runner.send_signal(number)
        assert runner.wait(20) == 128 + number
    assert len(children) >= 2
    assert not any(Path("/proc", child).exists() for child in children)
