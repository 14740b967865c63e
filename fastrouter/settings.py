"""One table of all settings: variable, flag, type, default, bounds, help. Pure: the environment is handed in.

The README's table is generated from it (``python -m fastrouter.settings``), and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from fastrouter import parsers
from fastrouter.parsers import Network

INSECURE: Final = (
    "ROUTER_AUTH_TOKEN must be set to start the sandbox router securely. "
    "To run it open on purpose, set ALLOW_UNAUTHENTICATED_ROUTER=true."
)
UNCONFIGURED: Final = (
    "NO AUTHENTICATION: whoever reaches this port reaches every sandbox. Set ROUTER_AUTH_TOKEN, or "
    "ALLOW_UNAUTHENTICATED_ROUTER=true where something else keeps strangers out. "
    "Until then X-Sandbox-Pod-IP is ignored."
)


class SettingsError(Exception):
    """A setting has a value that it cannot have; the text names both."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings. Times are seconds."""

    host: str = "0.0.0.0"  # noqa: S104 - the router's job is to be reached
    port: int = 8080
    proxy_timeout: float = 180.0
    cluster_domain: str = "cluster.local"
    dns_servers: tuple[str, ...] = ()
    dial_retry: float = 3.0
    max_keepalive: int = 20
    keepalive_expiry: float = 4.0
    request_head_timeout: float = 10.0
    client_keepalive: float = 650.0
    shutdown_grace: float = 30.0
    max_connections: int = 0
    max_per_sandbox: int = 0
    max_body: int = 0
    access_log: bool = True
    auth_token: str = field(default="", repr=False)
    auth_header: str = "Authorization"
    allow_unauthenticated: bool | None = None
    forward_authorization: bool = False
    trusted_proxies: tuple[Network, ...] = ()
    upgrade_protocols: tuple[str, ...] = ("websocket",)
    forward_websocket_origin: bool = False
    websocket_idle_timeout: float = 3600.0
    websocket_max_lifetime: float = 86400.0
    websocket_max_per_client: int = 64
    websocket_max_message: int = 16 * 1024 * 1024

    @property
    def honours_pod_ip(self) -> bool:
        """Whether clients may name an address: only where somebody decided who may use the router."""
        return bool(self.auth_token) or self.allow_unauthenticated is True

    def shown(self) -> dict[str, object]:
        """Return the settings for the log: the token is not in it, only that there is one."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["auth_token"] = "***" if self.auth_token else ""
        values["trusted_proxies"] = [str(network) for network in self.trusted_proxies]
        return values


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table."""

    field: str
    parse: Callable[[str], Any]
    help: str
    variable: str | None = None
    flag: str | None = None
    lenient: bool = False
    """The reference router has this variable: an invalid value is a warning there, so it is one here."""

    @property
    def default(self) -> Any:
        """The value where nothing is set."""
        return next(field.default for field in fields(Settings) if field.name == self.field)

    @property
    def name(self) -> str:
        """What the user wrote to set it."""
        return self.variable or self.flag or self.field


OPTIONS: Final = (
    Option("host", str, "Address to listen on.", flag="--host"),
    Option("port", parsers.port, "Port to listen on; 0 takes a free one.", flag="--port"),
    Option(
        "proxy_timeout",
        parsers.seconds(zero=False),
        "Longest silence of an exchange: until the response head, then between bytes in either direction.",
        variable="PROXY_TIMEOUT_SECONDS",
        lenient=True,
    ),
    Option(
        "cluster_domain", parsers.domain, "The cluster's DNS domain.", variable="CLUSTER_DOMAIN", lenient=True
    ),
    Option(
        "dns_servers",
        parsers.servers,
        "DNS servers, comma-separated, port optional (`10.0.0.10:53`); unset: those of `/etc/resolv.conf`.",
        variable="DNS_SERVERS",
    ),
    Option(
        "dial_retry",
        parsers.seconds(zero=True),
        "How long a dial that failed before a byte was sent is tried again; 0: once.",
        variable="DIAL_RETRY_SECONDS",
    ),
    Option(
        "max_keepalive",
        parsers.count,
        "Idle connections kept per sandbox; 0: a fresh look-up and connection for every request.",
        variable="MAX_KEEPALIVE_CONNECTIONS",
        lenient=True,
    ),
    Option(
        "keepalive_expiry",
        parsers.seconds(zero=False),
        "How long an idle connection to a sandbox is kept.",
        variable="KEEPALIVE_EXPIRY_SECONDS",
    ),
    Option(
        "request_head_timeout",
        parsers.seconds(zero=False),
        "Time for a client to send a request head.",
        variable="REQUEST_HEAD_TIMEOUT_SECONDS",
    ),
    Option(
        "client_keepalive",
        parsers.seconds(zero=False),
        "How long an idle client connection is kept.",
        variable="CLIENT_KEEPALIVE_SECONDS",
    ),
    Option(
        "shutdown_grace",
        parsers.seconds(zero=True),
        "How long exchanges may finish after SIGTERM or SIGINT.",
        variable="SHUTDOWN_GRACE_SECONDS",
    ),
    Option(
        "max_connections",
        parsers.count,
        "Client connections at once; more are answered 503. 0: as many as the open-file limit allows.",
        variable="MAX_CONNECTIONS",
    ),
    Option(
        "max_per_sandbox",
        parsers.count,
        "Requests that one sandbox has at once; more are answered 429. 0: any number.",
        variable="MAX_CONNECTIONS_PER_SANDBOX",
    ),
    Option(
        "max_body",
        parsers.count,
        "Longest request body in bytes; a longer one is answered 413. 0: any length.",
        variable="MAX_REQUEST_BODY_BYTES",
    ),
    Option("access_log", parsers.flag, "One line per request on standard output.", variable="ACCESS_LOG"),
    Option(
        "auth_token",
        str.strip,
        "With it, every request needs `Authorization: Bearer <token>`.",
        variable="ROUTER_AUTH_TOKEN",
    ),
    Option(
        "auth_header",
        parsers.token,
        "The header that carries the token; another one leaves `Authorization` to the sandbox.",
        variable="ROUTER_AUTH_HEADER",
    ),
    Option(
        "allow_unauthenticated",
        parsers.is_true,
        "`true`: open on purpose. Anything else, without a token: the router refuses to start.",
        variable="ALLOW_UNAUTHENTICATED_ROUTER",
    ),
    Option(
        "forward_authorization",
        parsers.flag,
        "Pass `Authorization` on to the sandbox where it is not the router's.",
        variable="FORWARD_AUTHORIZATION",
    ),
    Option(
        "trusted_proxies",
        parsers.networks,
        "Networks of proxies whose `X-Forwarded-*` count, comma-separated.",
        variable="TRUSTED_PROXY_CIDRS",
        lenient=True,
    ),
    Option(
        "upgrade_protocols",
        parsers.tokens,
        "Protocols that a request may upgrade to, comma-separated; `h2c` never.",
        variable="UPGRADE_PROTOCOLS",
    ),
    Option(
        "forward_websocket_origin",
        parsers.flag,
        "Pass `Origin` of upgrades on to the sandbox.",
        variable="FORWARD_WEBSOCKET_ORIGIN",
    ),
    Option(
        "websocket_idle_timeout",
        parsers.seconds(zero=True),
        "A tunnel without a byte for so long is closed; 0: never.",
        variable="WEBSOCKET_IDLE_TIMEOUT_SECONDS",
        lenient=True,
    ),
    Option(
        "websocket_max_lifetime",
        parsers.seconds(zero=True),
        "A tunnel is closed after so long; 0: never.",
        variable="WEBSOCKET_MAX_LIFETIME_SECONDS",
        lenient=True,
    ),
    Option(
        "websocket_max_per_client",
        parsers.count,
        "Tunnels per client address; 0: any number.",
        variable="WEBSOCKET_MAX_CONNECTIONS_PER_CLIENT",
        lenient=True,
    ),
    Option(
        "websocket_max_message",
        parsers.count,
        "Longest message from a sandbox in bytes; 0: any length.",
        variable="WEBSOCKET_MAX_MESSAGE_BYTES",
        lenient=True,
    ),
)


def load(
    flags: Mapping[str, str | None], environ: Mapping[str, str], warn: Callable[[str], None]
) -> Settings:
    """Return the settings of flags (by field name) over environment over defaults.

    Raises ``SettingsError``; calls ``warn`` for an invalid value that the reference router would survive.
    """
    chosen: dict[str, Any] = {}
    for option in OPTIONS:
        text = flags.get(option.field)
        if text is None and option.variable is not None:
            text = environ.get(option.variable)
        if text is None:
            continue
        try:
            chosen[option.field] = option.parse(text)
        except ValueError as error:
            message = f"{option.name}: invalid value {text!r}: {error}"
            if not option.lenient:
                raise SettingsError(message) from error
            warn(f"{message}; using the default {option.default}")
    settings = Settings(**chosen)
    if not settings.auth_token and settings.allow_unauthenticated is False:
        raise SettingsError(INSECURE)
    return settings


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    if isinstance(default, tuple):
        return ",".join(default) or "unset"
    return str(default or "unset")


def markdown_table() -> str:
    """Return the table of options for the README."""
    rows = ["| variable or flag | default | meaning |", "|---|---|---|"]
    rows += [f"| `{option.name}` | `{_shown(option.default)}` | {option.help} |" for option in OPTIONS]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(markdown_table(), end="")
