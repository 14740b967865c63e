"""The command interpreter of a sandbox."""

import re

import pytest

from fastrouter.demo.files import Files, Upload
from fastrouter.demo.words import Machine, Result, interpret


class Sleeper:
    """Records the pauses instead of taking them."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def run(command: str, sleeper: Sleeper | None = None) -> Result:
    files = Files()
    files.store(Upload("note.txt", b"a note\n"))
    files.store(Upload("bin", b"\xff"))
    return await interpret(command, Machine("sandbox-7", files, sleeper or Sleeper()))


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("", Result()),
        ("echo", Result("\n")),
        ("echo hello  'two  words'", Result("hello two  words\n")),
        ("echo -n x", Result("x")),
        ("echo $(reboot); ls | cat > /etc/x", Result("$(reboot); ls | cat > /etc/x\n")),
        ("pwd", Result("/app\n")),
        ("whoami", Result("sandbox\n")),
        ("hostname", Result("sandbox-7\n")),
        ("ls", Result("bin\nnote.txt\n")),
        ("ls note.txt", Result("note.txt\n")),
        ("ls nowhere", Result("", "ls: nowhere: No such file or directory\n", 2)),
        ("cat note.txt bin", Result("a note\n\N{REPLACEMENT CHARACTER}")),
        ("cat /etc/passwd", Result("", "cat: /etc/passwd: No such file or directory\n", 1)),
        ("python -c 1", Result("", "sh: python: not found\n", 127)),
        ("help", Result("words: cat date echo help hostname ls pwd sleep whoami\n")),
        ("sleep", Result("", "sleep: needs a number of seconds\n", 1)),
        ("sleep soon", Result("", "sleep: needs a number of seconds\n", 1)),
    ],
)
async def test_words(command: str, result: Result) -> None:
    assert await run(command) == result


async def test_an_open_quote_is_a_syntax_error() -> None:
    result = await run("echo 'x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("sh: syntax error")


async def test_date_is_utc() -> None:
    assert re.fullmatch(r"\w{3} \w{3} \d\d \d\d:\d\d:\d\d UTC \d{4}\n", (await run("date")).stdout)


@pytest.mark.parametrize(
    ("seconds", "pause"), [("0.25", 0.25), ("31", 30.0), ("inf", 30.0), ("-1", 0.0), ("nan", 0.0)]
)
async def test_sleep_is_capped(seconds: str, pause: float) -> None:
    sleeper = Sleeper()
    assert await run(f"sleep {seconds}", sleeper) == Result()
    assert sleeper.pauses == [pause]
