"""From the text of a setting to its value. Each raises ``ValueError`` that says what the text is not."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Final

_TRUE: Final = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE: Final = frozenset({"0", "false", "f", "no", "n", "off"})
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DOMAIN: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_LAST_PORT: Final = 65535
_MOST_WORKERS: Final = 256

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def seconds(*, zero: bool) -> Callable[[str], float]:
    """Return the parser of a finite number of seconds, 0 included or not."""

    def parse(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise ValueError("not a number of seconds" + ("" if zero else " above 0"))
        return value

    return parse


def count(text: str) -> int:
    """Read a whole number of at most 15 digits."""
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise ValueError("not a whole number")
    return int(text)


def port(text: str) -> int:
    """Read a TCP port."""
    number = count(text)
    if number > _LAST_PORT:
        raise ValueError("not a port")
    return number


def host(text: str) -> str:
    """Read an address or a name to listen on."""
    try:
        text.encode("idna")
    except UnicodeError as error:
        raise ValueError("neither an address nor a name") from error
    return text


def file(text: str) -> str:
    """Read the name of a file."""
    if "\0" in text:
        raise ValueError("not the name of a file")
    return text


def port_or_off(text: str) -> int | None:
    """Read a TCP port, or ``off``: None."""
    return None if text.strip().lower() == "off" else port(text)


def workers(text: str) -> int:
    """Read how many processes; ``auto`` is 0."""
    if text.strip().lower() == "auto":
        return 0
    number = count(text)
    if not 1 <= number <= _MOST_WORKERS:
        raise ValueError(f"neither auto nor 1 to {_MOST_WORKERS}")
    return number


def fraction(text: str) -> float:
    """Read a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("not a number from 0 to 1")
    return value


def choice(*names: str) -> Callable[[str], str]:
    """Return the parser of one of ``names``, in any case."""

    def parse(text: str) -> str:
        name = text.strip().lower()
        if name not in names:
            raise ValueError("not one of " + ", ".join(names))
        return name

    return parse


def is_true(text: str) -> bool:
    """Tell whether the text is one of the spellings of yes; anything else is no."""
    return text.strip().lower() in _TRUE


def flag(text: str) -> bool:
    """Read yes or no in any of the usual spellings."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("neither true nor false")


def domain(text: str) -> str:
    """Read a DNS domain; the dots around it do not count."""
    name = text.strip().strip(".").lower()
    if not _DOMAIN.fullmatch(name):
        raise ValueError("not a domain name")
    return name


def servers(text: str) -> tuple[str, ...]:
    """Read DNS servers, comma-separated."""
    return tuple(server(part.strip()) for part in text.split(",") if part.strip())


def networks(text: str) -> tuple[Network, ...]:
    """Read networks, comma-separated; bits behind the prefix are dropped, as the reference router does."""
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())


def tokens(text: str) -> tuple[str, ...]:
    """Read tokens, comma-separated, lower case."""
    return tuple(token(part.strip().lower()) for part in text.split(",") if part.strip())


def token(text: str) -> str:
    """Read one token (RFC 9110 5.6.2)."""
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{text!r} is not a token")
    return text


def server(text: str) -> str:
    """Check one ``address``, ``address:port`` or ``[address]:port``."""
    match = re.fullmatch(
        r"\[(?P<v6>[^\]]+)\](?::(?P<p6>[0-9]+))?|(?P<v4>[0-9.]+)(?::(?P<p4>[0-9]+))?|(?P<bare>[0-9a-fA-F:.]+)",
        text,
    )
    if match is None:
        raise ValueError(f"{text!r} is not an address with an optional port")
    ipaddress.ip_address(match["v6"] or match["v4"] or match["bare"])
    port(match["p6"] or match["p4"] or "53")
    return text
