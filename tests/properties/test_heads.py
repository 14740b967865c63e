"""What leaves the router as a head is a head again, and says what the one that came said."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from fastrouter.errors import MalformedMessageError, RouterError
from fastrouter.policy.plan import RequestPlan, plan_request, plan_response
from fastrouter.policy.rules import Rules
from fastrouter.wire.framing import Kind
from fastrouter.wire.heads import parse_request, parse_response
from tests.properties.strategies import Sent, requests, tokens, values

_START = b"GET / HTTP/1.1\r\nHost: a\r\nX-Sandbox-ID: box\r\n"
_pieces = st.sampled_from(
    [
        b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"\x00", b"\x0b", b"\xff", b",", b"0", b"5", b"+", b"close",
        b"Content-Length", b"Transfer-Encoding", b"chunked", b"Connection", b"Host", b"X-Sandbox-ID",
        b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n", b"Content-Length: 5\r\n", b"a: b\r\n",
    ]
)  # fmt: skip
noise = st.lists(st.one_of(_pieces, st.binary(max_size=4)), max_size=10).map(b"".join)


def planned(raw: bytes) -> RequestPlan | None:
    try:
        return plan_request(raw, Rules())
    except MalformedMessageError:
        return None


@given(noise)
def test_whatever_comes_is_refused_or_leaves_as_one_strict_head(data: bytes) -> None:
    for raw in (data, data + b"\r\n\r\n", _START + data + b"\r\n\r\n", _START + data + b"\r\n"):
        plan = planned(raw)
        if plan is None or isinstance(plan.target, RouterError):
            continue
        forwarded = plan.upstream_head + b"127.0.0.1\r\n\r\n"
        again = parse_request(forwarded)
        assert forwarded.count(b"\r\n\r\n") == 1
        assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n", forwarded)
        length = -1 if again.framing.kind is Kind.CHUNKED else again.framing.length
        assert (again.method, length) == (plan.method, plan.body_length)


@given(noise)
def test_whatever_a_sandbox_says_is_refused_or_leaves_as_one_strict_head(data: bytes) -> None:
    for raw in (data, data + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n"):
        try:
            plan = plan_response(raw)
        except MalformedMessageError:
            continue
        written = plan.kept_head + b"\r\n"
        again = parse_response(written)
        assert written.count(b"\r\n\r\n") == 1
        assert again.status == plan.status
        assert again.framing_for(b"GET") == plan.head().framing_for(b"GET")


@given(requests())
def test_every_field_of_a_valid_request_is_forwarded_in_its_order(sent: Sent) -> None:
    raw = sent.raw.replace(b"<port>", b"1")
    plan = plan_request(raw[: raw.index(b"\r\n\r\n") + 4], Rules())
    lines = plan.upstream_head.split(b"\r\n")
    head = parse_request(raw[: raw.index(b"\r\n\r\n") + 4])
    framing = 0 if head.framing.kind is Kind.NONE else 1
    assert lines[0] == sent.line
    assert lines[1] == b"Host: box.default.svc.cluster.local:1"
    assert lines[2 + framing : -3] == sent.fields
    assert plan.upstream_head.endswith(b"\r\nX-Forwarded-For: ")


@given(tokens, values, st.sampled_from([b"Connection", b"CONNECTION", b"connection"]))
def test_a_nominated_field_stops_here_whatever_its_name(name: bytes, value: bytes, connection: bytes) -> None:
    spelled = name.swapcase()
    plan = planned(_START + b"%b: x , %b\r\n%b: %b\r\n\r\n" % (connection, spelled, name, value))
    if plan is None:
        return  # the name means something, and what it says is malformed
    names = [line.partition(b":")[0].lower() for line in plan.upstream_head.split(b"\r\n")[1:]]
    kept = {b"host", b"content-length", b"transfer-encoding", b"x-forwarded-for"}
    assert name.lower() not in names or name.lower() in kept
