"""Completion scripts, in the shells that they are for."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from fastrouter.arguments import COMMANDS, SHELLS, flags
from fastrouter.completion import script
from fastrouter.options import OPTIONS

BASH = shutil.which("bash")
ZSH = shutil.which("zsh")
FISH = shutil.which("fish")
LIMIT = 10.0
INSTALLED = [shell for shell in SHELLS if shutil.which(shell)]


def names(command: str) -> set[str]:
    return {flag.name for flag in flags(command)}


def output(folder: Path, *words: str) -> str:
    """Run a shell in ``folder``, and return what it prints; it may not complain."""
    done = subprocess.run(  # noqa: S603 - the shells of this machine
        words,
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


CASES = [
    ([""], set(COMMANDS)),
    (["pr"], {"print-config", "probe"}),
    (["--log-f"], {"--log-format"}),
    (["--log-format", ""], {"json", "console"}),
    (["--access-log", "t"], {"true"}),
    (["serve", "--mtls-mode", "o"], {"off", "optional"}),
    (["serve", "--tls-"], {"--tls-cert-file", "--tls-key-file", "--tls-client-ca-file"}),
    (["probe", "--pa"], {"--path"}),
    (["check-config", "--pa"], set()),
    (["completion", ""], set(SHELLS)),
    (["--port", "1", "pri"], {"print-config"}),
]
IDS = [" ".join(words) for words, _ in CASES]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_flag_is_in_every_script(shell: str) -> None:
    text = script(shell)
    assert all(command in text for command in COMMANDS)
    dashes = "-l " if shell == "fish" else "--"
    assert all(dashes + option.flag.removeprefix("--") in text for option in OPTIONS if option.flag)


@pytest.mark.parametrize("shell", INSTALLED)
def test_the_shell_finds_no_fault_in_its_script(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(script(shell))
    assert output(tmp_path, shell, "-n", str(path)) == ""


class TestBash:
    """Bash calls the function with the words in COMP_WORDS: so do these."""

    def completed(self, folder: Path, words: list[str]) -> set[str]:
        assert BASH, "bash is what the Makefile runs on"
        (folder / "script").write_text(script("bash"))
        line = shlex.join(["fastrouter", *words])
        program = (
            f"source ./script; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _fastrouter; "
            "printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        return set(filter(None, output(folder, BASH, "--norc", "-c", program).splitlines()))

    @pytest.mark.parametrize(("words", "found"), CASES, ids=IDS)
    def test_what_fits_is_offered(self, tmp_path: Path, words: list[str], found: set[str]) -> None:
        assert self.completed(tmp_path, words) == found

    @pytest.mark.parametrize(
        ("words", "found"),
        [
            # Bash cuts --log-format=js into three words.
            (["--log-format", "="], {"json", "console"}),
            (["--log-format", "=", "js"], {"json"}),
            (["--port", "=", "1", "pri"], {"print-config"}),
            (["--host", "=", "serve", "pri"], {"print-config"}),
            (["--host", ""], set()),  # anything may follow
            (["--host", "serve", "pri"], {"print-config"}),  # a value is no command
            (["probe", "--json", "--pa"], {"--path"}),
            (["serve", ""], set()),
        ],
    )
    def test_values_are_told_from_words(self, tmp_path: Path, words: list[str], found: set[str]) -> None:
        assert self.completed(tmp_path, words) == found

    @pytest.mark.parametrize("command", COMMANDS)
    def test_a_command_offers_its_own_flags(self, tmp_path: Path, command: str) -> None:
        assert self.completed(tmp_path, [command, "-"]) == names(command)
        assert self.completed(tmp_path, ["-"]) == names("")

    @pytest.mark.parametrize("flag", ["--config", "--tls-key-file"])
    def test_a_file_is_offered_where_one_is_asked_for(self, tmp_path: Path, flag: str) -> None:
        (tmp_path / "a file.yaml").touch()
        (tmp_path / "a file.yml").touch()
        assert self.completed(tmp_path, [flag, "a f"]) == {"a file.yaml", "a file.yml"}

    def test_the_name_is_bound_to_the_function(self, tmp_path: Path) -> None:
        assert BASH
        (tmp_path / "script").write_text(script("bash"))
        bound = output(tmp_path, BASH, "--norc", "-c", "source ./script; complete -p fastrouter")
        assert bound == "complete -F _fastrouter fastrouter\n"


@pytest.mark.skipif(FISH is None, reason="fish is not installed")
class TestFish:
    @pytest.mark.parametrize(("words", "found"), CASES, ids=IDS)
    def test_what_fits_is_offered(self, tmp_path: Path, words: list[str], found: set[str]) -> None:
        assert FISH
        (tmp_path / "script").write_text(script("fish"))
        line = " ".join(["fastrouter", *words])
        program = f"source ./script; complete -C {shlex.quote(line)}"
        told = output(tmp_path, FISH, "--no-config", "-c", program)
        assert {line.partition("\t")[0] for line in told.splitlines()} == found


@pytest.mark.skipif(ZSH is None, reason="zsh is not installed")
class TestZsh:
    """Zsh completes at a terminal only: there a function of the program's name shows what it was given."""

    @pytest.mark.parametrize(
        ("keys", "words"),
        [
            ("print-c", "print-config"),
            ("--mtls-m", "--mtls-mode"),
            ("serve --log-format=js", "serve --log-format=json"),
            ("check-config --mtls-mode req", "check-config --mtls-mode required"),
            ("completion z", "completion zsh"),
            ("--port 1 check", "--port 1 check-config"),
            ("print-config --config scr", "print-config --config script"),
        ],
    )
    def test_what_fits_is_filled_in(self, tmp_path: Path, keys: str, words: str) -> None:
        assert ZSH
        (tmp_path / "script").write_text(script("zsh"))
        (tmp_path / ".zshrc").write_text(
            "autoload -Uz compinit; compinit -u -d ./dump; source ./script\n"
            "fastrouter() { print -r -- \"given:$*:\" }; echo re''ady\n"
        )
        environ = {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "TERM": "dumb", "PATH": os.defpath}
        terminal, other = pty.openpty()
        shell = subprocess.Popen(  # noqa: S603 - as above
            [ZSH, "-i"],
            cwd=tmp_path,
            env=environ,
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        try:
            _until(terminal, "ready")
            os.write(terminal, f"fastrouter {keys}\t\n".encode())
            shown = _until(terminal, "given:[^:]*:")
        finally:
            shell.kill()
            shell.wait()
            os.close(terminal)
        # `=` is what waits behind a flag that takes a value; on execution zsh takes it back.
        assert shown == f"given:{words}:"


def _until(terminal: int, pattern: str) -> str:
    """Return what a terminal shows for a pattern, once it does."""
    shown = ""
    end = time.monotonic() + LIMIT
    while (match := re.search(pattern, shown)) is None:
        assert time.monotonic() < end, shown
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 65536).decode("utf-8", "replace")
    return match[0]
