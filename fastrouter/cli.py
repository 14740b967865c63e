"""Commands: ``serve`` and ``demo``. The only reader of the environment."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from fastrouter import __version__, settings, supervisor
from fastrouter.telemetry import logs

_USAGE_ERROR = 2

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    chosen = _parser().parse_args(arguments)
    logs.set_up(sys.stdout)
    flags = {option.field: getattr(chosen, option.field, None) for option in settings.OPTIONS}
    try:
        effective = settings.load(flags, os.environ, _log.warning)
    except settings.SettingsError as error:
        print(f"fastrouter: {error}", file=sys.stderr)
        return _USAGE_ERROR
    if chosen.command == "demo":
        return _demo(effective)
    return supervisor.run(supervisor.serve(effective))


def _demo(effective: settings.Settings) -> int:
    try:
        from fastrouter.demo.run import run_demo  # noqa: PLC0415 - needs an extra that a router does without
    except ModuleNotFoundError as error:
        print(f"fastrouter: the demo needs {error.name}: pip install 'fastrouter[demo]'", file=sys.stderr)
        return 1
    return supervisor.run(run_demo(effective))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastrouter",
        description="One address in front of thousands of sandboxes; X-Sandbox-ID names the sandbox.",
        epilog="Environment variables: "
        + ", ".join(o.variable for o in settings.OPTIONS if o.variable)
        + ".",
    )
    parser.add_argument("--version", action="version", version=f"fastrouter {__version__}")
    _add_flags(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_flags(commands.add_parser("serve", help="run the router (the default)"))
    _add_flags(commands.add_parser("demo", help="run the router with sandboxes and a DNS server of its own"))
    return parser


def _add_flags(parser: argparse.ArgumentParser) -> None:
    for option in settings.OPTIONS:
        if option.flag:
            parser.add_argument(
                option.flag,
                dest=option.field,
                default=argparse.SUPPRESS,
                help=f"{option.help} Default: {option.default}.",
            )
