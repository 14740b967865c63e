"""What follows from the bytes of a head alone, worked out once: the values of the two head caches."""

from __future__ import annotations

from json.encoder import encode_basestring_ascii as _escape
from typing import Final, NamedTuple

from fastrouter.errors import RouterError
from fastrouter.policy import rewrite
from fastrouter.policy.target import Target, resolve_target
from fastrouter.wire.framing import CHUNKED, UNTIL_CLOSE
from fastrouter.wire.heads import RequestHead, ResponseHead, parse_request, parse_response

_HEALTH_PATH: Final = b"/healthz"
# RFC 9110 9.2.2.
_IDEMPOTENT: Final = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"TRACE"})


class RequestPlan(NamedTuple):
    """One request, parsed and decided as far as its bytes decide it."""

    head: RequestHead
    """Without its fields: all that is needed of them is in the plan, and thousands of plans are kept."""
    target: Target | RouterError
    """Where the routing headers are at fault, the error that the request fails with, in its turn."""
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
    is_final: bool
    """False for 1xx: the response is still to come."""
    length: int
    """Bytes of the body, -1 where only its end will tell; says nothing for HEAD."""


def plan_request(raw: bytes, cluster_domain: str) -> RequestPlan:
    """Parse a request head and plan its way; raise ``MalformedMessageError``."""
    head = parse_request(raw)
    path = head.target.partition(b"?")[0]
    target: Target | RouterError
    try:
        target = resolve_target(head.fields, cluster_domain)
        upstream_head = rewrite.request_head(head, target)
    except RouterError as error:
        target, upstream_head = error.again(), b""
    return RequestPlan(
        head=head._replace(fields=()),
        target=target,
        upstream_head=upstream_head,
        body_length=-1 if head.framing is CHUNKED else head.framing.length,
        is_health_check=path == _HEALTH_PATH and head.method in {b"GET", b"HEAD"},
        is_idempotent=head.method in _IDEMPOTENT,
        usual_reply=head.http11 and head.method != b"HEAD",
        log_subject=_log_subject(head.method, path, target if isinstance(target, Target) else None),
    )


def plan_response(raw: bytes) -> ResponsePlan:
    """Parse a response head and write it for the usual client; raise ``MalformedMessageError``."""
    head = parse_response(raw)
    known = head.framing_for(b"GET")
    return ResponsePlan(
        head=head,
        is_final=not head.informational,
        kept_head=rewrite.response_head(head, http11=True, close=False),
        length=-1 if known is CHUNKED or known is UNTIL_CLOSE else known.length,
    )


def _log_subject(method: bytes, path: bytes, target: Target | None) -> str:
    """Name the request in JSON; a method and a label hold nothing that needs an escape."""
    sandbox = f'"{target.key.sandbox_id}"' if target else "null"
    namespace = f'"{target.key.namespace}"' if target else "null"
    return (
        f'"method":"{method.decode("ascii")}","path":{_escape(path.decode("ascii"))},'
        f'"sandbox_id":{sandbox},"namespace":{namespace}'
    )
