"""The command interpreter of an embedded sandbox: a few words, none of which runs anything on the machine."""

import shlex
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fastrouter.demo.files import Files

LONGEST_SLEEP = 30.0

Pause = Callable[[float], Awaitable[None]]


class Result(NamedTuple):
    """What a command left behind."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0


class Machine(NamedTuple):
    """What the words may see: a name, the uploaded files, and a way to let time pass."""

    name: str
    files: Files
    pause: Pause


async def interpret(command: str, machine: Machine) -> Result:
    """Run one command line."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        return Result(stderr=f"sh: syntax error: {error}\n", exit_code=2)
    if not words:
        return Result()
    name, *arguments = words
    if name == "sleep":
        return await _sleep(arguments, machine)
    word = WORDS.get(name)
    if word is None:
        return Result(stderr=f"sh: {name}: not found\n", exit_code=127)
    return word(arguments, machine)


async def _sleep(arguments: list[str], machine: Machine) -> Result:
    try:
        seconds = float(arguments[0])
    except (IndexError, ValueError):
        return Result(stderr="sleep: needs a number of seconds\n", exit_code=1)
    # Written so that nan, which compares false with everything, sleeps 0 s.
    await machine.pause(min(seconds, LONGEST_SLEEP) if seconds > 0 else 0.0)
    return Result()


def _echo(arguments: list[str], machine: Machine) -> Result:
    if arguments[:1] == ["-n"]:
        return Result(" ".join(arguments[1:]))
    return Result(" ".join(arguments) + "\n")


def _hostname(arguments: list[str], machine: Machine) -> Result:
    return Result(machine.name + "\n")


def _pwd(arguments: list[str], machine: Machine) -> Result:
    return Result("/app\n")


def _whoami(arguments: list[str], machine: Machine) -> Result:
    return Result("sandbox\n")


def _date(arguments: list[str], machine: Machine) -> Result:
    return Result(time.strftime("%a %b %d %H:%M:%S UTC %Y\n", time.gmtime()))


def _ls(arguments: list[str], machine: Machine) -> Result:
    path = arguments[0] if arguments else ""
    entries = machine.files.entries(path)
    if entries is not None:
        return Result("".join(f"{entry.name}\n" for entry in entries))
    if machine.files.get(path) is not None:
        return Result(f"{path}\n")
    return Result(stderr=f"ls: {path}: No such file or directory\n", exit_code=2)


def _cat(arguments: list[str], machine: Machine) -> Result:
    stdout = stderr = ""
    for path in arguments:
        data = machine.files.get(path)
        if data is None:
            stderr += f"cat: {path}: No such file or directory\n"
        else:
            stdout += data.decode("utf-8", "replace")
    return Result(stdout, stderr, 1 if stderr else 0)


def _help(arguments: list[str], machine: Machine) -> Result:
    return Result("words: " + " ".join(sorted([*WORDS, "sleep"])) + "\n")


WORDS: dict[str, Callable[[list[str], Machine], Result]] = {
    "cat": _cat,
    "date": _date,
    "echo": _echo,
    "help": _help,
    "hostname": _hostname,
    "ls": _ls,
    "pwd": _pwd,
    "whoami": _whoami,
}
