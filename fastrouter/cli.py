"""Commands. The only reader of the environment, and of the configuration file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastrouter import arguments, completion, config, configfile, options, probe, settings, supervisor, tls
from fastrouter.telemetry import logs

_USAGE_ERROR = 2
# As a shell has it: 128 and the number of SIGINT.
_INTERRUPTED = 130

_log = logging.getLogger(__name__)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    chosen = arguments.parse(sys.argv[1:] if words is None else words)
    command = chosen["command"] or "serve"
    if command == "completion":
        print(completion.script(chosen["shell"]), end="")
        return 0
    # What these two print is a log; what the others print is their result.
    runs = command in {"serve", "demo"}
    logs.set_up(sys.stdout if runs else sys.stderr)

    def read() -> config.Effective:
        return _read(chosen, _log.warning if runs else _warn)

    def reload() -> settings.Settings:
        """Read file and environment anew, with the same flags; raises ``SettingsError``."""
        return read().settings

    try:
        return _COMMANDS[command](read, chosen) if command in _COMMANDS else _run(command, reload)
    except (settings.SettingsError, probe.QuestionError) as error:
        for line in str(error).split("\n"):
            print(f"fastrouter: {line}", file=sys.stderr)
        return _USAGE_ERROR


def _read(chosen: Mapping[str, Any], warn: Callable[[str], None]) -> config.Effective:
    flags = {option.field: chosen.get(option.field) for option in options.OPTIONS}
    name = chosen.get("config") or os.environ.get(config.CONFIG_VARIABLE)
    file = configfile.read(_text(name), name) if name else configfile.ConfigFile()
    return config.explain(flags, os.environ, warn, file)


def _text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise settings.SettingsError(f"{name}: cannot read the configuration file: {reason}") from error


def _warn(message: str) -> None:
    print(f"fastrouter: warning: {message}", file=sys.stderr)


def _run(command: str, reload: Callable[[], settings.Settings]) -> int:
    effective = reload()
    if command == "demo":
        return _demo(effective)
    return supervisor.run(supervisor.serve(effective, reload))


def _demo(effective: settings.Settings) -> int:
    try:
        from fastrouter.demo.run import run_demo  # noqa: PLC0415 - needs an extra that a router does without
    except ModuleNotFoundError as error:
        print(f"fastrouter: the demo needs {error.name}: pip install 'fastrouter[demo]'", file=sys.stderr)
        return 1
    return supervisor.run(run_demo(effective))


def _check(read: Callable[[], config.Effective], _: Mapping[str, Any]) -> int:
    effective = read().settings
    try:
        tls.certificates_of(effective)
    except tls.CertificateError as error:
        raise settings.SettingsError(f"cannot use the TLS files: {error}") from error
    if not effective.honours_pod_ip:
        _warn(settings.UNCONFIGURED)
    print("ok")
    return 0


def _print(read: Callable[[], config.Effective], _: Mapping[str, Any]) -> int:
    print(configfile.write(*read()), end="")
    return 0


def _probe(read: Callable[[], config.Effective], chosen: Mapping[str, Any]) -> int:
    question = probe.Question(
        sandbox=chosen["sandbox"],
        namespace=chosen["namespace"],
        port=chosen["sandbox_port"],
        path=chosen["path"],
        method=chosen["method"],
        timeout=chosen["timeout"],
    )
    try:
        return supervisor.run(probe.run(read().settings, question, as_json="json" in chosen))
    except KeyboardInterrupt:
        return _INTERRUPTED


_COMMANDS = {"check-config": _check, "print-config": _print, "probe": _probe}
