"""What the stage is made of: nginx, DNS, child processes."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import dns, machine, nginx, sandbox
from bench.processes import Child, StageError, core_busy_seconds, on_core, tree
from bench.scenarios import MEGABYTE
from bench.serving import parse_address
from bench.stage import Cores, Stage
from tests.bench.talking import LIMIT


def test_nginx_is_configured_to_give_the_same_answer(tmp_path: Path) -> None:
    command = nginx.command("nginx", tmp_path, 12345, 1000)
    text = (tmp_path / "nginx.conf").read_text()
    assert command == ["nginx", "-c", str(tmp_path / "nginx.conf")]
    # nginx reads escapes within quotes; the answer has the sandbox's own, test_load compares lengths.
    assert sandbox.BODY.count(b"\\") == 1
    assert "one line of output\\\\n" in text
    assert "listen 0.0.0.0:12345 " in text
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(nginx.find() is None, reason="nginx is not installed")
def test_both_sandboxes_give_the_same_answer() -> None:
    with ExitStack() as stack:
        stage = Stage(stack, Cores(None, None), "nginx")
        assert stage.sandbox.startswith("nginx")
        ports = (stage.small_sandbox(stack), stage.small_sandbox(stack), stage.own_port)
        assert len(set(ports)) == 3
        for port in ports:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
            connection.request("POST", "/execute", b"{}")
            assert connection.getresponse().read() == sandbox.BODY
            connection.close()


def test_every_sandbox_has_a_loopback_address_of_its_own() -> None:
    addresses = {dns.sandbox_address(number) for number in range(10_000)}
    assert len(addresses) == 10_000
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


def test_use_of_a_child_includes_the_processes_below_it() -> None:
    inner = "import time; print('up', flush=True); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with Child("outer", [sys.executable, "-c", outer], core=None) as child:
        child.wait_until(lambda: b"up" in child.output.start)
        numbers = tree(child.popen.pid)
        assert len(numbers) == 2
        assert child.open_files() >= 2 * 3
        memory = int(Path(f"/proc/{child.popen.pid}/statm").read_text().split()[1])
        assert child.resident_bytes() > memory * os.sysconf("SC_PAGE_SIZE")
        # The inner one holds the pipe open, and its parent ends with it.
        os.kill(numbers[1], signal.SIGTERM)
        child.popen.wait(LIMIT)


def test_stderr_of_a_child_is_kept_when_asked_for() -> None:
    script = "import sys; print('why', file=sys.stderr); sys.exit(3)"
    with Child("failing", [sys.executable, "-c", script], core=None, merged=True) as child:
        child.popen.wait(LIMIT)
        with pytest.raises(StageError, match="failing ended with exit code 3"):
            child.check()
    assert child.output.start == b"why\n"


def test_versions_come_without_paths() -> None:
    assert machine.without_paths("/opt/bin/envoy  version: 1.2/Clean\nmore") == "version: 1.2/Clean"
    assert machine.without_paths("") == "unknown"
    facts = machine.describe({"python": sys.executable, "none": None})
    assert facts["programs"] == {}
    assert "uvloop" in str(facts["packages"])


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
