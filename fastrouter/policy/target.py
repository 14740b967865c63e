"""Routing headers -> Target (contract section 1)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fastrouter.errors import (
    DUPLICATE_HEADER,
    INVALID_NAMESPACE,
    INVALID_PORT,
    INVALID_SANDBOX_ID,
    MISSING_SANDBOX_ID,
    RouterError,
)
from fastrouter.wire.fields import Fields, select

DEFAULT_NAMESPACE: Final = b"default"
DEFAULT_PORT: Final = b"8888"
MAX_PORT: Final = 65535

# The names, and how they stand in error texts. All of them stop at the router.
ROUTING_HEADERS: Final = {
    name.lower().encode("ascii"): name
    for name in (
        "X-Sandbox-ID",
        "X-Sandbox-Namespace",
        "X-Sandbox-Port",
        "X-Sandbox-Pod-IP",
        "X-Sandbox-Timeout",
    )
}
ROUTING_NAMES: Final = frozenset(ROUTING_HEADERS)

# RFC 1123 2.1 as Kubernetes narrows it: lower case, at most 63 characters.
_LABEL: Final = re.compile(rb"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_DIGITS: Final = re.compile(rb"0*([0-9]{1,5})")


class PoolKey(NamedTuple):
    """Which requests may share a connection: those to one port of one sandbox, never of one address."""

    sandbox_id: str
    namespace: str
    port: int


class Target(NamedTuple):
    """Where a request goes: the name to dial, without the trailing dot of the DNS question."""

    key: PoolKey
    host: str

    @property
    def port(self) -> int:
        """The sandbox's TCP port."""
        return self.key.port

    @property
    def authority(self) -> bytes:
        """The ``Host`` that the sandbox sees."""
        return b"%b:%d" % (self.host.encode("ascii"), self.key.port)


def resolve_target(fields: Fields, cluster_domain: str) -> Target:
    """Return the target that the routing headers name; raise ``RouterError`` (400) where they do not."""
    routing = select(fields, ROUTING_NAMES)
    for name, found in routing.items():
        if len(found) > 1 and any(value != found[0] for value in found):
            raise RouterError(DUPLICATE_HEADER, header=ROUTING_HEADERS[name])  # any choice would be a guess
    sandbox_id = _first(routing, b"x-sandbox-id", b"")
    if not sandbox_id:
        raise RouterError(MISSING_SANDBOX_ID)
    if _LABEL.fullmatch(sandbox_id) is None:
        raise RouterError(INVALID_SANDBOX_ID)
    namespace = _first(routing, b"x-sandbox-namespace", DEFAULT_NAMESPACE)
    if _LABEL.fullmatch(namespace) is None:
        raise RouterError(INVALID_NAMESPACE)
    port = _port(_first(routing, b"x-sandbox-port", DEFAULT_PORT))
    key = PoolKey(sandbox_id.decode("ascii"), namespace.decode("ascii"), port)
    return Target(key, f"{key.sandbox_id}.{key.namespace}.svc.{cluster_domain}")


def _first(routing: dict[bytes, list[bytes]], name: bytes, default: bytes) -> bytes:
    """Return the header's value, or the default for an absent one; an empty one is malformed, not absent."""
    found = routing.get(name)
    return found[0] if found else default


def _port(value: bytes) -> int:
    match = _DIGITS.fullmatch(value)
    port = int(match[1]) if match else 0
    if not 1 <= port <= MAX_PORT:
        raise RouterError(INVALID_PORT)
    return port
