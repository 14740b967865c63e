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
from fastrouter.wire.fields import Fields, values

DEFAULT_NAMESPACE: Final = b"default"
DEFAULT_PORT: Final = b"8888"
MAX_PORT: Final = 65535

# The names as they stand in error texts. All of them stop at the router.
ROUTING_HEADERS: Final = (
    "X-Sandbox-ID",
    "X-Sandbox-Namespace",
    "X-Sandbox-Port",
    "X-Sandbox-Pod-IP",
    "X-Sandbox-Timeout",
)

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
    routing = {name: _single(fields, name) for name in ROUTING_HEADERS}
    sandbox_id = routing["X-Sandbox-ID"]
    if not sandbox_id:
        raise RouterError(MISSING_SANDBOX_ID)
    if _LABEL.fullmatch(sandbox_id) is None:
        raise RouterError(INVALID_SANDBOX_ID)
    namespace = _or_default(routing["X-Sandbox-Namespace"], DEFAULT_NAMESPACE)
    if _LABEL.fullmatch(namespace) is None:
        raise RouterError(INVALID_NAMESPACE)
    port = _port(_or_default(routing["X-Sandbox-Port"], DEFAULT_PORT))
    key = PoolKey(sandbox_id.decode("ascii"), namespace.decode("ascii"), port)
    return Target(key, f"{key.sandbox_id}.{key.namespace}.svc.{cluster_domain}")


def _single(fields: Fields, name: str) -> bytes | None:
    """Return the header's one value; different values are refused: any choice would be a guess."""
    found = values(fields, name.lower().encode("ascii"))
    if not found:
        return None
    if any(value != found[0] for value in found):
        raise RouterError(DUPLICATE_HEADER, header=name)
    return found[0]


def _or_default(value: bytes | None, default: bytes) -> bytes:
    """Put the default for an absent header; an empty one is malformed, not absent."""
    return default if value is None else value


def _port(value: bytes) -> int:
    match = _DIGITS.fullmatch(value)
    port = int(match[1]) if match else 0
    if not 1 <= port <= MAX_PORT:
        raise RouterError(INVALID_PORT)
    return port
