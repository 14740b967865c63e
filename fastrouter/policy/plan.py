"""What follows from the bytes of a head alone, worked out once: the values of the two head caches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _escape
from typing import Final

from fastrouter.errors import BODY_TOO_LARGE, RouterError
from fastrouter.policy import rewrite
from fastrouter.policy.ids import REQUEST_ID, TRACESTATE, request_id_of, traceparent_of
from fastrouter.policy.rules import Rules
from fastrouter.policy.target import Target, resolve_target, timeout_of
from fastrouter.wire.fields import values
from fastrouter.wire.framing import CHUNKED, UNTIL_CLOSE, Framing
from fastrouter.wire.heads import RequestHead, ResponseHead, parse_request, parse_response

_HEALTH_PATH: Final = b"/healthz"
# RFC 9110 9.2.2.
_METHODS: Final = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT"})
OTHER: Final = "other"
"""Stands for every method that is not among the usual ones: clients may invent them."""
NONE: Final = "none"
"""Stands for the namespace where the routing headers name no sandbox."""
_IDEMPOTENT: Final = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"TRACE"})


# Slots, and no named tuple: the latter's members are looked up four times as slowly.
@dataclass(slots=True)
class RequestPlan:
    """One request, parsed and decided as far as its bytes decide it."""

    method: bytes
    http11: bool
    keep_alive: bool
    expects_continue: bool
    target: Target | RouterError
    """Where the routing headers are at fault, the error that the request fails with, in its turn."""
    upstream_head: bytes
    """The head for the sandbox, up to the peer's address."""
    trusted_head: bytes
    """The same for a peer that is a trusted proxy; empty where the rules trust none."""
    forwarded_for: bytes
    """The inbound ``X-Forwarded-For``, where the rules trust proxies."""
    credentials: bytes | None
    """What the router's token is compared with: None where it is absent, or said in two ways."""
    timeout: float | None
    """Seconds of ``X-Sandbox-Timeout``, capped; None: the default."""
    timeout_fault: str | None
    """The ``X-Sandbox-Timeout`` that is no time: the log is told."""
    upgrade: bytes
    """The protocol that the request may switch to, as the client wrote it; empty: none."""
    body_length: int
    """Bytes of the body; -1 where only its end will tell: it is chunked."""
    is_health_check: bool
    is_idempotent: bool
    route: Target | None
    """The target, where nothing but the router's state can stand between the request and its sandbox: no
    fault, no upgrade, the body's length known, the connection kept. None in any other case."""
    usual_reply: bool
    """Whether ``ResponsePlan.kept_head`` fits: HTTP/1.1, and a method whose response has a body."""
    log_subject: str
    """The members of the access line that name the request: JSON, escaped, without braces."""
    counted: tuple[str, str]
    """Method and namespace, as metrics know them: ``OTHER`` and ``NONE`` among them; ``@`` before a namespace
    tells that the sandbox is reached by an address."""
    request_id: bytes
    """The ``X-Request-ID`` that the client gave it; empty: the router gives it one."""
    traceparent: bytes
    """The ``traceparent`` that the client gave it, unchecked."""
    tracestate: bytes
    """The ``tracestate`` with it, where the router traces."""

    def with_values(  # noqa: PLR0913, PLR0917 - a tuple around them would cost as much as the rest
        self,
        upstream_head: bytes,
        trusted_head: bytes,
        body_length: int,
        timeout: float | None,
        request_id: bytes,
        traceparent: bytes,
    ) -> RequestPlan:
        """Return the plan of a head that differs in values only; each member is named, since that is fast."""
        return RequestPlan(
            self.method,
            self.http11,
            self.keep_alive,
            self.expects_continue,
            self.target,
            upstream_head,
            trusted_head,
            self.forwarded_for,
            self.credentials,
            timeout,
            self.timeout_fault,
            self.upgrade,
            body_length,
            self.is_health_check,
            self.is_idempotent,
            self.route,
            self.usual_reply,
            self.log_subject,
            self.counted,
            request_id,
            traceparent,
            self.tracestate,
        )


@dataclass(slots=True)
class ResponsePlan:
    """One response head with its bytes for the usual client: HTTP/1.1, connection kept."""

    status: int
    keep_alive: bool
    framing: Framing
    """As the head states it: the method or the status may say "no body"."""
    raw: bytes
    """The head as it came, for those who need its fields: see ``head``."""
    kept_head: bytes
    """The head for the usual client, without the empty line: see ``rewrite.response_head``."""
    is_final: bool
    """False for 1xx: the response is still to come."""
    length: int
    """Bytes of the body, -1 where only its end will tell; says nothing for HEAD."""
    has_request_id: bool
    """Whether the sandbox tells an ``X-Request-ID``: then the router adds none."""

    def head(self) -> ResponseHead:
        """Return the head with its fields, parsed again: few need them, and thousands of plans are kept."""
        return parse_response(self.raw)


def plan_request(raw: bytes, rules: Rules) -> RequestPlan:
    """Parse a request head and plan its way; raise ``MalformedMessageError``."""
    head = parse_request(raw)
    path = head.target.partition(b"?")[0]
    upgrade = _upgrade(head, rules) if b"upgrade" in head.options else b""
    target: Target | RouterError
    upstream_head = trusted_head = b""
    try:
        target = resolve_target(head.fields, rules.cluster_domain, honour_pod_ip=rules.honour_pod_ip)
        if rules.targets is not None:
            target = rules.targets.one(target)
        if 0 < rules.longest_body < head.framing.length:
            raise RouterError(BODY_TOO_LARGE)
        upstream_head = rewrite.request_head(head, target, rules, upgrade=upgrade)
        if rules.trusts_proxies:
            trusted_head = rewrite.request_head(head, target, rules, trusted=True, upgrade=upgrade)
    except RouterError as error:
        target = error.again()
    timeout, timeout_fault = _timeout(head, rules)
    is_health_check = path == _HEALTH_PATH and head.method in {b"GET", b"HEAD"}
    usual_reply = head.http11 and head.method != b"HEAD"
    usual = usual_reply and head.keep_alive and head.framing is not CHUNKED
    usual = usual and not (upgrade or is_health_check or timeout_fault)
    return RequestPlan(
        method=head.method,
        http11=head.http11,
        keep_alive=head.keep_alive,
        expects_continue=head.expects_continue,
        target=target,
        upstream_head=upstream_head,
        trusted_head=trusted_head,
        forwarded_for=b",".join(values(head.fields, b"x-forwarded-for")) if rules.trusts_proxies else b"",
        credentials=_credentials(head, rules),
        timeout=timeout,
        timeout_fault=timeout_fault,
        upgrade=upgrade,
        body_length=-1 if head.framing is CHUNKED else head.framing.length,
        is_health_check=is_health_check,
        is_idempotent=head.method in _IDEMPOTENT,
        route=target if isinstance(target, Target) and usual else None,
        usual_reply=usual_reply,
        log_subject=_log_subject(head.method, path, target if isinstance(target, Target) else None),
        counted=_counted(head.method, target),
        request_id=request_id_of(head) if rules.request_ids else b"",
        traceparent=traceparent_of(head.fields),
        tracestate=b",".join(values(head.fields, TRACESTATE)) if rules.traces else b"",
    )


def plan_response(raw: bytes) -> ResponsePlan:
    """Parse a response head and write it for the usual client; raise ``MalformedMessageError``."""
    head = parse_response(raw)
    known = head.framing_for(b"GET")
    return ResponsePlan(
        status=head.status,
        keep_alive=head.keep_alive,
        framing=head.framing,
        raw=raw,
        kept_head=rewrite.response_head(head, http11=True, close=False),
        is_final=not head.informational,
        length=-1 if known is CHUNKED or known is UNTIL_CLOSE else known.length,
        has_request_id=any(name == REQUEST_ID and value for name, _, value in head.fields)
        and REQUEST_ID not in head.options,
    )


def _credentials(head: RequestHead, rules: Rules) -> bytes | None:
    if not rules.credentials:
        return None
    found = set(values(head.fields, rules.credentials))
    return found.pop() if len(found) == 1 else None


def _timeout(head: RequestHead, rules: Rules) -> tuple[float | None, str | None]:
    try:
        return timeout_of(head.fields, rules.longest_timeout), None
    except ValueError as error:
        return None, str(error)


def _upgrade(head: RequestHead, rules: Rules) -> bytes:
    """Return the first offered protocol that is allowed (RFC 9110 7.8).

    A request with a body is not upgraded: its tunnel would begin where the body ends, and nobody does that.
    """
    if not head.http11 or head.framing is CHUNKED or head.framing.length:
        return b""
    offered = b",".join(values(head.fields, b"upgrade")).split(b",")
    return next((each.strip() for each in offered if each.strip().lower() in rules.upgrades), b"")


def _log_subject(method: bytes, path: bytes, target: Target | None) -> str:
    """Name the request in JSON; a method and a label hold nothing that needs an escape."""
    sandbox = f'"{target.key.sandbox_id}"' if target else "null"
    namespace = f'"{target.key.namespace}"' if target else "null"
    return (
        f'"method":"{method.decode("ascii")}","path":{_escape(path.decode("ascii"))},'
        f'"sandbox_id":{sandbox},"namespace":{namespace}'
    )


def _counted(method: bytes, target: Target | RouterError) -> tuple[str, str]:
    name = method.decode("ascii") if method in _METHODS else OTHER
    if not isinstance(target, Target):
        return _pair(name, NONE)
    # No DNS has confirmed a namespace beside an address: a client may have invented it.
    return _pair(name, ("" if target.key.endswith("/") else "@") + target.key.namespace)


@lru_cache(maxsize=1024)
def _pair(method: str, namespace: str) -> tuple[str, str]:
    """Return one object for all plans that are counted alike: with 10,000 sandboxes, what costs is memory."""
    return method, namespace
