"""What an agent of `bench/locustfile.py` is told by the environment, sends and expects, without locust.

locust patches the standard library with gevent as soon as it is imported; nothing here needs that.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

KINDS: Final = ("execute", "upload", "download", "list", "exists", "stream", "think")
DEFAULT_MIX: Final = "execute=10,upload=2,download=3,list=2,exists=2,stream=1,think=10"
REASON_HEADER: Final = "X-Sandbox-Router-Error"
OK: Final = 200
_LABEL: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MOST_WEIGHT: Final = 1000
_LAST_PORT: Final = 65535


class SettingError(ValueError):
    """A variable has a value that it cannot have; the text names both."""


class AnswerError(Exception):
    """A sandbox or the router answered something else than it should have."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment decides; the docstring of `bench/locustfile.py` explains each variable."""

    router: str = "http://127.0.0.1:8080"
    sandboxes: int = 5
    sandbox_name: str = "sandbox-{n}"
    namespace: str = "default"
    sandbox_port: int = 8888
    mix: Mapping[str, int] = field(default_factory=lambda: _mix(DEFAULT_MIX))
    think_seconds: float = 0.5
    session_tasks: int = 50
    execute_bytes: int = 16
    upload_bytes: int = 16 * 1024
    stream_path: str = "/clock?interval=0.05&count=10"
    timeout_seconds: float = 59.999
    auth_token: str = field(default="", repr=False)
    auth_header: str = "Authorization"

    def name_of(self, number: int) -> str:
        """Return the name of a sandbox; numbers count from 1."""
        return self.sandbox_name.replace("{n}", str(number))

    def headers(self, sandbox: str) -> dict[str, str]:
        """Return what an SDK adds to every request, with ids that no other request has."""
        trace = secrets.token_hex(16)
        headers = {
            "X-Sandbox-ID": sandbox,
            "X-Sandbox-Namespace": self.namespace,
            "X-Sandbox-Port": str(self.sandbox_port),
            "X-Sandbox-Timeout": f"{self.timeout_seconds:g}",
            "X-Request-ID": trace,
            "traceparent": f"00-{trace}-{trace[:16]}-01",
        }
        if self.auth_token:
            headers[self.auth_header] = f"Bearer {self.auth_token}"
        return headers


def read(environ: Mapping[str, str]) -> Settings:
    """Read the variables; raise ``SettingError`` for the first that has no usable value."""
    given: dict[str, Any] = {}
    for variable, (name, parse) in VARIABLES.items():
        text = environ.get(variable, "").strip()
        if not text:
            continue  # `SANDBOXES= make bench-locust` means the default, as for make's own variables
        try:
            given[name] = parse(text)
        except ValueError as error:
            shown = "***" if "TOKEN" in variable else repr(text)
            raise SettingError(f"{variable}={shown}: {error}") from error
    settings = Settings(**given)
    last = settings.name_of(settings.sandboxes)
    if not _LABEL.fullmatch(last):
        raise SettingError(f"SANDBOX_NAME={settings.sandbox_name!r}: {last!r} is no sandbox id (DNS label)")
    if settings.sandboxes > 1 and settings.name_of(1) == last:
        raise SettingError(f"SANDBOX_NAME={settings.sandbox_name!r}: no {{n}} to tell the sandboxes apart")
    return settings


def _mix(text: str) -> dict[str, int]:
    weights = dict.fromkeys(KINDS, 0)
    seen: set[str] = set()
    for part in text.split(","):
        kind, _, number = (word.strip() for word in part.partition("="))
        if kind not in weights:
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
        if kind in seen:
            raise ValueError(f"{kind} is named twice")
        seen.add(kind)
        weights[kind] = _between(0, _MOST_WEIGHT)(number)
    if not sum(weights.values()):
        raise ValueError("every weight is 0")
    return weights


def _between(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) <= most:
            raise ValueError(f"not a whole number from {least} to {most}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError("not a number of seconds")
    return value


def _timeout(text: str) -> float:
    value = _seconds(text)
    if not value:
        raise ValueError("not a number of seconds above 0")
    return value


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"not {what}")
        return text

    return parse


VARIABLES: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "ROUTER": ("router", _matching(re.compile(r"https?://[^/\s]+"), "http://HOST:PORT")),
    "SANDBOXES": ("sandboxes", _between(1, 1_000_000)),
    "SANDBOX_NAME": ("sandbox_name", str),
    "SANDBOX_NAMESPACE": ("namespace", _matching(_LABEL, "a namespace (DNS label)")),
    "SANDBOX_PORT": ("sandbox_port", _between(1, _LAST_PORT)),
    "MIX": ("mix", _mix),
    "THINK_SECONDS": ("think_seconds", _seconds),
    "SESSION_TASKS": ("session_tasks", _between(0, 1_000_000)),
    "EXECUTE_BYTES": ("execute_bytes", _between(16, 100 * 1024)),
    "UPLOAD_BYTES": ("upload_bytes", _between(1, 1024 * 1024 * 1024)),
    "STREAM_PATH": ("stream_path", _matching(re.compile(r"/[!-~]*"), "a path that begins with /")),
    "TIMEOUT_SECONDS": ("timeout_seconds", _timeout),
    "ROUTER_AUTH_TOKEN": ("auth_token", _matching(re.compile(r"[!-~]+"), "a token without blanks")),
    "ROUTER_AUTH_HEADER": ("auth_header", _matching(_TOKEN, "the name of a header")),
}


def pattern(mark: str, size: int) -> bytes:
    """Return ``size`` bytes that only the holder of ``mark`` sends: a mix-up of two agents shows."""
    unit = mark.encode() + b"\n"
    return (unit * (size // len(unit) + 1))[:size]


def multipart(name: str, content: bytes) -> tuple[str, bytes]:
    """Return content type and body of a form with one file, as the SDK's upload sends it (RFC 7578)."""
    boundary = secrets.token_hex(16)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return f"multipart/form-data; boundary={boundary}", b"%b%b\r\n--%b--\r\n" % (
        head.encode(),
        content,
        boundary.encode(),
    )


def quoted(path: str) -> str:
    """Quote a path for `/download/...` and its like: a slash within it becomes ``%2F``, as in the SDK."""
    return quote(path, safe="")


def events_expected(stream_path: str) -> int | None:
    """Return how many events the stream promises (``count`` in its query); None where it does not."""
    counts = parse_qs(urlsplit(stream_path).query).get("count", [])
    return int(counts[0]) if counts and counts[0].isdigit() else None


def check_status(status: int, reason: str | None, error: object) -> None:
    """Raise unless the answer is a 200; the text has the router's reason word, or what broke off."""
    if not status:
        raise AnswerError(f"no answer: {error or 'the connection was closed'}")
    if status != OK:
        raise AnswerError(f"{status} {reason}" if reason else f"{status} from the sandbox")


def decoded(content: bytes | None) -> object:
    """Return the JSON value of an answer; ``AnswerError`` where it is none."""
    try:
        return json.loads(content or b"")
    except ValueError as error:
        raise AnswerError("the answer is no JSON") from error


def member(value: object, name: str) -> object:
    """Return a member of a JSON object; None where there is none."""
    return value.get(name) if isinstance(value, dict) else None


def expect(found: object, expected: object, what: str) -> None:
    """Raise unless both are equal; without the values, or no two failures would be the same."""
    if found != expected:
        raise AnswerError(f"wrong {what}")
