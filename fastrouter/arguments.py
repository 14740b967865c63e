"""Commands and flags: one table for the parser, the help and the completion scripts."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

from fastrouter import __version__
from fastrouter.config import CONFIG_VARIABLE
from fastrouter.options import GROUPS, Option

COMMANDS: Final = {
    "serve": "run the router (the default)",
    "demo": "run the router with sandboxes and a DNS server of its own",
    "check-config": "say what is wrong with the settings: exit code 0 or 2",
    "print-config": "print the effective settings as a file, and where each came from",
    "completion": "print a script that completes commands, flags and values",
    "probe": "ask one sandbox, and tell how long each step took or why it failed",
}
SHELLS: Final = ("bash", "zsh", "fish")
# Groups of settings that play no part in a command. `probe` listens to nobody, and has a `--port` of its own.
_WITHOUT: Final = {"probe": {"listening", "TLS"}, "completion": set(GROUPS)}
_INDENT: Final = 8
_CLOSE: Final = 0.75
_UNKNOWN: Final = "unrecognized arguments: "
_USAGE: Final = "fastrouter [COMMAND] [FLAG VALUE]..."
_ABOUT: Final = (
    "One address in front of thousands of sandboxes; X-Sandbox-ID names the sandbox. A setting comes from "
    "its flag, else from its key in the file (--config), else from its environment variable. Each is listed "
    "with its flag, default, variable and key."
)


class Flag(NamedTuple):
    """One flag; without ``metavar`` it is a switch that takes no value."""

    name: str
    dest: str
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    is_file: bool = False
    default: str | None = None


HELP: Final = Flag("--help", "help", "Show this help.")
VERSION: Final = Flag("--version", "version", "Show the version.")
CONFIG: Final = Flag(
    "--config",
    "config",
    f"YAML file with settings; {CONFIG_VARIABLE} names one as well.",
    metavar="FILE",
    is_file=True,
)
PROBE: Final = (
    Flag("--namespace", "namespace", "The sandbox's namespace.", metavar="NAME", default="default"),
    Flag("--port", "sandbox_port", "The sandbox's port.", metavar="PORT", default="8888"),
    Flag("--path", "path", "What to ask for.", metavar="PATH", default="/healthz"),
    Flag("--method", "method", "How to ask.", metavar="METHOD", default="GET"),
    Flag(
        "--timeout",
        "timeout",
        "Longest silence that is waited out, seconds.",
        metavar="SECONDS",
        default="10",
    ),
    Flag("--json", "json", "Print one JSON object."),
)


def settings_flags(command: str = "") -> dict[str, list[Flag]]:
    """Return the flags of settings that a command has, by group; of the program itself without one."""
    return {
        title: [_flag(option) for option in options if option.flag]
        for title, options in GROUPS.items()
        if title not in _WITHOUT.get(command, set())
    }


def flags(command: str = "") -> list[Flag]:
    """Return all flags of a command, or of the program itself."""
    groups = settings_flags(command).values()
    own = [VERSION] if not command else list(PROBE) if command == "probe" else []
    return [HELP, *own, *([CONFIG] if groups else []), *(flag for group in groups for flag in group)]


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Return what a command line says, by ``dest``; an unknown flag or command ends the process with 2."""
    main = _parser()
    known = {flag.name for command in ("", *COMMANDS) for flag in flags(command)}
    for word in words:
        # Before argparse looks: it would take the value of an unknown flag for a command, and half a flag for
        # the whole, which may mean two of them tomorrow.
        if word.startswith("--") and word.partition("=")[0] not in known:
            main.error(_UNKNOWN + word)
    return vars(main.parse_args(words))


def _parser() -> _Parser:
    """Make the parser. Flags may stand before or behind the command."""
    main = _Parser(prog="fastrouter", usage=_USAGE, description=_ABOUT)
    main.add_argument("--version", action="version", version=f"fastrouter {__version__}", help=VERSION.help)
    commands = main.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    for name, text in COMMANDS.items():
        positional = {"probe": "SANDBOX ", "completion": "SHELL "}.get(name, "")
        each = commands.add_parser(
            name,
            prog=f"fastrouter {name}",
            usage=f"fastrouter {name} {positional}[FLAG VALUE]...",
            description=f"{text[0].upper()}{text[1:]}.",
            help=text,
        )
        if name == "probe":
            each.add_argument("sandbox", metavar="SANDBOX", help="The sandbox's name.")
        if name == "completion":
            each.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS) + ".")
        _add_flags(each, name)
    _add_flags(main, "")
    return main


class _Parser(argparse.ArgumentParser):
    def __init__(self, **how: Any) -> None:
        super().__init__(formatter_class=_formatter, **how)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where the flags are listed: all of them would fill the screen."""
        self.exit(2, f"usage: {self.usage}\n{self.prog}: {message}{_suggestion(message)}\n")


def _formatter(prog: str) -> argparse.HelpFormatter:
    # Names are long: each flag has a line of its own, with its text below.
    return argparse.HelpFormatter(prog, max_help_position=_INDENT)


def _suggestion(message: str) -> str:
    """Name the flags that were meant by those that there are not."""
    known = [flag.name for flag in (*flags(), *PROBE)]
    found = []
    if message.startswith(_UNKNOWN):
        for word in message.split():
            found += difflib.get_close_matches(word.partition("=")[0], known, n=1, cutoff=_CLOSE)
    return f"; did you mean {', '.join(found)}?" if found else "; fastrouter --help lists all flags"


def _add_flags(parser: argparse.ArgumentParser, command: str) -> None:
    groups = settings_flags(command)
    if command == "probe":
        for flag in PROBE:
            _add(parser, flag)
    if groups:
        _add(parser, CONFIG)
    for title, found in groups.items():
        hidden = " ".join(_no_flag(option) for option in GROUPS[title] if option.secret)
        group = parser.add_argument_group(title, hidden or None)
        for flag in found:
            _add(group, flag)


def _add(parser: argparse._ActionsContainer, flag: Flag) -> None:
    # Where it is not given it must not be there: a flag before the command counts as well.
    default = argparse.SUPPRESS if flag.default is None else flag.default
    text = flag.help.replace("%", "%%")
    if not flag.metavar:
        parser.add_argument(flag.name, dest=flag.dest, action="store_true", default=default, help=text)
        return
    if flag.default is not None:
        text += f" Default: {flag.default}."
    parser.add_argument(flag.name, dest=flag.dest, metavar=flag.metavar, default=default, help=text)


def _flag(option: Option) -> Flag:
    assert option.flag is not None  # noqa: S101 - asked for those that have one
    names = f"{option.variable}, {option.key}" if option.variable else option.key
    return Flag(
        option.flag,
        option.field,
        f"{option.help} Default: {option.default_text}. ({names})",
        metavar=option.flag.rpartition("-")[2].upper(),
        choices=option.values,
        is_file=option.is_file,
    )


def _no_flag(option: Option) -> str:
    return (
        f"{option.variable}, {option.key}: {option.help} Default: {option.default_text}. "
        "There is no flag for it: whoever lists processes would see it."
    )
