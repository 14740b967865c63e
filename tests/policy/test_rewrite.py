"""The rewrite of heads and trailers, byte for byte, in both directions."""

from __future__ import annotations

import pytest

from fastrouter.policy import rewrite
from fastrouter.policy.rules import Rules
from fastrouter.policy.target import ROUTING_HEADERS, resolve_target
from fastrouter.wire.heads import parse_request, parse_response

ROUTE = (b"Host: router:8080", b"X-Sandbox-ID: box")
HOST = b"Host: box.default.svc.cluster.local:8888"
FORWARDED = (b"X-Forwarded-Proto: http", b"X-Forwarded-Host: router:8080", b"X-Forwarded-For: ")


def upstream(
    *lines: bytes, start: bytes = b"GET /a//b?c HTTP/1.1", route: tuple[bytes, ...] = ROUTE
) -> list[bytes]:
    """Return the lines of the head for the sandbox, to a client's head of ``lines``."""
    head = parse_request(b"\r\n".join([start, *route, *lines, b"", b""]))
    return rewrite.request_head(head, resolve_target(head.fields, "cluster.local")).split(b"\r\n")


def fields_up(*lines: bytes) -> list[bytes]:
    """Return what of ``lines`` goes up, having checked what is around it."""
    start, host, *fields = upstream(*lines)
    assert (start, host) == (b"GET /a//b?c HTTP/1.1", HOST)
    assert tuple(fields[-3:]) == FORWARDED
    return fields[:-3]


def downstream(
    *lines: bytes, start: bytes = b"HTTP/1.1 200 OK", http11: bool = True, close: bool = False
) -> list[bytes]:
    """Return the lines of the head for the client, to a sandbox's head of ``lines``."""
    head = parse_response(b"\r\n".join([start, *lines, b"", b""]))
    written = rewrite.response_head(head, http11=http11, close=close)
    assert written.endswith(b"\r\n")
    return written[:-2].split(b"\r\n")


HOP_BY_HOP = [
    b"Connection: X-None",
    b"Keep-Alive: timeout=5",
    b"Proxy-Authenticate: Basic",
    b"Proxy-Authorization: Basic eA==",
    b"Proxy-Connection: keep-alive",
    b"TE: trailers",
    b"Upgrade: h2c",
]


class TestRequest:
    def test_order_case_duplicates_and_bytes_of_other_fields_stay(self) -> None:
        lines = [
            b"X-B: 2",
            b"x-a: 1",
            b"X-B: 2",
            b"Cookie: a=b; c=d",
            b"cookie: e=\xe4\xff",
            b"Empty: ",
            b'Quoted: " a , b "',
            b"Accept-Encoding: br",
            b"Expect: 100-continue",
            b"Trailer: X-Sum",
            b"Sec-WebSocket-Key: x",
            b"traceparent: 00-1-2-01",
        ]
        assert fields_up(*lines) == lines

    @pytest.mark.parametrize("line", HOP_BY_HOP)
    def test_hop_by_hop_fields_stop_here(self, line: bytes) -> None:
        assert fields_up(b"A: b", line, line.lower(), b"C: d") == [b"A: b", b"C: d"]

    def test_fields_that_connection_names_stop_here(self) -> None:
        lines = [
            b"Connection: close, X-Mine",
            b"X-Mine: 1",
            b"x-mine: 2",
            b"X-Mine-Not: 3",
            b"connection: x-too",
            b"X-Too: 4",
        ]
        assert fields_up(*lines) == [b"X-Mine-Not: 3"]

    def test_connection_cannot_take_away_the_framing_or_the_host(self) -> None:
        nomination = b"Connection: Content-Length, Transfer-Encoding, Host, X-Sandbox-ID"
        assert fields_up(nomination, b"Content-Length: 5") == [b"Content-Length: 5"]
        assert fields_up(nomination, b"Transfer-Encoding: chunked") == [b"Transfer-Encoding: chunked"]

    @pytest.mark.parametrize("name", ROUTING_HEADERS.values())
    def test_routing_headers_stop_here(self, name: str) -> None:
        value = {"X-Sandbox-ID": b"box", "X-Sandbox-Port": b"8888"}.get(name, b"default")
        assert fields_up(name.lower().encode() + b": " + value) == []

    @pytest.mark.parametrize(
        "line",
        [
            b"Authorization: Bearer secret",
            b"X-Forwarded-For: 203.0.113.1",
            b"x-forwarded-proto: https",
            b"X-FORWARDED-HOST: evil.example",
        ],
    )
    def test_credentials_and_what_a_peer_claims_of_itself_stop_here(self, line: bytes) -> None:
        assert fields_up(line, b"A: b") == [b"A: b"]

    def test_nothing_is_invented_for_a_request_without_a_body(self) -> None:
        assert fields_up() == []

    def test_the_framing_is_restated_in_its_place(self) -> None:
        assert fields_up(b"A: b", b"TRANSFER-encoding: Chunked", b"C: d") == [
            b"A: b",
            b"TRANSFER-encoding: chunked",
            b"C: d",
        ]
        assert fields_up(b"content-LENGTH: 007", b"A: b") == [b"content-LENGTH: 007", b"A: b"]

    def test_a_repeated_length_becomes_one(self) -> None:
        assert fields_up(b"Content-Length: 5", b"A: b", b"content-length: 5") == [
            b"Content-Length: 5",
            b"A: b",
        ]

    def test_the_host_is_the_targets_in_the_place_of_the_clients(self) -> None:
        lines = upstream(b"A: b", route=(b"x-sandbox-id: box", b"hOST: router:8080", b"X-Sandbox-Port: 80"))
        assert lines[1:3] == [b"Host: box.default.svc.cluster.local:80", b"A: b"]
        assert tuple(lines[-3:]) == FORWARDED

    def test_a_client_of_http_1_0_goes_up_as_1_1_with_a_host(self) -> None:
        lines = upstream(b"A: b", start=b"GET / HTTP/1.0", route=(b"X-Sandbox-ID: box",))
        assert lines == [b"GET / HTTP/1.1", HOST, b"A: b", FORWARDED[0], FORWARDED[2]]

    @pytest.mark.parametrize(
        ("start", "goes_up_as"),
        [
            (b"FOO /%2F..;a?b HTTP/1.1", b"FOO /%2F..;a?b HTTP/1.1"),
            (b"OPTIONS * HTTP/1.1", b"OPTIONS * HTTP/1.1"),
            (b"GET http://evil.example/x HTTP/1.1", b"GET /x HTTP/1.1"),
        ],
    )
    def test_method_and_target_go_up_as_they_are(self, start: bytes, goes_up_as: bytes) -> None:
        assert upstream(start=start)[0] == goes_up_as

    def test_the_head_ends_where_the_address_of_the_peer_begins(self) -> None:
        assert upstream()[-1] == b"X-Forwarded-For: "

    @pytest.mark.parametrize(
        ("drops", "kept"),
        [
            (frozenset[bytes](), [b"Authorization: Bearer users", b"X-Router-Authorization: Bearer x"]),
            (frozenset({b"x-router-authorization"}), [b"Authorization: Bearer users"]),
            (frozenset({b"authorization"}), [b"X-Router-Authorization: Bearer x"]),
        ],
    )
    def test_the_rules_tell_which_credentials_stop_here(
        self, drops: frozenset[bytes], kept: list[bytes]
    ) -> None:
        lines = (b"Authorization: Bearer users", b"X-Router-Authorization: Bearer x")
        assert written(*lines, rules=Rules(drops=drops))[2:-3] == kept


def written(
    *lines: bytes, rules: Rules | None = None, trusted: bool = False, upgrade: bytes = b""
) -> list[bytes]:
    """Return the lines of the head for the sandbox, of a request with something special about it."""
    head = parse_request(b"\r\n".join([b"GET / HTTP/1.1", *ROUTE, *lines, b"", b""]))
    target = resolve_target(head.fields, "cluster.local")
    raw = rewrite.request_head(head, target, rules or Rules(), trusted=trusted, upgrade=upgrade)
    return raw.split(b"\r\n")


class TestForwarded:
    def test_what_a_trusted_proxy_says_is_kept_and_its_chain_goes_on(self) -> None:
        claims = (
            b"X-Forwarded-For: 1.1.1.1, 2.2.2.2",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: public.example",
            b"x-forwarded-for: ",
            b"x-forwarded-for: 3.3.3.3",
        )
        assert written(*claims, trusted=True)[2:] == [
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: public.example",
            b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, ",
        ]

    def test_a_trusted_proxy_that_says_nothing_leaves_it_to_the_router(self) -> None:
        assert tuple(written(trusted=True)[2:]) == FORWARDED

    def test_of_two_claims_the_first_counts(self) -> None:
        claims = (b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: x", b"X-Forwarded-Host: a")
        lines = written(*claims, b"X-Forwarded-Host: b", trusted=True)
        assert lines[2:4] == [b"X-Forwarded-Proto: https", b"X-Forwarded-Host: a"]


UPGRADE = (b"Connection: keep-alive, Upgrade, X-Mine", b"X-Mine: 1", b"Upgrade: h2c, WebSocket")


class TestUpgrade:
    def test_the_chosen_protocol_is_asked_for_and_nothing_else_of_the_hop_goes_on(self) -> None:
        lines = written(*UPGRADE, b"Sec-WebSocket-Key: x", upgrade=b"WebSocket")
        assert lines[2:-3] == [b"Sec-WebSocket-Key: x", b"Connection: Upgrade", b"Upgrade: WebSocket"]

    @pytest.mark.parametrize("forward_origin", [False, True])
    def test_origin_stops_here_unless_told(self, forward_origin: bool) -> None:
        lines = written(
            *UPGRADE, b"Origin: http://a", rules=Rules(forward_origin=forward_origin), upgrade=b"websocket"
        )
        assert (b"Origin: http://a" in lines) is forward_origin

    def test_origin_of_an_ordinary_request_goes_on(self) -> None:
        assert b"Origin: http://a" in written(*UPGRADE, b"Origin: http://a")

    def test_the_switch_is_told_with_the_protocol_and_its_other_fields(self) -> None:
        lines = (
            b"HTTP/1.1 101 Changed",
            b"upgrade: websocket",
            b"Connection: Upgrade, X-Mine",
            b"X-Mine: 1",
            b"Keep-Alive: timeout=5",
            b"Set-Cookie: a=b",
            b"Content-Length: 5",
            b"Sec-WebSocket-Accept: x",
        )
        head = parse_response(b"\r\n".join([*lines, b"", b""]))
        assert rewrite.switching_head(head).split(b"\r\n") == [
            b"HTTP/1.1 101 Changed",
            b"upgrade: websocket",
            b"Set-Cookie: a=b",
            b"Sec-WebSocket-Accept: x",
            b"Connection: Upgrade",
            b"",
        ]


class TestResponse:
    def test_status_reason_order_case_duplicates_and_bytes_stay(self) -> None:
        lines = [
            b"Server: box/1",
            b"date: now",
            b"Set-Cookie: a=b",
            b"set-cookie: c=\xe4\xff",
            b"Set-Cookie: a=b",
            b"Content-Encoding: br",
            b"Content-Length: 5",
            b"Trailer: X-Sum",
        ]
        start = b"HTTP/1.1 299 Gr\xfc\xdfe"
        assert downstream(*lines, start=start) == [start, *lines]

    @pytest.mark.parametrize("line", HOP_BY_HOP)
    def test_hop_by_hop_fields_stop_here(self, line: bytes) -> None:
        assert downstream(b"A: b", line, b"C: d")[1:] == [b"A: b", b"C: d"]

    def test_fields_that_connection_names_stop_here_and_the_framing_does_not(self) -> None:
        nomination = b"Connection: X-Mine, Content-Length, Transfer-Encoding"
        assert downstream(nomination, b"x-mine: 1", b"Content-Length: 5")[1:] == [b"Content-Length: 5"]
        assert downstream(nomination, b"transfer-encoding: chunked")[1:] == [b"transfer-encoding: chunked"]

    def test_a_chunked_body_is_stated_anew(self) -> None:
        assert downstream(b"Transfer-Encoding: Chunked")[1:] == [b"Transfer-Encoding: chunked"]

    def test_a_client_of_http_1_0_sees_no_chunks(self) -> None:
        assert downstream(b"Transfer-Encoding: chunked", b"A: b", http11=False, close=True) == [
            b"HTTP/1.1 200 OK",
            b"A: b",
            b"Connection: close",
        ]

    @pytest.mark.parametrize(
        ("http11", "close", "lines"),
        [
            (True, False, []),
            (True, True, [b"Connection: close"]),
            (False, True, [b"Connection: close"]),
            (False, False, [b"Connection: keep-alive"]),
        ],
    )
    def test_what_becomes_of_the_connection_is_told_where_it_is_not_the_default(
        self, http11: bool, close: bool, lines: list[bytes]
    ) -> None:
        assert downstream(b"Connection: close", http11=http11, close=close)[1:] == lines

    def test_a_204_states_no_length(self) -> None:
        assert downstream(b"Content-Length: 0", b"A: b", start=b"HTTP/1.1 204 None")[1:] == [b"A: b"]
        assert downstream(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 204 None")[1:] == []

    def test_a_304_states_the_length_of_what_it_stands_for(self) -> None:
        assert downstream(b"Content-Length: 5", start=b"HTTP/1.1 304 Same")[1:] == [b"Content-Length: 5"]

    @pytest.mark.parametrize("close", [False, True])
    def test_an_informational_head_says_nothing_of_framing_or_connection(self, close: bool) -> None:
        lines = [b"Link: </a>", b"Connection: close, X-Mine", b"X-Mine: 1", b"Content-Length: 0"]
        assert downstream(*lines, start=b"HTTP/1.1 103 Early", close=close) == [
            b"HTTP/1.1 103 Early",
            b"Link: </a>",
        ]

    def test_a_sandbox_of_http_1_0_comes_down_as_1_1(self) -> None:
        assert downstream(b"Content-Length: 1", start=b"HTTP/1.0 404 No")[0] == b"HTTP/1.1 404 No"


class TestTrailers:
    def test_order_case_and_duplicates_stay(self) -> None:
        fields = ((b"x-sum", b"X-SUM", b"1"), (b"x-sum", b"x-sum", b"\xff2"), (b"etag", b"ETag", b"3"))
        assert rewrite.trailers(fields) == fields

    @pytest.mark.parametrize(
        "name",
        [
            b"transfer-encoding",
            b"content-length",
            b"connection",
            b"host",
            b"authorization",
            b"set-cookie",
            b"trailer",
            b"x-sandbox-id",
            b"x-sandbox-pod-ip",
            b"x-forwarded-for",
        ],
    )
    def test_no_trailer_frames_routes_or_authenticates(self, name: bytes) -> None:
        kept = (b"x-sum", b"X-Sum", b"1")
        assert rewrite.trailers(((name, name.title(), b"1"), kept)) == (kept,)


@pytest.mark.parametrize(
    ("line", "method", "http11", "closes"),
    [
        (b"Content-Length: 5", b"GET", True, False),
        (b"Content-Length: 5", b"GET", False, False),
        (b"Transfer-Encoding: chunked", b"GET", True, False),
        (b"Transfer-Encoding: chunked", b"GET", False, True),
        (b"Transfer-Encoding: chunked", b"HEAD", False, False),
        (b"A: b", b"GET", True, True),
        (b"A: b", b"GET", False, True),
        (b"A: b", b"HEAD", True, False),
    ],
)
def test_only_the_connection_can_end_a_body_whose_end_the_client_cannot_read(
    line: bytes, method: bytes, http11: bool, closes: bool
) -> None:
    head = parse_response(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % line)
    assert rewrite.closes(head.framing_for(method), http11=http11) is closes
