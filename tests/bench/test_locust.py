"""Agents: what they are told, and real runs of locust against a demo that is a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from email.parser import BytesParser
from pathlib import Path

import pytest

from bench import agents, locust_run
from bench.processes import free_port
from fastrouter.demo.files import multipart_file
from tests.bench.talking import ROOT

BRISK = {
    "MIX": "execute=4,upload=2,download=2,list=2,exists=2,stream=1,think=1",
    "THINK_SECONDS": "0.02",
    "SESSION_TASKS": "5",
    "STREAM_PATH": "/clock?interval=0.001&count=3",
}
CALLS = {"session", "execute", "upload", "download", "list", "exists", "stream", "stream: first event"}


@pytest.fixture(scope="module")
def demo() -> Iterator[dict[str, str]]:
    # Without retries: that a name does not exist is to show at once.
    with locust_run.demo(3, {**os.environ, "DIAL_RETRY_SECONDS": "0"}) as variables:
        yield variables


def locust(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **BRISK, "SANDBOXES": "3", "ENOUGH": "session=1", **variables}
    command = [sys.executable, "-m", "locust", "-f", "tests/bench/enough.py", "--headless", "--only-summary"]
    return subprocess.run(  # noqa: S603
        [*command, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


FIVE = ("-u", "5", "-r", "5", "-t", "25s")
EVERY_CALL = ",".join(f"{name}={6 if name == 'session' else 1}" for name in sorted(CALLS))


def good_run(where: Path, variables: dict[str, str], *more: str) -> dict[str, int]:
    """Run five agents until they have done enough, none of which may fail; return the requests by call."""
    report = where / "report"
    done = locust(variables, *FIVE, "--json-file", str(report), *more)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = json.loads(report.with_suffix(".json").read_text())
    assert not any(call["num_failures"] for call in calls)
    return {call["name"]: call["num_requests"] for call in calls}


def bad_run(variables: dict[str, str]) -> str:
    """Run five agents, none of which may get past the start of a session; return the report."""
    done = locust(variables, *FIVE)
    report = done.stdout + done.stderr
    assert done.returncode == 1, report
    assert re.findall(r"^(?:GET|POST) .*?\(100\.00%\)", report, re.MULTILINE)
    assert set(re.findall(r"^(?:GET|POST) +(\w+)", report, re.MULTILINE)) == {"session"}
    return report


class TestRuns:
    def test_agents_make_every_call_and_none_fails(self, tmp_path: Path, demo: dict[str, str]) -> None:
        calls = good_run(tmp_path, {**demo, "ENOUGH": EVERY_CALL})
        assert set(calls) == CALLS
        assert calls["session"] > 5  # SESSION_TASKS: they turn to other sandboxes

    def test_thinking_sends_nothing(self, tmp_path: Path, demo: dict[str, str]) -> None:
        thinking = {"MIX": "think=1", "SESSION_TASKS": "0", "ENOUGH": "session=5"}
        assert good_run(tmp_path, {**demo, **thinking}) == {"session": 5}

    def test_workers_share_the_work(self, tmp_path: Path, demo: dict[str, str]) -> None:
        port = str(free_port())
        ports = ("--master-bind-port", port, "--master-port", port)
        enough = {**demo, "ENOUGH": EVERY_CALL}
        assert set(good_run(tmp_path, enough, "--processes", "1", *ports)) == CALLS

    def test_sandboxes_that_are_not_there_fail_with_the_reason(self, demo: dict[str, str]) -> None:
        assert " GET session: 502 dns_not_found " in bad_run({**demo, "SANDBOX_NAME": "nobody-{n}"})

    def test_the_answer_of_another_sandbox_is_a_failure(self, demo: dict[str, str]) -> None:
        second = f"http://127.0.0.12:{demo['SANDBOX_PORT']}"  # asked past the router, as the first
        report = bad_run({**demo, "ROUTER": second, "SANDBOXES": "1"})
        assert " GET session: wrong sandbox: another one answered " in report

    def test_nobody_listening_is_a_failure(self, demo: dict[str, str]) -> None:
        assert " GET session: no answer: " in bad_run({**demo, "ROUTER": f"http://127.0.0.1:{free_port()}"})

    def test_a_bad_variable_ends_locust_with_its_name(self) -> None:
        done = locust({"SANDBOXES": "many"})
        assert done.returncode == 1
        assert "SANDBOXES='many': not a whole number from 1 to 1000000" in done.stderr
        assert "Traceback" not in done.stderr


class TestRunner:
    def test_the_demo_runs_for_as_long_as_locust_does(self) -> None:
        environ = {**os.environ, **BRISK, "LOCUST_ARGS": "-u 2 -r 2 -t 1s"}
        done = subprocess.run(
            [sys.executable, "-m", "bench.locust_run"],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Aggregated" in done.stderr + done.stdout

    def test_a_demo_that_cannot_start_is_told(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "bench.locust_run"],
            cwd=ROOT,
            env={**os.environ, "SANDBOXES": "201"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2
        assert "must be 1 to 200" in done.stderr


class TestVariables:
    def test_none_is_needed(self) -> None:
        assert agents.read({}) == agents.Settings()
        assert agents.read({"SANDBOXES": " ", "MIX": ""}) == agents.Settings()
        assert all(agents.Settings().mix.values())

    def test_all_are_read_and_explained(self) -> None:
        settings = agents.read(
            {
                "ROUTER": "https://router:8443",
                "SANDBOXES": "10000",
                "SANDBOX_NAME": "box-{n}-a",
                "SANDBOX_NAMESPACE": "team",
                "SANDBOX_PORT": "80",
                "MIX": "execute=3, think=1",
                "THINK_SECONDS": "0",
                "SESSION_TASKS": "0",
                "EXECUTE_BYTES": "1000",
                "UPLOAD_BYTES": "1",
                "STREAM_PATH": "/stream?count=7",
                "TIMEOUT_SECONDS": "5",
                "ROUTER_AUTH_TOKEN": "secret",
                "ROUTER_AUTH_HEADER": "X-Router-Authorization",
            }
        )
        default = agents.Settings()
        assert {name for name, _ in agents.VARIABLES.values()} == set(default.__slots__)
        for name in default.__slots__:
            assert getattr(settings, name) != getattr(default, name)
        assert settings.name_of(10000) == "box-10000-a"
        assert {kind: weight for kind, weight in settings.mix.items() if weight} == {"execute": 3, "think": 1}
        explained = (ROOT / "bench" / "locustfile.py").read_text().split('"""')[1].splitlines()
        assert {line.split()[0] for line in explained if line[:1].isupper()} >= set(agents.VARIABLES)

    @pytest.mark.parametrize(
        ("variable", "text", "fault"),
        [
            ("SANDBOXES", "0", "not a whole number from 1"),
            ("SANDBOXES", "-1", "not a whole number"),
            ("SANDBOX_PORT", "65536", "from 1 to 65535"),
            ("SANDBOX_NAMESPACE", "Team", "not a namespace"),
            ("SANDBOX_NAME", "box", "no {n} to tell the sandboxes apart"),
            ("SANDBOX_NAME", "Box-{n}", "no sandbox id"),
            ("MIX", "execute", "not a whole number"),
            ("MIX", "sleep=1", "'sleep' is none of execute, "),
            ("MIX", "execute=1,execute=2", "named twice"),
            ("MIX", "execute=0", "every weight is 0"),
            ("THINK_SECONDS", "nan", "not a number of seconds"),
            ("THINK_SECONDS", "soon", "not a number of seconds"),
            ("TIMEOUT_SECONDS", "0", "above 0"),
            ("UPLOAD_BYTES", "1e3", "not a whole number"),
            ("STREAM_PATH", "clock", "begins with /"),
            ("ROUTER", "127.0.0.1:8080", "not http://HOST:PORT"),
            ("ROUTER_AUTH_HEADER", "a b", "not the name of a header"),
        ],
    )
    def test_a_bad_value_is_told_with_its_variable(self, variable: str, text: str, fault: str) -> None:
        with pytest.raises(agents.SettingError) as told:
            agents.read({variable: text})
        assert str(told.value).startswith(f"{variable}={text!r}: ")
        assert fault in str(told.value)

    def test_a_token_is_not_told(self) -> None:
        with pytest.raises(agents.SettingError, match=r"ROUTER_AUTH_TOKEN=\*\*\*: ") as told:
            agents.read({"ROUTER_AUTH_TOKEN": "my secret"})
        assert "secret" not in str(told.value)
        assert "secret" not in repr(agents.read({"ROUTER_AUTH_TOKEN": "secret"}))


class TestRequests:
    def test_headers_are_the_sdks_with_ids_of_their_own(self) -> None:
        settings = agents.Settings()
        first, second = settings.headers("box"), settings.headers("box")
        assert {name for name in first if first[name] != second[name]} == {"X-Request-ID", "traceparent"}
        assert first["X-Sandbox-ID"] == "box"
        assert first["X-Sandbox-Timeout"] == "59.999"
        assert "Authorization" not in first

    def test_a_token_goes_where_the_router_looks_for_it(self) -> None:
        assert agents.Settings(auth_token="t").headers("box")["Authorization"] == "Bearer t"
        assert agents.Settings(auth_token="t", auth_header="X-A").headers("box")["X-A"] == "Bearer t"

    @pytest.mark.parametrize("size", [1, 10, 100_000])
    def test_a_pattern_has_its_size_and_tells_its_owner(self, size: int) -> None:
        assert len(agents.pattern("box 1", size)) == size
        assert size < 6 or agents.pattern("box 1", size) != agents.pattern("box 2", size)

    def test_a_form_is_read_by_others(self) -> None:
        content = bytes(range(256))
        content_type, body = agents.multipart("a b.txt", content)
        assert multipart_file(content_type, body) == ("a b.txt", content)
        message = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
        assert message.is_multipart()

    def test_a_path_is_quoted_whole(self) -> None:
        assert agents.quoted("a b/c.txt") == "a%20b%2Fc.txt"

    @pytest.mark.parametrize(
        ("path", "count"), [("/clock?interval=1&count=10", 10), ("/clock", None), ("/x?count=all", None)]
    )
    def test_a_stream_promises_events_or_not(self, path: str, count: int | None) -> None:
        assert agents.events_expected(path) == count


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "reason", "error", "text"),
        [
            (502, "dns_not_found", None, "502 dns_not_found"),
            (404, None, None, "404 from the sandbox"),
            (0, None, ConnectionResetError("reset"), "no answer: reset"),
            (0, None, None, "no answer: the connection was closed"),
        ],
    )
    def test_anything_but_200_is_told(
        self, status: int, reason: str | None, error: object, text: str
    ) -> None:
        with pytest.raises(agents.AnswerError) as told:
            agents.check_status(status, reason, error)
        assert str(told.value) == text

    def test_200_passes(self) -> None:
        agents.check_status(200, None, None)

    @pytest.mark.parametrize("content", [None, b"", b"<html>"])
    def test_what_is_no_json_is_told(self, content: bytes | None) -> None:
        with pytest.raises(agents.AnswerError, match="no JSON"):
            agents.decoded(content)

    def test_members_are_of_objects_only(self) -> None:
        assert agents.member({"a": 1}, "a") == 1
        assert agents.member({"a": 1}, "b") is None
        assert agents.member(["a"], "a") is None

    def test_a_difference_is_told_without_its_values(self) -> None:
        agents.expect(1, 1, "number")
        with pytest.raises(agents.AnswerError, match=r"^wrong number$"):
            agents.expect(1, 2, "number")
