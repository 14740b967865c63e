"""`python -m fastrouter` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import fastrouter
from fastrouter.settings import UNCONFIGURED

LIMIT = 30.0


def environment(**changes: str) -> dict[str, str]:
    ports = {"HEALTH_PORT": "off", "METRICS_PORT": "off"}
    return {**os.environ, **ports, "PYTHONUNBUFFERED": "1", **changes}


def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "fastrouter", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env=environment(**changes),
    )


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start a router on a free loopback port; give the process and its line of settings."""
    command = [sys.executable, "-m", "fastrouter", *arguments, "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def exchange(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as client:
        client.sendall(request)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        return answer


def test_the_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"fastrouter {fastrouter.__version__}\n")


def test_a_bad_flag_and_a_bad_value_are_exit_code_2() -> None:
    assert run("--bogus").returncode == 2
    done = run(ACCESS_LOG="perhaps")
    assert done.returncode == 2
    assert "ACCESS_LOG: invalid value 'perhaps'" in done.stderr


def test_an_address_that_is_taken_is_exit_code_1() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("--host", "127.0.0.1", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert json.loads(done.stdout)["message"] == "cannot listen"


@pytest.mark.parametrize("arguments", [(), ("serve",)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_and_ends_with_0(arguments: tuple[str, ...], number: signal.Signals) -> None:
    with serving(*arguments) as (process, line):
        assert (line["level"], line["message"]) == ("info", "listening")
        assert process.stdout is not None
        warning = json.loads(process.stdout.readline())
        assert (warning["level"], warning["message"]) == ("warning", UNCONFIGURED)
        assert line["settings"]["proxy_timeout"] == 180.0
        answer = exchange(
            line["settings"]["port"], b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'{"status":"ok"}')
        process.send_signal(number)
        rest, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0
    lines = [json.loads(text) for text in rest.splitlines()]
    assert [each["message"] for each in lines if "message" in each] == ["shutting down", "stopped"]
    (access,) = [each for each in lines if "path" in each]
    assert (access["method"], access["path"], access["status"]) == ("GET", "/healthz", 200)
