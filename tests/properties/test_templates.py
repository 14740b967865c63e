"""With and without templates, a head comes to the same, byte for byte (docs/decisions/0009)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hypothesis import event, example, given
from hypothesis import strategies as st

from fastrouter.errors import Cause, MalformedMessageError, RouterError
from fastrouter.policy.plan import RequestPlan, ResponsePlan, plan_request, plan_response
from fastrouter.policy.rules import Rules
from fastrouter.policy.templates import RequestTemplates, ResponseTemplates
from fastrouter.wire.head_cache import HeadCache
from tests.properties.strategies import tokens, values

RULES = [
    Rules(),
    Rules(trusts_proxies=True, credentials=b"authorization", honour_pod_ip=True, longest_timeout=7.0),
    Rules(drops=frozenset(), forward_origin=True, upgrades=frozenset({b"websocket", b"echo"})),
    Rules(credentials=b"x-token", drops=frozenset({b"x-token"})),
    Rules(request_ids=True, trusts_proxies=True),
]

# Names with a meaning, in any spelling, and names of a client's own.
_meant = st.sampled_from(
    b"""
    accept Authorization AUTHORIZATION baggage Connection connection Content-Length content-length Cookie Date
    Expect Forwarded Host Keep-Alive HTTP2-Settings mark mark0 Origin Proxy-Connection Sec-WebSocket-Key
    Set-Cookie TE te Trailer traceparent tracestate Transfer-Encoding Upgrade upgrade User-Agent
    X-Forwarded-For x-forwarded-host X-Forwarded-Proto X-Request-ID x-sandbox-id X-Sandbox-ID
    X-Sandbox-Namespace X-Sandbox-Pod-IP X-Sandbox-Port X-Sandbox-Timeout x-sandbox-timeout X-Token X-Sandbox
    """.split()
)
_names = st.one_of(_meant, tokens)
_meaning = st.sampled_from(
    [
        *(b"0", b"00", b"7", b"007", b"42", b"1.5", b"0.0", b"59.999", b"1e3", b"-1", b"700000000000000007"),
        *(b"close", b"keep-alive", b"upgrade", b"Upgrade, x-request-id", b"traceparent", b"chunked", b"gzip"),
        *(b"websocket", b"h2c", b"100-continue", b"box", b"Box", b"10.1.2.3", b"::1", b"Bearer x", b"a:80"),
        *(b"", b"mark0.", b"mark", b"a b", b"a \t b", b"\xe4", b"a, b", b"a\x00b", b"a\x7f", b"a\rb"),
    ]
)
_values = st.one_of(_meaning, values)
_spacing = st.sampled_from([b": ", b": ", b": ", b": ", b":", b":\t", b" : ", b":  "])
_ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b" \r\n", b"\n", b"\r\n\t"])


@st.composite
def shapes(draw: st.DrawFn) -> Callable[[st.DrawFn], bytes]:
    """Draw the lines of a head, all but the values of some: another head is the same with others there."""
    drawn = draw(st.lists(st.tuples(_names, _spacing, _values, _ends, st.booleans()), max_size=8))

    def head(draw_again: st.DrawFn) -> bytes:
        return b"".join(
            name + space + (draw_again(_values) if varies else value) + end
            for name, space, value, end, varies in drawn
        )

    return head


@st.composite
def families(draw: st.DrawFn) -> list[bytes]:
    """Draw the field lines of several heads of one shape."""
    shape = draw(shapes())
    return [shape(draw) for _ in range(4)]


Outcome = RequestPlan | ResponsePlan | Cause


def outcome(parse: Callable[[bytes], RequestPlan | ResponsePlan], raw: bytes) -> Outcome:
    """Return the plan, its error told apart from others by what it comes to."""
    try:
        plan = parse(raw)
    except MalformedMessageError as error:
        return error.cause
    if isinstance(plan, RequestPlan) and isinstance(plan.target, RouterError):
        return plan.target.cause
    return plan


def comes_to_the_same(
    heads: HeadCache[RequestPlan] | HeadCache[ResponsePlan],
    parse: Callable[[bytes], RequestPlan | ResponsePlan],
    family: list[bytes],
) -> None:
    for raw in family:
        assert outcome(heads.get, raw) == outcome(parse, raw)
    served = len(family) - heads.misses
    event(f"served without parsing: {served}")


_START = b"Host: router\r\nX-Sandbox-ID: box\r\n"
_LINES = st.sampled_from(
    [
        *(b"GET / HTTP/1.1\r\n", b"POST /execute HTTP/1.1\r\n", b"HEAD /a?b=mark0. HTTP/1.1\r\n"),
        *(b"GET /healthz HTTP/1.1\r\n", b"PUT http://router/x HTTP/1.0\r\n", b"OPTIONS * HTTP/1.1\r\n"),
    ]
)


@given(st.sampled_from(RULES), _LINES, families())
@example(RULES[0], b"GET / HTTP/1.1\r\n", [b"Content-Length: %d\r\n" % size for size in (1, 2, 300, 0)])
@example(
    RULES[4], b"GET / HTTP/1.1\r\n", [b"X-Request-ID: %b\r\n" % text for text in (b"a", b"b", b'"', b"c")]
)
@example(RULES[1], b"GET / HTTP/1.1\r\n", [b"X-Sandbox-Timeout: %d\r\n" % size for size in (1, 2, 300, 0)])
@example(RULES[0], b"GET / HTTP/1.1\r\n", [b"A: %d\r\nConnection: a\r\n" % number for number in range(4)])
def test_requests(rules: Rules, line: bytes, family: list[bytes]) -> None:
    parse = partial(plan_request, rules=rules)
    heads = HeadCache(parse, RequestTemplates(rules))
    comes_to_the_same(heads, parse, [line + _START + lines + b"\r\n" for lines in family])


@given(
    st.sampled_from([b"200 OK", b"204 None", b"304 Same", b"404 mark0.", b"101 Switching", b"100 Go"]),
    families(),
)
@example(b"200 OK", [b"Content-Length: %d\r\nDate: a\r\n" % size for size in (1, 20, 300, 0)])
@example(b"304 Same", [b"Content-Length: %d\r\n" % size for size in (1, 20, 300, 0)])
def test_responses(status: bytes, family: list[bytes]) -> None:
    heads = HeadCache(plan_response, ResponseTemplates())
    comes_to_the_same(heads, plan_response, [b"HTTP/1.1 %b\r\n%b\r\n" % (status, lines) for lines in family])


@given(_names, st.lists(values.filter(bool), min_size=3, max_size=3, unique=True))
def test_a_family_of_a_field_that_is_passed_on_is_parsed_twice_and_no_more(
    name: bytes, three: list[bytes]
) -> None:
    heads = HeadCache(partial(plan_request, rules=Rules()), RequestTemplates(Rules()))
    for value in three:
        try:
            heads.get(b"GET / HTTP/1.1\r\n" + _START + b"%b: %b\r\n\r\n" % (name, value))
        except MalformedMessageError:
            return  # the name means something, and what it says is malformed
    read = RequestTemplates(Rules()).cut(b"GET / HTTP/1.1\r\n%b: %b\r\n\r\n" % (name, three[0])) is None
    assert heads.misses == (3 if read else 2)
