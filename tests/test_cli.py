"""Commands, flags and exit codes."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

import fastrouter
from fastrouter import cli, supervisor
from fastrouter.demo import run as demo
from fastrouter.settings import OPTIONS, Settings

ANY_HOST = Settings().host


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Settings]]:
    """What was started, with its settings, in place of starting it."""
    for option in OPTIONS:
        if option.variable:
            monkeypatch.delenv(option.variable, raising=False)
    calls: list[tuple[str, Settings]] = []
    monkeypatch.setattr(supervisor, "serve", lambda settings: ("serve", settings))
    monkeypatch.setattr(demo, "run_demo", lambda settings: ("demo", settings))

    def run(call: tuple[str, Settings]) -> int:
        calls.append(call)
        return 7

    monkeypatch.setattr(supervisor, "run", run)
    return calls


@pytest.mark.parametrize(
    ("arguments", "command", "host", "port"),
    [
        ([], "serve", ANY_HOST, 8080),
        (["serve"], "serve", ANY_HOST, 8080),
        (["--port", "9000"], "serve", ANY_HOST, 9000),
        (["serve", "--host", "::1", "--port=9000"], "serve", "::1", 9000),
        (["--host", "::1", "serve", "--port", "9000"], "serve", "::1", 9000),
        (["--port", "1", "serve", "--port", "2"], "serve", ANY_HOST, 2),
        (["demo"], "demo", ANY_HOST, 8080),
        (["demo", "--port", "0"], "demo", ANY_HOST, 0),
    ],
)
def test_a_command_runs_with_its_flags_and_returns_its_exit_code(
    started: list[tuple[str, Settings]], arguments: list[str], command: str, host: str, port: int
) -> None:
    assert cli.main(arguments) == 7
    assert started == [(command, Settings(host=host, port=port))]


def test_the_environment_is_read(
    started: list[tuple[str, Settings]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXY_TIMEOUT_SECONDS", "2")
    monkeypatch.setenv("CLUSTER_DOMAIN", "example.org")
    cli.main([])
    assert started == [("serve", Settings(proxy_timeout=2.0, cluster_domain="example.org"))]


def test_a_bad_value_of_the_references_variables_is_a_warning(
    started: list[tuple[str, Settings]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROXY_TIMEOUT_SECONDS", "soon")
    assert cli.main([]) == 7
    assert started == [("serve", Settings())]
    (line,) = capsys.readouterr().out.splitlines()
    assert '"level": "warning"' in line
    assert "PROXY_TIMEOUT_SECONDS: invalid value 'soon'" in line


@pytest.mark.parametrize("variable", ["ACCESS_LOG", "DIAL_RETRY_SECONDS", "DNS_SERVERS"])
def test_a_bad_value_of_our_variables_is_exit_code_2(
    started: list[tuple[str, Settings]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
) -> None:
    monkeypatch.setenv(variable, "perhaps")
    assert cli.main([]) == 2
    assert started == []
    assert capsys.readouterr().err.startswith(f"fastrouter: {variable}: invalid value 'perhaps': ")


def test_a_bad_value_of_a_flag_is_exit_code_2(
    started: list[tuple[str, Settings]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--port", "70000"]) == 2
    assert started == []
    assert capsys.readouterr().err == "fastrouter: --port: invalid value '70000': not a port\n"


@pytest.mark.parametrize(
    "arguments", [["--bogus"], ["serve", "--bogus"], ["bogus"], ["--port"], ["serve", "x"]]
)
def test_an_unknown_flag_or_command_is_exit_code_2(
    started: list[tuple[str, Settings]], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert started == []
    assert "usage: fastrouter" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"fastrouter {fastrouter.__version__}\n"


def test_the_help_names_every_flag_variable_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in OPTIONS:
        assert option.name in text
    assert "serve" in text
    assert "demo" in text


def test_without_its_extra_the_demo_says_what_to_install() -> None:
    # None in sys.modules makes an import fail as that of a package that is not there.
    program = (
        "import sys; sys.modules['dnslib'] = None; from fastrouter.cli import main; sys.exit(main(['demo']))"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fastrouter: the demo needs dnslib: pip install 'fastrouter[demo]'\n"
