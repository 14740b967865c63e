"""Request heads that are refused: whatever two parsers may read differently, and whatever is too big."""

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
)
from fastrouter.wire.heads import (
    MAX_HEAD,
    MAX_REQUEST_LINE,
    check_incomplete,
    parse_request,
)
from tests.wire.reading import cause_of, head, read_request
from tests.wire.ways import Way, each_way, whole


class TestForm:
    @each_way
    @pytest.mark.parametrize(
        "target", [b"*", b"path", b"http:/one-slash", b"http:///no-authority", b"://x/", b"?q", b"1x://y/"]
    )
    def test_a_target_of_no_form_is_refused(self, way: Way, target: bytes) -> None:
        assert cause_of(way, head(start=b"GET %b HTTP/1.1" % target)) is BAD_REQUEST

    @each_way
    @pytest.mark.parametrize("target", [b"router:443", b"/", b"http://router/"])
    def test_connect_is_not_allowed(self, way: Way, target: bytes) -> None:
        assert cause_of(way, head(start=b"CONNECT %b HTTP/1.1" % target)) is METHOD_NOT_ALLOWED

    @each_way
    @pytest.mark.parametrize(
        "raw",
        [
            head(b"A: b\nB: c"),
            head(b"A: b\rB: c"),
            head(b"A: b\r"),
            b"GET / HTTP/1.1\nHost: router\n\n",
            b"GET / HTTP/1.1\r\nHost: router\n\r\n",
            head(b"A: b", b" folded"),
            head(b"A: b", b"\tfolded"),
            head(b" A: b"),
            head(b"A : b"),
            head(b"A\t: b"),
            head(b"no colon"),
            head(b": no name"),
            head(b"A\x00: b"),
            head(b"A: \x00"),
            head(b"A: \x01"),
            head(b"A: \x0b\x0c"),
            head(b"A: \x7f"),
            head(b"A\xe9: b"),
            head(b"(A): b"),
            head(start=b"GET  / HTTP/1.1"),
            head(start=b"GET / HTTP/1.1 "),
            head(start=b"GET\t/ HTTP/1.1"),
            head(start=b" GET / HTTP/1.1"),
            head(start=b"GET / http/1.1"),
            head(start=b"GET / HTTP/1.1x"),
            head(start=b"GET / HTTP/1.1\r"),
            head(start=b"GET /"),
            head(start=b"GET"),
            head(start=b"GET /a b HTTP/1.1"),
            head(start=b"GET /\x00 HTTP/1.1"),
            head(start=b"GET /\xe9 HTTP/1.1"),
            head(start=b"G@T / HTTP/1.1"),
            head(start=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ],
        ids=repr,
    )
    def test_what_is_no_request_head_is_refused(self, way: Way, raw: bytes) -> None:
        assert cause_of(way, raw) is BAD_REQUEST

    @each_way
    @pytest.mark.parametrize(
        "value",
        [b"+5", b"-5", b"0x5", b"5 5", b"5,5", b"5, 5", b"5,6", b"", b"5.0", b"5_0", b"five", b"1" * 20],
    )
    def test_a_length_that_is_no_number_of_up_to_19_digits_is_refused(self, way: Way, value: bytes) -> None:
        assert cause_of(way, head(b"Content-Length: " + value)) is BAD_REQUEST
        assert cause_of(way, head(b"content-length:5", b"CONTENT-LENGTH:" + value)) is BAD_REQUEST

    @each_way
    @pytest.mark.parametrize(
        "lines",
        [
            [b"Content-Length: 5", b"Content-Length: 6"],
            [b"Content-Length: 5", b"Content-Length: 05"],
            [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        ],
    )
    def test_two_statements_about_the_end_of_the_body_are_refused(self, way: Way, lines: list[bytes]) -> None:
        assert cause_of(way, head(*lines)) is BAD_REQUEST

    @each_way
    @pytest.mark.parametrize(
        "lines",
        [
            [b"Transfer-Encoding: gzip"],
            [b"Transfer-Encoding: gzip, chunked"],
            [b"Transfer-Encoding: chunked, gzip"],
            [b"Transfer-Encoding: chunked, chunked"],
            [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: xchunked"],
            [b'Transfer-Encoding: "chunked"'],
            [b"Transfer-Encoding: chunked;q=1"],
            [b"Transfer-Encoding: identity"],
            [b"Transfer-Encoding:"],
        ],
    )
    def test_any_coding_but_exactly_chunked_is_not_implemented(self, way: Way, lines: list[bytes]) -> None:
        assert cause_of(way, head(*lines)) is UNSUPPORTED_CODING

    @each_way
    def test_http_1_0_has_no_transfer_coding(self, way: Way) -> None:
        raw = head(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0")
        assert cause_of(way, raw) is BAD_REQUEST

    @each_way
    @pytest.mark.parametrize("version", [b"2.0", b"2", b"3", b"0.9", b"1.2", b"1.10", b"10.1", b"1"])
    def test_other_versions_are_not_supported(self, way: Way, version: bytes) -> None:
        assert cause_of(way, head(start=b"GET / HTTP/" + version)) is UNSUPPORTED_VERSION

    @each_way
    @pytest.mark.parametrize(
        "host",
        [
            b"",
            b"Host:",
            b"Host: a b",
            b"Host: a/b",
            b"Host: user@a",
            b"Host: a?b",
            b"Host: a, b",
            b"Host: \xe9",
            b"Host: a\r\nhost: a",
        ],
    )
    def test_http_1_1_needs_one_host_that_is_one(self, way: Way, host: bytes) -> None:
        # A list is refused only where it has white space: RFC 3986 allows the comma in a name.
        assert cause_of(way, head(host=host)) is BAD_REQUEST


class TestSizes:
    @each_way
    @pytest.mark.parametrize(("count", "taken"), [(256, True), (257, False)])
    def test_256_fields_are_taken_and_257_are_not(self, way: Way, count: int, taken: bool) -> None:
        raw = head(*[b"A: b"] * (count - 1))
        if taken:
            assert len(read_request(way(raw)[0])[0].fields) == count
        else:
            assert cause_of(way, raw) is HEADERS_TOO_LARGE

    @each_way
    @pytest.mark.parametrize("excess", [0, 1])
    def test_a_request_line_of_16_kib_is_taken_and_one_more_byte_is_not(self, way: Way, excess: int) -> None:
        target = b"/" + b"a" * (MAX_REQUEST_LINE + excess - len(b"GET / HTTP/1.1"))
        raw = head(start=b"GET %b HTTP/1.1" % target)
        if excess:
            assert cause_of(way, raw) is TARGET_TOO_LONG
        else:
            assert read_request(way(raw)[0])[0].target == target

    @pytest.mark.parametrize("excess", [0, 1])
    def test_a_head_of_64_kib_is_taken_and_one_more_byte_is_not(self, excess: int) -> None:
        field = b"A: " + b"x" * 1021
        raw = head(*[field] * 63, b"B: " + b"x" * excess)
        raw = raw.replace(b"B: ", b"B: " + b"x" * (MAX_HEAD + excess - len(raw)))
        assert len(raw) == MAX_HEAD + excess
        if excess:
            assert cause_of(whole, raw) is HEADERS_TOO_LARGE
        else:
            assert len(parse_request(raw).fields) == 65

    def test_a_head_that_does_not_end_is_refused_at_64_kib(self) -> None:
        start = head()[:-2] + b"A: "
        assert (
            cause_of(lambda raw: ([raw[:-1], raw[-1:]], b""), start + b"x" * (MAX_HEAD - len(start)))
            is HEADERS_TOO_LARGE
        )
        check_incomplete(start + b"x" * (MAX_HEAD - len(start) - 1), 0)

    @pytest.mark.parametrize(
        ("start", "cause"),
        [
            (b"GET /", TARGET_TOO_LONG),
            (b"", TARGET_TOO_LONG),
            (b"GET /\x00", BAD_REQUEST),
            (b"\x16\x03\x01", BAD_REQUEST),
            (b"GET / HTTP/1.1 ", BAD_REQUEST),
        ],
    )
    def test_a_long_line_is_a_long_target_or_garbage(self, start: bytes, cause: Cause) -> None:
        assert cause_of(whole, start + b"a" * (MAX_REQUEST_LINE + 2)) is cause
