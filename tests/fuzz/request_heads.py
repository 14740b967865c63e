"""A request head is refused, or leaves as one strict head that says the same; templates change nothing."""

from __future__ import annotations

import json
from functools import partial
from typing import Final

from fastrouter.errors import MalformedMessageError, RouterError
from fastrouter.policy.plan import RequestPlan, plan_request
from fastrouter.policy.rules import Rules
from fastrouter.policy.target import Target
from fastrouter.policy.templates import RequestTemplates
from fastrouter.wire.head_cache import HeadCache
from fastrouter.wire.heads import check_incomplete
from tests.fuzz import inputs
from tests.fuzz.heads import END, equal_with_templates, family, parsed, split
from tests.fuzz.oracles import Head, Pair, read_head

_PEER: Final = b"192.0.2.7"
_RULES: Final = (
    Rules(),
    Rules(trusts_proxies=True, credentials=b"authorization", honour_pod_ip=True, longest_timeout=7.0),
    Rules(drops=frozenset(), forward_origin=True, upgrades=frozenset({b"websocket", b"echo"})),
    Rules(credentials=b"x-token", drops=frozenset({b"x-token"}), trusts_proxies=True),
)
_STOPS_HERE: Final = frozenset(
    b"""connection keep-alive proxy-authenticate proxy-authorization proxy-connection te upgrade
    http2-settings x-sandbox-id x-sandbox-namespace x-sandbox-port x-sandbox-pod-ip x-sandbox-timeout
    x-forwarded-for x-forwarded-host x-forwarded-proto host""".split()
)


def check(data: bytes) -> None:
    """Read heads that come one after the other; the options choose the rules."""
    drawn = inputs.read(data)
    rules = _RULES[drawn.options & 3]
    parse = partial(plan_request, rules=rules)
    heads = split(drawn.data)
    equal_with_templates(HeadCache(parse, RequestTemplates(rules)), parse, heads * 2)
    for raw in heads:
        relatives = family(raw)
        equal_with_templates(HeadCache(parse, RequestTemplates(rules)), parse, relatives)
        for one in relatives[:2]:
            plan = parsed(parse, one)
            if isinstance(plan, RequestPlan):
                leaves_as_one_strict_head(one, plan, rules)
        is_read_as_it_comes(raw, drawn.sizes, accepted=isinstance(parsed(parse, raw), RequestPlan))


def leaves_as_one_strict_head(raw: bytes, plan: RequestPlan, rules: Rules) -> None:
    """Read the head and what leaves by the book, and compare."""
    came = read_head(raw)
    assert len(raw) <= 64 * 1024
    assert len(came.fields) <= 256
    assert len(came.start) <= 16 * 1024
    assert came.start.endswith(b"HTTP/1.1" if plan.http11 else b"HTTP/1.0")
    assert len(came.values(b"host")) <= 1
    assert came.values(b"host") or not plan.http11
    assert plan.http11 or not came.values(b"transfer-encoding")
    assert plan.body_length == (came.body_length() or 0)
    subject = json.loads("{" + plan.log_subject + "}")
    assert subject["method"] == plan.method.decode("ascii")
    assert "\n" not in plan.log_subject
    if isinstance(plan.target, RouterError):
        assert plan.target.cause.status == 400
        assert plan.route is None
        assert not plan.upstream_head + plan.trusted_head
        return
    assert bool(plan.trusted_head) is rules.trusts_proxies
    says_the_same(came, read_head(plan.upstream_head + _PEER + END), plan, rules)
    if plan.trusted_head:
        says_the_same(came, read_head(plan.trusted_head + _PEER + END), plan, rules, trusted=True)


def says_the_same(came: Head, left: Head, plan: RequestPlan, rules: Rules, *, trusted: bool = False) -> None:
    """Compare what leaves with what came, but for what a proxy has to change."""
    assert isinstance(plan.target, Target)
    method, target, _ = came.start.split(b" ")
    sent_method, sent_target, version = left.start.split(b" ")
    assert (sent_method, version) == (method, b"HTTP/1.1")
    if b"://" in target and not target.startswith(b"/"):
        # The absolute form: its path and query, and no path is `/`, or `*` of OPTIONS.
        assert sent_target == b"*" or target.endswith(sent_target.removeprefix(b"/"))
    else:
        assert sent_target == target
    assert left.values(b"host") == [plan.target.authority]
    assert (left.body_length() or 0) == plan.body_length
    assert left.values(b"connection") == ([b"Upgrade"] if plan.upgrade else [])
    assert left.values(b"upgrade") == ([plan.upgrade] if plan.upgrade else [])
    assert not plan.upgrade or plan.upgrade.lower() in rules.upgrades
    (chain,) = left.values(b"x-forwarded-for")
    assert chain.endswith(_PEER) if trusted else chain == _PEER
    assert left.fields[-1][0].lower() == b"x-forwarded-for"
    kept = [field for field in left.fields if field[0].lower() not in _STOPS_HERE]
    assert kept == passes(came, plan, rules)


def passes(came: Head, plan: RequestPlan, rules: Rules) -> list[Pair]:
    """Return the fields that go on unchanged, by contract section 2."""
    stops = (
        _STOPS_HERE | rules.drops | (came.members(b"connection") - {b"content-length", b"transfer-encoding"})
    )
    if plan.upgrade and not rules.forward_origin:
        stops |= {b"origin"}
    kept: list[Pair] = []
    lengths = 0
    for name, value in came.fields:
        lower = name.lower()
        if lower == b"transfer-encoding":
            kept.append((name, b"chunked"))
        elif lower not in stops and not (lower == b"content-length" and lengths):
            kept.append((name, value))
        lengths += lower == b"content-length"
    return kept


def is_read_as_it_comes(raw: bytes, sizes: tuple[int, ...], *, accepted: bool) -> None:
    """What is accepted whole is refused at none of its places, whatever the pieces it comes in."""
    scale = 1 + len(raw) // 512
    for steps in ((1,), sizes):
        at = scanned = turn = 0
        while (at := at + steps[turn % len(steps)] * scale) < len(raw):
            turn += 1
            if raw[:at].startswith(b"\r\n"):
                return  # an empty line before a head is dropped before this is asked
            try:
                check_incomplete(raw[:at], scanned)
            except MalformedMessageError:
                assert not accepted, raw[:at]
                return
            scanned = at
