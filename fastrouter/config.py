"""From flags, file and environment to the effective settings. Pure: all of them are handed in.

The tables of docs/configuration.md are generated here (``python -m fastrouter.config``), and a test compares
the two.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from fastrouter.configfile import ConfigFile
from fastrouter.options import GROUPS, OPTIONS
from fastrouter.settings import INSECURE, Settings, SettingsError

CONFIG_VARIABLE: Final = "FASTROUTER_CONFIG"
"""Names the configuration file where no flag does."""

_VARIABLES: Final = frozenset({option.variable for option in OPTIONS if option.variable} | {CONFIG_VARIABLE})
# "Clearly ours": three words and more (PROXY_TIMEOUT_SECONDS). LOG_LEVEL and the like are everybody's names,
# and a slip in one of them cannot be told from another program's variable.
_WORDS: Final = 3
_CLOSE: Final = 0.92
_NO_FILE: Final = ConfigFile()


class Effective(NamedTuple):
    """Settings, and where each came from: by field ``flag``, ``file`` or ``environment``; none: default."""

    settings: Settings
    origins: dict[str, str]


def load(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    file: ConfigFile = _NO_FILE,
) -> Settings:
    """Return the settings of flags (by field name) over the file over the environment over defaults.

    Raises ``SettingsError`` that has one fault a line; calls ``warn`` for an invalid value in the environment
    that the reference router would survive, and for what is no fault but looks like a slip.
    """
    return explain(flags, environ, warn, file).settings


def explain(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    file: ConfigFile = _NO_FILE,
) -> Effective:
    """Do as ``load``, and tell where each setting came from."""
    chosen: dict[str, Any] = {}
    origins: dict[str, str] = {}
    faults = list(file.faults)
    for option in OPTIONS:
        text, place, origin = flags.get(option.field), option.flag, "flag"
        if text is None and option.field in file.values:
            chosen[option.field] = file.values[option.field]
            origins[option.field] = "file"
            continue
        if text is None and option.variable is not None:
            text, place, origin = environ.get(option.variable), option.variable, "environment"
        if text is None:
            continue
        try:
            chosen[option.field] = option.parse(text)
            origins[option.field] = origin
        except ValueError as error:
            fault = f"{place}: invalid value {text!r}: {error}"
            if option.lenient and origin == "environment":
                warn(f"{fault}; using the default {option.default}")
            else:
                faults.append(fault)
    settings = Settings(**chosen)
    faults += _disagreements(settings)
    if faults:
        raise SettingsError("\n".join(faults))
    for doubt in _doubts(settings, environ):
        warn(doubt)
    return Effective(settings, origins)


def _disagreements(settings: Settings) -> Iterator[str]:
    """Yield what is wrong with settings that are right one by one."""
    if not settings.auth_token and settings.allow_unauthenticated is False:
        yield INSECURE
    if bool(settings.tls_cert_file) != bool(settings.tls_key_file):
        missing = "TLS_KEY_FILE" if settings.tls_cert_file else "TLS_CERT_FILE"
        yield f"TLS_CERT_FILE and TLS_KEY_FILE go together: {missing} is not set"
    if settings.mtls_mode != "off":
        if not settings.tls_client_ca_file:
            yield f"MTLS_MODE {settings.mtls_mode} needs TLS_CLIENT_CA_FILE"
        if not (settings.tls_cert_file or settings.tls_key_file):
            yield f"MTLS_MODE {settings.mtls_mode} needs TLS_CERT_FILE and TLS_KEY_FILE"


def _doubts(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what is allowed and hardly meant."""
    if settings.tls_client_ca_file and settings.mtls_mode == "off":
        yield "TLS_CLIENT_CA_FILE plays no part while MTLS_MODE is off: no client certificate is asked for"
    for name in environ:
        if name in _VARIABLES or name.count("_") + 1 < _WORDS:
            continue
        for close in difflib.get_close_matches(name, _VARIABLES, n=1, cutoff=_CLOSE):
            if name.partition("_")[0] == close.partition("_")[0]:
                yield f"{name} is no variable of the router; did you mean {close}?"


def markdown_tables() -> str:
    """Return the tables of options for the documents."""
    lines: list[str] = []
    for title, options in GROUPS.items():
        lines += [f"### {title[0].upper()}{title[1:]}", "", "| key | variable | default | meaning |"]
        lines.append("|---|---|---|---|")
        for option in options:
            variable = f"`{option.variable}`" if option.variable else "-"
            lines.append(f"| `{option.key}` | {variable} | `{option.default_text}` | {option.help} |")
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(markdown_tables(), end="")
