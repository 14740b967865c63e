"""What follows from the bytes of a head alone, worked out once: the values of the two head caches."""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from fastrouter.errors import RouterError
from fastrouter.policy import rewrite
from fastrouter.policy.target import Target, resolve_target
from fastrouter.wire.framing import Kind
from fastrouter.wire.heads import RequestHead, ResponseHead, parse_request, parse_response

_HEALTH_PATH: Final = b"/healthz"
# RFC 9110 9.2.2.
_IDEMPOTENT: Final = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"TRACE"})


class RequestPlan(NamedTuple):
    """One request, parsed and decided as far as its bytes decide it."""

    head: RequestHead
    target: Target | None
    """None where the routing headers are at fault: ``resolve_target`` raises the fault again, in its turn."""
    upstream_head: bytes
    """The head for the sandbox, up to the peer's address."""
    body_length: int
    """Bytes of the body; -1 where only its end will tell."""
    is_health_check: bool
    is_idempotent: bool
    usual_reply: bool
    """Whether ``ResponsePlan.kept_head`` fits: HTTP/1.1, and a method whose response has a body."""
    log_subject: str
    """The members of the access line that name the request: JSON, escaped, without braces."""


class ResponsePlan(NamedTuple):
    """One response head with its bytes for the usual client: HTTP/1.1, connection kept."""

    head: ResponseHead
    kept_head: bytes
    length: int
    """Bytes of the body, -1 where only its end will tell; says nothing for HEAD."""


def plan_request(raw: bytes, cluster_domain: str) -> RequestPlan:
    """Parse a request head and plan its way; raise ``MalformedMessageError``."""
    head = parse_request(raw)
    path = head.target.partition(b"?")[0]
    try:
        target = resolve_target(head.fields, cluster_domain)
    except RouterError:
        target = None
    return RequestPlan(
        head=head,
        target=target,
        upstream_head=rewrite.request_head(head, target) if target else b"",
        body_length=-1 if head.framing.kind is Kind.CHUNKED else head.framing.length,
        is_health_check=path == _HEALTH_PATH and head.method in {b"GET", b"HEAD"},
        is_idempotent=head.method in _IDEMPOTENT,
        usual_reply=head.http11 and head.method != b"HEAD",
        log_subject=_log_subject(head.method, path, target),
    )


def plan_response(raw: bytes) -> ResponsePlan:
    """Parse a response head and write it for the usual client; raise ``MalformedMessageError``."""
    head = parse_response(raw)
    known = head.framing_for(b"GET")
    return ResponsePlan(
        head=head,
        kept_head=rewrite.response_head(head, http11=True, close=False),
        length=known.length if known.kind is Kind.LENGTH or known.kind is Kind.NONE else -1,
    )


def _log_subject(method: bytes, path: bytes, target: Target | None) -> str:
    members = {
        "method": method.decode("latin-1"),
        "path": path.decode("latin-1"),
        "sandbox_id": target.key.sandbox_id if target else None,
        "namespace": target.key.namespace if target else None,
    }
    return json.dumps(members, separators=(",", ":"))[1:-1]
