"""One table of all settings, by group: variable, key, flag, type, default, bounds, help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

from fastrouter import parsers
from fastrouter.settings import Settings


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table."""

    field: str
    parse: Callable[[str], Any]
    help: str
    variable: str | None = None
    lenient: bool = False
    """The reference router has this variable: an invalid value is a warning there, so it is one here."""
    secret: bool = False
    """It has no flag, since whoever lists processes would see it, and its value is never shown."""
    choices: tuple[str, ...] = ()

    @property
    def default(self) -> Any:
        """The value where nothing is set."""
        return next(field.default for field in fields(Settings) if field.name == self.field)

    @property
    def default_text(self) -> str:
        """The default as the user would write it; ``unset`` where there is none."""
        default = self.default
        if isinstance(default, bool):
            return str(default).lower()
        if isinstance(default, float):
            return f"{default:g}"
        if isinstance(default, tuple):
            return ",".join(default) or "unset"
        return "unset" if default is None else str(default) or "unset"

    @property
    def key(self) -> str:
        """Its name in the configuration file."""
        return (self.variable or self.field).lower()

    @property
    def flag(self) -> str | None:
        """Its flag on the command line."""
        return None if self.secret else "--" + self.key.replace("_", "-")

    @property
    def name(self) -> str:
        """What documents call it."""
        return self.variable or self.flag or self.field

    @property
    def values(self) -> tuple[str, ...]:
        """All values that it may have, where they are few."""
        return ("true", "false") if self.parse in {parsers.flag, parsers.is_true} else self.choices

    @property
    def is_list(self) -> bool:
        """Whether its text is a comma-separated list."""
        return self.parse in {parsers.servers, parsers.networks, parsers.tokens}

    @property
    def is_file(self) -> bool:
        """Whether its value is the path of a file."""
        return self.key.endswith("_file")


def _choice(field: str, choices: tuple[str, ...], text: str, variable: str) -> Option:
    return Option(field, parsers.choice(*choices), text, variable=variable, choices=choices)


GROUPS: Final = {
    "listening": (
        Option("host", parsers.host, "Address to listen on."),
        Option("port", parsers.port, "Port to listen on; 0 takes a free one."),
        Option(
            "https_port",
            parsers.port,
            "Port for TLS, where there is a certificate; 0 takes a free one.",
            variable="HTTPS_PORT",
        ),
        Option(
            "workers",
            parsers.workers,
            "Processes that share the ports; `auto`: as many as CPUs are allowed.",
            variable="WORKERS",
        ),
        Option(
            "health_port",
            parsers.port_or_off,
            "Port of `/healthz`, `/readyz` and the status page; `off`: none.",
            variable="HEALTH_PORT",
        ),
        Option(
            "metrics_port",
            parsers.port_or_off,
            "Port of `/metrics`; `off`: none.",
            variable="METRICS_PORT",
        ),
    ),
    "sandboxes": (
        Option(
            "cluster_domain",
            parsers.domain,
            "The cluster's DNS domain.",
            variable="CLUSTER_DOMAIN",
            lenient=True,
        ),
        Option(
            "dns_servers",
            parsers.servers,
            "DNS servers, comma-separated, port optional (`10.0.0.10:53`). Unset: those of the system.",
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
    ),
    "time": (
        Option(
            "proxy_timeout",
            parsers.seconds(zero=False),
            "Longest silence of an exchange: until the response head, then between bytes.",
            variable="PROXY_TIMEOUT_SECONDS",
            lenient=True,
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
            "shutdown_delay",
            parsers.seconds(zero=True),
            "How long the router serves on after SIGTERM, not ready, so that load balancers notice first.",
            variable="SHUTDOWN_DELAY_SECONDS",
        ),
    ),
    "limits": (
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
    ),
    "authorization and forwarding": (
        Option(
            "auth_token",
            str.strip,
            "With it, every request needs `Authorization: Bearer <token>`.",
            variable="ROUTER_AUTH_TOKEN",
            secret=True,
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
    ),
    "tunnels": (
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
    ),
    "TLS": (
        Option(
            "tls_cert_file",
            parsers.file,
            "Certificate chain, PEM; with it, HTTPS is served.",
            variable="TLS_CERT_FILE",
        ),
        Option("tls_key_file", parsers.file, "The certificate's key, PEM.", variable="TLS_KEY_FILE"),
        Option(
            "tls_client_ca_file",
            parsers.file,
            "Authorities of client certificates, PEM; `MTLS_MODE` needs it.",
            variable="TLS_CLIENT_CA_FILE",
        ),
        _choice(
            "mtls_mode",
            ("off", "optional", "required"),
            "Client certificates: `off`, `optional` (verified where sent) or `required`.",
            "MTLS_MODE",
        ),
    ),
    "logs and traces": (
        Option("access_log", parsers.flag, "One line per request on standard output.", variable="ACCESS_LOG"),
        Option(
            "access_log_sample",
            parsers.fraction,
            "Share of the successful requests that get a line, 0 to 1; failures always do.",
            variable="ACCESS_LOG_SAMPLE",
        ),
        _choice("log_format", ("json", "console"), "`json` or `console`.", "LOG_FORMAT"),
        _choice(
            "log_level",
            ("debug", "info", "warning", "error"),
            "Least level that is logged: `debug`, `info`, `warning` or `error`.",
            "LOG_LEVEL",
        ),
        Option(
            "request_id",
            parsers.flag,
            "Give each request an `X-Request-ID`, or keep the client's. `false`: leave it alone.",
            variable="REQUEST_ID",
        ),
        Option(
            "otel_endpoint",
            str,
            "Where traces go (OTLP); needs `fastrouter[otel]`, which reads `OTEL_*` too.",
            variable="OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    ),
}

OPTIONS: Final = tuple(option for options in GROUPS.values() for option in options)
