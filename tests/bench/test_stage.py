"""What the stage is made of: nginx, DNS, child processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench import dns, nginx, sandbox
from bench.processes import Child, core_busy_seconds, on_core
from bench.scenarios import MEGABYTE
from bench.serving import parse_address
from tests.bench.talking import LIMIT


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
        assert child.popen.wait(LIMIT) == 0
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
