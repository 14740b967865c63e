"""Routing headers -> Target (contract section 1)."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakValueDictionary

from fastrouter.errors import (
    DUPLICATE_HEADER,
    INVALID_NAMESPACE,
    INVALID_PORT,
    INVALID_SANDBOX_ID,
    INVALID_TARGET_IP,
    INVALID_TARGET_IP_FORMAT,
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
_DECIMAL: Final = re.compile(rb"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_TIMEOUT: Final = frozenset({b"x-sandbox-timeout"})
# IPv4-mapped, IPv4-compatible, IPv4-translated, and NAT64 addresses end in an IPv4 address.
_CARRIERS: Final = tuple(
    map(
        ipaddress.IPv6Network,
        ("::ffff:0:0/96", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"),
    )
)
_DIGITS: Final = re.compile(rb"0*([0-9]{1,5})")


class PoolKey(str):
    """Which requests may share a connection: those to one port of one sandbox.

    The sandbox is part of it also where an address is given: a recycled pod address must never serve
    another sandbox's warm connection.

    A string, ``<id>.<namespace>:<port>/<pod IP>``: it is looked up where a head is parsed or a
    sandbox is dialled, and keeps its hash.
    """

    __slots__ = ()

    def __new__(cls, sandbox_id: str, namespace: str, port: int, pod_ip: str = "") -> PoolKey:
        """Make a key of DNS labels, a port, and an address in its plain form."""
        return super().__new__(cls, f"{sandbox_id}.{namespace}:{port}/{pod_ip}")

    @property
    def sandbox_id(self) -> str:
        """The sandbox's name."""
        return self.partition(".")[0]

    @property
    def namespace(self) -> str:
        """The sandbox's namespace."""
        return self.partition(".")[2].partition(":")[0]

    @property
    def port(self) -> int:
        """The sandbox's TCP port."""
        return int(self.partition(":")[2].partition("/")[0])


@dataclass(slots=True, weakref_slot=True)
class Target:
    """Where a request goes. Those of one router that are equal are one object: see ``Targets``."""

    key: PoolKey
    host: str
    """The address or name to dial (without the trailing dot of the DNS question)."""
    top: Any = field(default=None, compare=False, repr=False)
    """The pool's: the top of the stack of idle connections to this target (``net.pool``)."""

    @property
    def port(self) -> int:
        """The sandbox's TCP port."""
        return self.key.port

    @property
    def authority(self) -> bytes:
        """The ``Host`` that the sandbox sees."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return b"%b:%d" % (host.encode("ascii"), self.key.port)


class Targets:
    """The targets that somebody holds, one object for each key: what is kept there needs no look-up.

    With 10,000 sandboxes, what costs is the number of objects that a request touches (docs/decisions/0016).
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakValueDictionary[PoolKey, Target] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<Targets {len(self._known)}>"

    def one(self, target: Target) -> Target:
        """Return the one object for all targets that are equal to this one."""
        return self._known.setdefault(target.key, target)


def resolve_target(fields: Fields, cluster_domain: str, *, honour_pod_ip: bool = False) -> Target:
    """Return the target that the routing headers name; raise ``RouterError`` (400) where they do not.

    ``honour_pod_ip`` off: ``X-Sandbox-Pod-IP`` plays no part, whatever it says.
    """
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
    pod_ip = ""
    if honour_pod_ip and b"x-sandbox-pod-ip" in routing:
        pod_ip = pod_address(routing[b"x-sandbox-pod-ip"][0])
    label, space = sandbox_id.decode("ascii"), namespace.decode("ascii")
    return Target(PoolKey(label, space, port, pod_ip), pod_ip or f"{label}.{space}.svc.{cluster_domain}")


def pod_address(value: bytes) -> str:
    """Return the address of ``X-Sandbox-Pod-IP`` in its plain form; raise ``RouterError`` (400).

    Addresses that lead to the router itself, its node or many hosts are refused, also behind the IPv6 forms
    that carry an IPv4 address (RFC 4291 2.5.5, RFC 2765 2.1, RFC 6052 2.1, RFC 8215).
    """
    text = value.decode("latin-1")
    bracketed = text.startswith("[") and text.endswith("]")
    try:
        address = ipaddress.IPv6Address(text[1:-1]) if bracketed else ipaddress.ip_address(text)
    except ValueError as error:
        raise RouterError(INVALID_TARGET_IP_FORMAT) from error
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise RouterError(INVALID_TARGET_IP_FORMAT)  # a zone means an interface of the router's node
    for each in (address, _embedded(address)):
        if each is not None and (
            each.is_loopback or each.is_link_local or each.is_multicast or each.is_unspecified
        ):
            raise RouterError(INVALID_TARGET_IP)
    return str(address)


def _embedded(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if any(address in network for network in _CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def timeout_of(fields: Fields, longest: float) -> float | None:
    """Return the seconds of ``X-Sandbox-Timeout``, at most ``longest``; None where it is absent.

    Raises ``ValueError`` for what is no decimal number above 0.
    """
    found = select(fields, _TIMEOUT).get(b"x-sandbox-timeout")
    if found is None:
        return None
    seconds = seconds_of(found[0], longest)
    if seconds is None:
        raise ValueError(found[0].decode("latin-1"))
    return seconds


def seconds_of(value: bytes, longest: float) -> float | None:
    """Return a decimal number of seconds, at most ``longest``; None for what is none, or not above 0."""
    seconds = float(value) if _DECIMAL.fullmatch(value) else 0.0
    return min(seconds, longest) if 0 < seconds < math.inf else None


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
