"""Heads: what is read of them, and one refusal of each kind (all of them: `test_heads_refused.py`)."""

from __future__ import annotations

import pytest

from fastrouter.errors import (
    BAD_REQUEST,
    HEADERS_TOO_LARGE,
    METHOD_NOT_ALLOWED,
    TARGET_TOO_LONG,
    UNSUPPORTED_CODING,
    UNSUPPORTED_VERSION,
    Cause,
    MalformedMessageError,
)
from fastrouter.wire import framing
from fastrouter.wire.framing import Framing, Kind
from fastrouter.wire.heads import (
    RequestHead,
    ResponseHead,
    check_incomplete,
    parse_request,
)
from tests.wire.reading import cause_of, head, read_request, read_response, request, response
from tests.wire.ways import Way, each_way


class TestRequest:
    @each_way
    def test_a_head_is_read_value_for_value(self, way: Way) -> None:
        raw = head(
            b"X-A:  1 \t",
            b"x-a: \xe9\xff",
            b"Empty:",
            b"Content-Length: 5",
            start=b"Foo-1 /a%2F..//b?c=%20 HTTP/1.1",
        )
        pieces, rest = way(raw)
        found, behind = read_request(pieces)
        assert behind == rest
        assert found == RequestHead(
            method=b"Foo-1",
            target=b"/a%2F..//b?c=%20",
            http11=True,
            fields=(
                (b"host", b"Host", b"router"),
                (b"x-a", b"X-A", b"1"),
                (b"x-a", b"x-a", b"\xe9\xff"),
                (b"empty", b"Empty", b""),
                (b"content-length", b"Content-Length", b"5"),
            ),
            framing=Framing(Kind.LENGTH, 5),
            keep_alive=True,
            expects_continue=False,
            options=frozenset(),
        )

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            ([], framing.NONE),
            ([b"Content-Length: 0"], Framing(Kind.LENGTH, 0)),
            ([b"Content-Length: 007"], Framing(Kind.LENGTH, 7)),
            ([b"Content-Length: 9999999999999999999"], Framing(Kind.LENGTH, 10**19 - 1)),
            ([b"Content-Length:\t5 \t"], Framing(Kind.LENGTH, 5)),
            ([b"Content-Length: 5", b"content-length: 5"], Framing(Kind.LENGTH, 5)),
            ([b"Transfer-Encoding: chunked"], framing.CHUNKED),
            ([b"transfer-encoding: Chunked"], framing.CHUNKED),
        ],
    )
    def test_the_framing_is_what_the_fields_state(self, lines: list[bytes], expected: Framing) -> None:
        assert request(*lines).framing == expected

    @pytest.mark.parametrize(
        ("version", "lines", "keep"),
        [
            (b"1.1", [], True),
            (b"1.1", [b"Connection: close"], False),
            (b"1.1", [b"Connection: X-A, CLOSE"], False),
            (b"1.1", [b"Connection: X-A", b"Connection: close"], False),
            (b"1.0", [], False),
            (b"1.0", [b"Connection: Keep-Alive"], True),
            (b"1.0", [b"Connection: keep-alive, close"], False),
        ],
    )
    def test_the_connection_is_kept_as_the_version_and_the_client_say(
        self, version: bytes, lines: list[bytes], keep: bool
    ) -> None:
        found = request(*lines, start=b"GET / HTTP/" + version)
        assert (found.keep_alive, found.http11) == (keep, version == b"1.1")

    @pytest.mark.parametrize(
        ("version", "lines", "expects"),
        [
            (b"1.1", [], False),
            (b"1.1", [b"Expect: 100-Continue"], True),
            (b"1.1", [b"Expect: other"], False),
            (b"1.0", [b"Expect: 100-continue"], False),
        ],
    )
    def test_expect_counts_on_http_1_1_only(self, version: bytes, lines: list[bytes], expects: bool) -> None:
        assert request(*lines, start=b"PUT / HTTP/" + version).expects_continue is expects

    @each_way
    @pytest.mark.parametrize(
        ("method", "target", "goes_up_as"),
        [
            (b"GET", b"/", b"/"),
            (b"GET", b"//a/../b/./c%2Fd%2e%2E?x=//&y#z", b"//a/../b/./c%2Fd%2e%2E?x=//&y#z"),
            (b"GET", b"http://other/path?q", b"/path?q"),
            (b"GET", b"HTTPS://user@other:81/a//b", b"/a//b"),
            (b"GET", b"http://other", b"/"),
            (b"GET", b"http://other?q=1", b"/?q=1"),
            (b"GET", b"http://[::1]:80/x", b"/x"),
            (b"OPTIONS", b"*", b"*"),
            (b"OPTIONS", b"http://other", b"*"),
            (b"OPTIONS", b"http://other/", b"/"),
            (b"OPTIONS", b"/x", b"/x"),
        ],
    )
    def test_the_target_goes_up_in_origin_form_or_as_asterisk(
        self, way: Way, method: bytes, target: bytes, goes_up_as: bytes
    ) -> None:
        found, _ = read_request(way(head(start=b"%b %b HTTP/1.1" % (method, target)))[0])
        assert found.target == goes_up_as

    @pytest.mark.parametrize("host", [b"a", b"a.b-c:80", b"192.0.2.1", b"[2001:db8::1]:80", b"a_b", b"%61"])
    def test_a_host_is_a_name_or_an_address_with_a_port(self, host: bytes) -> None:
        assert request(host=b"Host: " + host).fields == ((b"host", b"Host", host),)

    def test_http_1_0_needs_no_host(self) -> None:
        assert request(start=b"GET / HTTP/1.0", host=b"").fields == ()

    def test_a_head_without_any_field_is_one(self) -> None:
        assert parse_request(b"GET / HTTP/1.0\r\n\r\n").target == b"/"

    def test_the_options_of_the_connection_are_its_members_in_lower_case(self) -> None:
        found = request(b"Connection: Close, X-A", b"connection: ,x-b ")
        assert found.options == {b"close", b"x-a", b"x-b"}

    @each_way
    @pytest.mark.parametrize(
        ("raw", "cause"),
        [
            (head(b"A : b"), BAD_REQUEST),
            (head(b"Content-Length: 5, 5"), BAD_REQUEST),
            (head(b"Content-Length: 5", b"Transfer-Encoding: chunked"), BAD_REQUEST),
            (head(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"), BAD_REQUEST),
            (head(host=b"Host: a/b"), BAD_REQUEST),
            (head(start=b"GET path HTTP/1.1"), BAD_REQUEST),
            (head(start=b"CONNECT router:443 HTTP/1.1"), METHOD_NOT_ALLOWED),
            (head(start=b"GET /%b HTTP/1.1" % (b"a" * 17000)), TARGET_TOO_LONG),
            (head(*[b"A: b"] * 257), HEADERS_TOO_LARGE),
            (head(b"A: %b" % (b"x" * 70000)), HEADERS_TOO_LARGE),
            (head(b"Transfer-Encoding: gzip"), UNSUPPORTED_CODING),
            (head(start=b"GET / HTTP/2.0"), UNSUPPORTED_VERSION),
        ],
        ids=lambda value: value.reason if isinstance(value, Cause) else None,
    )
    def test_each_kind_of_refusal_has_its_cause(self, way: Way, raw: bytes, cause: Cause) -> None:
        assert cause_of(way, raw) is cause


class TestIncomplete:
    @pytest.mark.parametrize(
        "raw",
        [
            b"\r",
            b"G",
            b"GET",
            b"GET ",
            b"GET /",
            b"GET / ",
            b"GET / HTTP/1.1",
            b"GET / HTTP/1.1\r",
            head()[:-1],
            head()[:-4],
        ],
    )
    def test_a_head_that_may_still_come_is_waited_for(self, raw: bytes) -> None:
        for scanned in range(len(raw)):
            check_incomplete(raw, scanned)

    @pytest.mark.parametrize(
        "raw",
        [
            b"\n",
            b"\r\r",
            b"\x16",
            b"GET /\n",
            b"GET / X",
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\r\nA: b\nB: c",
        ],
    )
    def test_a_head_that_cannot_come_any_more_is_refused_at_once(self, raw: bytes) -> None:
        with pytest.raises(MalformedMessageError) as caught:
            check_incomplete(raw, 0)
        assert caught.value.cause is BAD_REQUEST

    def test_a_bare_lf_is_found_at_the_edge_of_what_was_scanned(self) -> None:
        raw = b"GET / HTTP/1.1\r\nA: b\n"
        with pytest.raises(MalformedMessageError, match="bare LF"):
            check_incomplete(raw, len(raw) - 1)
        check_incomplete(b"GET / HTTP/1.1\r\n", len(b"GET / HTTP/1.1\r"))


class TestResponse:
    @each_way
    def test_a_head_is_read_value_for_value(self, way: Way) -> None:
        raw = head(
            b"Set-Cookie: a",
            b"set-cookie: b",
            b"X: \xe9",
            b"Content-Length: 2",
            start=b"HTTP/1.1 299 Any \xe9 reason",
            host=b"",
        )
        pieces, rest = way(raw)
        found, behind = read_response(pieces)
        assert behind == rest
        assert found == ResponseHead(
            status=299,
            reason=b"Any \xe9 reason",
            http11=True,
            fields=(
                (b"set-cookie", b"Set-Cookie", b"a"),
                (b"set-cookie", b"set-cookie", b"b"),
                (b"x", b"X", b"\xe9"),
                (b"content-length", b"Content-Length", b"2"),
            ),
            framing=Framing(Kind.LENGTH, 2),
            keep_alive=True,
            options=frozenset(),
        )
        assert not found.informational

    @pytest.mark.parametrize("start", [b"HTTP/1.1 404", b"HTTP/1.1 404 "])
    def test_a_reason_may_be_absent(self, start: bytes) -> None:
        assert (response(start=start).status, response(start=start).reason) == (404, b"")

    @pytest.mark.parametrize("status", [100, 102, 103, 199])
    def test_informational_responses_are_read(self, status: int) -> None:
        found = response(b"Link: </a>", start=b"HTTP/1.1 %d Note" % status)
        assert (found.status, found.informational) == (status, True)
        assert found.framing_for(b"GET") == framing.NONE

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            ([], framing.UNTIL_CLOSE),
            ([b"Content-Length: 3"], Framing(Kind.LENGTH, 3)),
            ([b"Transfer-Encoding: chunked"], framing.CHUNKED),
        ],
    )
    def test_the_framing_is_what_the_fields_state(self, lines: list[bytes], expected: Framing) -> None:
        assert response(*lines).framing_for(b"GET") == expected

    @pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
    def test_some_responses_have_no_body_whatever_they_state(self, method: bytes, status: int) -> None:
        found = response(b"Content-Length: 3", start=b"HTTP/1.1 %d X" % status)
        assert found.framing_for(method) == framing.NONE

    @pytest.mark.parametrize(
        ("version", "line", "keep"),
        [
            (b"1.1", b"A: b", True),
            (b"1.1", b"Connection: close", False),
            (b"1.0", b"A: b", False),
            (b"1.0", b"Connection: keep-alive", False),
        ],
    )
    def test_only_http_1_1_keeps_a_sandbox_connection(self, version: bytes, line: bytes, keep: bool) -> None:
        found = response(line, start=b"HTTP/%b 200 OK" % version)
        assert found.keep_alive is keep
        assert found.options == ({line[12:]} if line.startswith(b"Connection") else frozenset())

    @each_way
    @pytest.mark.parametrize(
        "raw",
        [
            head(start=b"HTTP/2.0 200 OK", host=b""),
            head(start=b"HTTP/1.1 20 OK", host=b""),
            head(start=b"HTTP/1.1 2000 OK", host=b""),
            head(start=b"HTTP/1.1 099 OK", host=b""),
            head(start=b"HTTP/1.1  200 OK", host=b""),
            head(start=b"HTTP/1.1 200 \x00", host=b""),
            head(start=b"HTTP/1.1 200 a\nX: b", host=b""),
            head(start=b"200 OK", host=b""),
            head(start=b"GET / HTTP/1.1", host=b""),
            head(b"A : b", start=b"HTTP/1.1 200 OK", host=b""),
            head(b"A: b", b" c", start=b"HTTP/1.1 200 OK", host=b""),
            head(b"A: b\nB: c", start=b"HTTP/1.1 200 OK", host=b""),
            head(b"A: \x00", start=b"HTTP/1.1 200 OK", host=b""),
            head(b"Content-Length: 5, 5", start=b"HTTP/1.1 200 OK", host=b""),
            head(b"Content-Length: +5", start=b"HTTP/1.1 200 OK", host=b""),
            head(b"Content-Length: 5", b"Content-Length: 6", start=b"HTTP/1.1 200 OK", host=b""),
            head(b"Content-Length: 5", b"Transfer-Encoding: chunked", start=b"HTTP/1.1 200 OK", host=b""),
            head(b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 OK", host=b""),
            head(b"Transfer-Encoding: gzip", start=b"HTTP/1.1 200 OK", host=b""),
            head(*[b"A: b"] * 257, start=b"HTTP/1.1 200 OK", host=b""),
            head(*[b"A: " + b"x" * 1021] * 65, start=b"HTTP/1.1 200 OK", host=b""),
        ],
        ids=lambda raw: repr(raw[:60]),
    )
    def test_what_is_no_response_head_is_refused(self, way: Way, raw: bytes) -> None:
        with pytest.raises(MalformedMessageError):
            read_response(way(raw)[0])
