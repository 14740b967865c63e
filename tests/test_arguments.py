"""Commands and flags: what the parser takes, what it says of the rest, and what the help lists."""

from __future__ import annotations

from typing import Any

import pytest

import fastrouter
from fastrouter.arguments import COMMANDS, PROBE, flags, parse
from fastrouter.options import GROUPS, OPTIONS


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what is told of a command line that is none."""
    with pytest.raises(SystemExit) as caught:
        parse(words)
    assert caught.value.code == 2
    return capsys.readouterr().err


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(words)
    assert caught.value.code == 0
    return capsys.readouterr().out


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ([], {"command": None}),
        (["serve"], {"command": "serve"}),
        (["--port", "1"], {"command": None, "port": "1"}),
        (["--port=1", "serve", "--host", "::1"], {"command": "serve", "port": "1", "host": "::1"}),
        (["--port", "1", "demo", "--port", "2"], {"command": "demo", "port": "2"}),
        (["--config", "f", "check-config"], {"command": "check-config", "config": "f"}),
        (["print-config", "--config=f"], {"command": "print-config", "config": "f"}),
        (["completion", "zsh"], {"command": "completion", "shell": "zsh"}),
    ],
)
def test_flags_stand_before_or_behind_the_command(words: list[str], chosen: dict[str, Any]) -> None:
    assert parse(words) == chosen


def test_every_setting_but_the_token_has_its_flag() -> None:
    words = [word for option in OPTIONS if option.flag for word in (option.flag, "x")]
    assert set(parse(words)) == {option.field for option in OPTIONS if not option.secret} | {"command"}


def test_a_probe_has_defaults_and_a_port_of_its_own() -> None:
    assert parse(["--port", "1", "probe", "box"]) == {
        "command": "probe",
        "sandbox": "box",
        "namespace": "default",
        "sandbox_port": "8888",
        "path": "/healthz",
        "method": "GET",
        "timeout": "10",
        "port": "1",
    }
    asked = parse(["probe", "box", "--port", "2", "--json", "--dns-servers", "::1"])
    assert (asked["sandbox_port"], asked["json"], asked["dns_servers"]) == ("2", True, "::1")
    assert "port" not in asked


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--bogus"], "fastrouter: unrecognized arguments: --bogus; fastrouter --help lists all flags"),
        # The value behind an unknown flag is not taken for a command.
        (["--metric-port", "3"], "unrecognized arguments: --metric-port; did you mean --metrics-port?"),
        (["serve", "--proxy-timeout-second=3"], "; did you mean --proxy-timeout-seconds?"),
        (["--proxy-timeout", "3"], "; did you mean --proxy-timeout-seconds?"),  # half a flag is none
        (["--router-auth-token", "t"], "unrecognized arguments: --router-auth-token; did you mean"),
        (["probe", "box", "--workers", "2"], "fastrouter: unrecognized arguments: --workers 2"),
        (["completion", "bash", "--workers"], "fastrouter: unrecognized arguments: --workers"),
        (["serve", "x"], "fastrouter: unrecognized arguments: x"),
        (["bogus"], "fastrouter: argument COMMAND: invalid choice: 'bogus'"),
        (["--port"], "fastrouter: argument --port: expected one argument"),
        (["probe"], "fastrouter probe: the following arguments are required: SANDBOX"),
        (["completion", "ksh"], "fastrouter completion: argument SHELL: invalid choice: 'ksh'"),
    ],
)
def test_what_is_no_command_line_is_told_in_two_lines(
    capsys: pytest.CaptureFixture[str], words: list[str], fault: str
) -> None:
    usage, line = refused(capsys, *words).splitlines()
    assert usage.startswith("usage: fastrouter")
    assert fault in line


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "--version") == f"fastrouter {fastrouter.__version__}\n"


def test_the_help_has_every_command_and_every_option_in_its_group(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = told(capsys, "--help")
    for command, what in COMMANDS.items():
        assert f"{command} {what}" in flat(text)
    for (title, options), end in zip(GROUPS.items(), [*list(GROUPS)[1:], ""], strict=True):
        section = flat(text.split(f"\n{title}:\n")[1].split(f"\n{end}:\n" if end else "\0")[0])
        for option in options:
            names = f"{option.variable}, {option.key}" if option.variable else option.key
            if option.flag:
                assert f"{option.flag} " in section
                assert f"{option.help} Default: {option.default_text}. ({names})" in section
            else:
                assert f"{names}: {option.help} Default: {option.default_text}. There is no flag" in section


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_its_flags_and_no_others(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    text = told(capsys, command, "--help")
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert sorted(shown) == sorted(flag.name for flag in flags(command) if flag.name != "--help")
    if command == "probe":
        assert {flag.name for flag in PROBE} <= set(shown)
