"""A response head is refused, or leaves as one strict head that says the same; templates change nothing."""

from __future__ import annotations

from typing import Final

from fastrouter.policy import rewrite
from fastrouter.policy.plan import ResponsePlan, plan_response
from fastrouter.policy.templates import ResponseTemplates
from fastrouter.wire.framing import Framing, Kind
from fastrouter.wire.head_cache import HeadCache
from fastrouter.wire.heads import ResponseHead
from tests.fuzz import inputs
from tests.fuzz.heads import equal_with_templates, family, parsed, split
from tests.fuzz.oracles import Head, Pair, read_head

_STOPS_HERE: Final = frozenset(
    b"""connection keep-alive proxy-authenticate proxy-authorization proxy-connection te upgrade
    http2-settings""".split()
)
_FRAMES: Final = frozenset({b"content-length", b"transfer-encoding"})


def check(data: bytes) -> None:
    """Read heads that come one after the other."""
    drawn = inputs.read(data)
    heads = split(drawn.data)
    equal_with_templates(HeadCache(plan_response, ResponseTemplates()), plan_response, heads * 2)
    for raw in heads:
        relatives = family(raw)
        equal_with_templates(HeadCache(plan_response, ResponseTemplates()), plan_response, relatives)
        for one in relatives[:2]:
            plan = parsed(plan_response, one)
            if isinstance(plan, ResponsePlan):
                leaves_as_one_strict_head(one, plan)


def leaves_as_one_strict_head(raw: bytes, plan: ResponsePlan) -> None:
    """Read the head and what leaves by the book, for every kind of client, and compare."""
    came = read_head(raw)
    assert len(raw) <= 64 * 1024
    assert len(came.fields) <= 256
    assert came.start.startswith(b"HTTP/1.1") or not came.values(b"transfer-encoding")
    head = plan.head()
    assert plan.raw == raw
    assert (plan.status, plan.is_final) == (int(came.start[9:12]), plan.status >= 200)
    assert head.framing == stated(came.body_length())
    assert plan.framing == head.framing
    # Whether HEAD is answered is not known here; 1xx, 204 and 304 have no body (RFC 9112 6.3).
    without = plan.status in {204, 304} or not plan.is_final
    length = came.body_length()
    assert plan.length == (0 if without else -1 if length is None else length)
    assert not plan.keep_alive or b"close" not in came.members(b"connection")
    assert plan.kept_head == rewrite.response_head(head, http11=True, close=False)
    for http11 in (True, False):
        for close in (True, False):
            says_the_same(came, head, http11=http11, close=close)
    if plan.status == 101:
        switches(came, head)


def stated(length: int | None) -> Framing:
    """Return the framing of a response that states this length."""
    if length is None:
        return Framing(Kind.UNTIL_CLOSE)
    return Framing(Kind.CHUNKED) if length < 0 else Framing(Kind.LENGTH, length)


def says_the_same(came: Head, head: ResponseHead, *, http11: bool, close: bool) -> None:
    """Compare what leaves for one kind of client with what came."""
    left = read_head(rewrite.response_head(head, http11=http11, close=close) + b"\r\n")
    assert left.start.split(b" ", 2)[:2] == [b"HTTP/1.1", came.start.split(b" ")[1]]
    assert left.start.split(b" ", 2)[2] == came.start.partition(b" ")[2][4:]
    mentions = left.members(b"connection")
    default = set() if http11 else {b"keep-alive"}
    assert mentions == (set() if head.informational else {b"close"} if close else default)
    kept = [field for field in left.fields if field[0].lower() != b"connection"]
    assert kept == passes(came, head, http11=http11)
    left.body_length()  # it states one framing at most


def passes(came: Head, head: ResponseHead, *, http11: bool) -> list[Pair]:
    """Return the fields that go on, by contract section 3."""
    stops = _STOPS_HERE | (came.members(b"connection") - _FRAMES - {b"host"})
    if head.informational or head.status == 204:
        stops |= _FRAMES
    if not http11:
        stops |= {b"transfer-encoding"}
    kept: list[Pair] = []
    lengths = 0
    for name, value in came.fields:
        lower = name.lower()
        if lower not in stops and not (lower == b"content-length" and lengths):
            kept.append((name, b"chunked" if lower == b"transfer-encoding" else value))
        lengths += lower == b"content-length"
    return kept


def switches(came: Head, head: ResponseHead) -> None:
    """Read the head of a tunnel: ``Upgrade`` stays, nothing frames a body."""
    left = read_head(rewrite.switching_head(head) + b"\r\n")
    assert left.start.startswith(b"HTTP/1.1 101 ")
    assert left.values(b"connection") == [b"Upgrade"]
    assert left.values(b"upgrade") == came.values(b"upgrade")
    assert left.body_length() is None
