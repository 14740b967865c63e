"""The effective settings of a router: what ``fastrouter.config`` makes of flags, file and environment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Final

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


_PASSWORD: Final = re.compile(r"(?<=//)[^/@]*@")


class SettingsError(Exception):
    """A setting has a value that it cannot have; the text names both."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings. Times are seconds."""

    host: str = "0.0.0.0"  # noqa: S104 - the router's job is to be reached
    port: int = 8080
    https_port: int = 8443
    workers: int = 1
    health_port: int | None = 8081
    metrics_port: int | None = 9090
    cluster_domain: str = "cluster.local"
    dns_servers: tuple[str, ...] = ()
    dial_retry: float = 3.0
    max_keepalive: int = 20
    keepalive_expiry: float = 4.0
    proxy_timeout: float = 180.0
    request_head_timeout: float = 10.0
    client_keepalive: float = 650.0
    shutdown_grace: float = 30.0
    shutdown_delay: float = 0.0
    max_connections: int = 0
    max_per_sandbox: int = 0
    max_body: int = 0
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
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_client_ca_file: str = ""
    mtls_mode: str = "off"
    access_log: bool = True
    access_log_sample: float = 1.0
    log_format: str = "json"
    log_level: str = "info"
    request_id: bool = True
    otel_endpoint: str = ""

    @property
    def honours_pod_ip(self) -> bool:
        """Whether clients may name an address: only where somebody decided who may use the router."""
        return bool(self.auth_token) or self.allow_unauthenticated is True

    def shown(self) -> dict[str, object]:
        """Return the settings for the log: the token is not in it, only that there is one."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["otel_endpoint"] = _PASSWORD.sub("***@", self.otel_endpoint)
        values["auth_token"] = "***" if self.auth_token else ""
        values["trusted_proxies"] = [str(network) for network in self.trusted_proxies]
        return values
