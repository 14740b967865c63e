"""Commands, flags and exit codes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastrouter import cli, probe, supervisor
from fastrouter.arguments import SHELLS
from fastrouter.completion import script
from fastrouter.demo import run as demo
from fastrouter.options import OPTIONS
from fastrouter.settings import UNCONFIGURED, Settings, SettingsError
from tests.support import free_port

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
    monkeypatch.delenv("FASTROUTER_CONFIG", raising=False)
    calls: list[tuple[str, Settings]] = []
    monkeypatch.setattr(supervisor, "serve", lambda settings, _reload: ("serve", settings))
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


def test_an_unknown_flag_or_command_is_exit_code_2(
    started: list[tuple[str, Settings]], capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--bogus"], ["bogus"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2
        assert "usage: fastrouter" in capsys.readouterr().err
    assert started == []


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], str]:
    """Return what writes a configuration file, and returns its name."""

    def write(text: str) -> str:
        path = tmp_path / "fastrouter.yaml"
        path.write_text(text)
        return str(path)

    return write


class TestFile:
    def test_it_stands_between_flags_and_environment(
        self,
        started: list[tuple[str, Settings]],
        monkeypatch: pytest.MonkeyPatch,
        written: Callable[[str], str],
    ) -> None:
        monkeypatch.setenv("PROXY_TIMEOUT_SECONDS", "1")
        monkeypatch.setenv("DIAL_RETRY_SECONDS", "1")
        name = written("proxy_timeout_seconds: 2\nport: 2\nhost: ::1\n")
        assert cli.main(["--config", name, "serve", "--port", "3"]) == 7
        assert started == [("serve", Settings(host="::1", port=3, proxy_timeout=2.0, dial_retry=1.0))]

    def test_the_environment_may_name_it_and_the_flag_goes_before(
        self,
        started: list[tuple[str, Settings]],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        written: Callable[[str], str],
    ) -> None:
        other = tmp_path / "other.yaml"
        other.write_text("port: 2")
        monkeypatch.setenv("FASTROUTER_CONFIG", written("port: 1"))
        cli.main([])
        cli.main(["--config", str(other)])
        monkeypatch.setenv("FASTROUTER_CONFIG", "")
        cli.main([])
        assert [settings.port for _, settings in started] == [1, 2, 8080]

    def test_all_its_faults_are_told_and_nothing_starts(
        self,
        started: list[tuple[str, Settings]],
        capsys: pytest.CaptureFixture[str],
        written: Callable[[str], str],
    ) -> None:
        name = written("prot: 1\nmax_connections: few\n")
        for command in ("serve", "demo", "check-config", "print-config"):
            assert cli.main([command, "--config", name]) == 2
            told = capsys.readouterr()
            assert told.out == ""
            assert told.err.splitlines() == [
                f"fastrouter: {name}:1: prot: unknown key; did you mean port?",
                f"fastrouter: {name}:2: max_connections: invalid value 'few': not a whole number",
            ]
        assert started == []

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(None, "No such file or directory"), (b"host: \xff", "it is not UTF-8")],
    )
    def test_one_that_cannot_be_read_is_exit_code_2(
        self,
        started: list[tuple[str, Settings]],
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        content: bytes | None,
        reason: str,
    ) -> None:
        path = tmp_path / "f.yaml"
        if content is not None:
            path.write_bytes(content)
        assert cli.main(["--config", str(path)]) == 2
        expected = f"fastrouter: {path}: cannot read the configuration file: {reason}\n"
        assert (started, capsys.readouterr().err) == ([], expected)

    def test_a_running_router_reads_it_anew_with_the_same_flags(
        self,
        started: list[tuple[str, Settings]],
        monkeypatch: pytest.MonkeyPatch,
        written: Callable[[str], str],
    ) -> None:
        reloads: list[Callable[[], Settings]] = []

        def serve(settings: Settings, reload: Callable[[], Settings]) -> tuple[str, Settings]:
            reloads.append(reload)
            return "serve", settings

        monkeypatch.setattr(supervisor, "serve", serve)
        name = written("port: 1\nproxy_timeout_seconds: 1")
        cli.main(["--config", name, "--port", "9"])
        written("port: 2\nproxy_timeout_seconds: 2")
        monkeypatch.setenv("DIAL_RETRY_SECONDS", "2")
        assert started == [("serve", Settings(port=9, proxy_timeout=1.0))]
        assert reloads[0]() == Settings(port=9, proxy_timeout=2.0, dial_retry=2.0)
        written("prot: 2")
        with pytest.raises(SettingsError, match="did you mean port"):
            reloads[0]()


@pytest.mark.usefixtures("started")
class TestCommands:
    def test_check_config_says_ok_or_what_is_wrong(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("ROUTER_AUTH_TOKEN", "t")
        assert cli.main(["check-config"]) == 0
        assert capsys.readouterr() == ("ok\n", "")
        assert cli.main(["check-config", "--tls-cert-file", "c"]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err == (
            "fastrouter: TLS_CERT_FILE and TLS_KEY_FILE go together: TLS_KEY_FILE is not set\n"
        )

    def test_check_config_looks_into_the_tls_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "f").write_text("no certificate")
        words = [
            "check-config",
            "--tls-cert-file",
            str(tmp_path / "f"),
            "--tls-key-file",
            str(tmp_path / "f"),
        ]
        assert cli.main(words) == 2
        assert "cannot use the TLS files: TLS_CERT_FILE" in capsys.readouterr().err

    def test_check_config_warns_of_what_the_start_warns_of(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("CLUSTER_DOMAIN", "a b")
        monkeypatch.setenv("PROXY_TIMEOUT_SECOND", "1")
        assert cli.main(["check-config"]) == 0
        told = capsys.readouterr()
        assert told.out == "ok\n"
        first, second, third = told.err.splitlines()
        assert first.startswith("fastrouter: warning: CLUSTER_DOMAIN: invalid value 'a b'")
        assert second.endswith("did you mean PROXY_TIMEOUT_SECONDS?")
        assert third == f"fastrouter: warning: {UNCONFIGURED}"

    def test_print_config_prints_a_file_that_says_the_same(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        written: Callable[[str], str],
    ) -> None:
        monkeypatch.setenv("METRICS_PORT", "off")
        monkeypatch.setenv("ROUTER_AUTH_TOKEN", "hunter2")
        assert cli.main(["print-config", "--port", "9"]) == 0
        first = capsys.readouterr().out
        assert "port: 9  # flag" in first.splitlines()
        assert "hunter2" not in first
        monkeypatch.delenv("METRICS_PORT")
        assert cli.main(["print-config", "--config", written(first)]) == 0
        again = capsys.readouterr().out
        assert [line.partition("  #")[0] for line in again.splitlines()] == [
            line.partition("  #")[0] for line in first.splitlines()
        ]
        assert "metrics_port: 'off'  # file" in again.splitlines()

    @pytest.mark.parametrize("shell", SHELLS)
    def test_completion_prints_a_script_whatever_the_settings_are(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str
    ) -> None:
        monkeypatch.setenv("ACCESS_LOG", "perhaps")
        assert cli.main(["completion", shell]) == 0
        assert capsys.readouterr() == (script(shell), "")


class TestProbe:
    def test_its_flags_make_the_question(
        self, started: list[tuple[str, Settings]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[Settings, probe.Question, bool]] = []

        def run(settings: Settings, question: probe.Question, *, as_json: bool) -> tuple[str, Settings]:
            asked.append((settings, question, as_json))
            return "probe", settings

        monkeypatch.setattr(probe, "run", run)
        assert cli.main(["probe", "box", "--dial-retry-seconds", "1"]) == 7
        words = ["--namespace", "team", "--port", "1", "--path", "/x", "--method", "PUT", "--timeout", "2"]
        assert cli.main(["--port", "9", "probe", "box", *words, "--json"]) == 7
        assert asked == [
            (Settings(dial_retry=1.0), probe.Question("box"), False),
            (Settings(port=9), probe.Question("box", "team", "1", "/x", "PUT", "2"), True),
        ]
        assert [command for command, _ in started] == ["probe", "probe"]

    @pytest.mark.parametrize(
        ("words", "code", "out", "err"),
        [
            (["box"], 1, "dns failed: dns_failure: Could not connect to the backend sandbox: box", ""),
            (["Box"], 2, "", "fastrouter: Invalid sandbox ID format.\n"),
            (["box", "--dns-servers", "x"], 2, "", "fastrouter: --dns-servers: invalid value 'x': "),
        ],
    )
    def test_its_exit_code_tells_failures_from_questions(
        self, words: list[str], code: int, out: str, err: str
    ) -> None:
        nobody = f"127.0.0.1:{free_port()}"
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "fastrouter", "probe", *words],
            env={**os.environ, "DNS_SERVERS": nobody, "DIAL_RETRY_SECONDS": "0"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == code
        assert out in done.stdout
        assert done.stderr.startswith(err) if err else not done.stderr

    def test_it_may_be_interrupted(
        self, started: list[tuple[str, Settings]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(call: object) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr(probe, "run", lambda *_, **__: None)
        monkeypatch.setattr(supervisor, "run", interrupted)
        assert cli.main(["probe", "box"]) == 130
        assert started == []


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
