"""Hostile requests, as tables: what is sent, and the reply that the contract names (section 7).

``<port>`` stands for the port of the sandbox. A case is refused by its head, or by its chunked body.
"""

from __future__ import annotations

from typing import Final, NamedTuple

BAD: Final = (400, "bad_request")
NOT_IMPLEMENTED: Final = (501, "unsupported_coding")
NO_VERSION: Final = (505, "unsupported_version")
TOO_LONG: Final = (414, "target_too_long")
TOO_LARGE: Final = (431, "headers_too_large")
NO_METHOD: Final = (405, "method_not_allowed")

START: Final = b"POST /hostile HTTP/1.1\r\nHost: router\r\nX-Sandbox-ID: box\r\nX-Sandbox-Port: <port>\r\n"
SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: x\r\nX-Sandbox-ID: box\r\nX-Sandbox-Port: <port>\r\n\r\n"


class Case(NamedTuple):
    """One hostile request and the reply to it: status and reason word."""

    name: str
    raw: bytes
    reply: tuple[int, str] = BAD


def with_fields(name: str, *fields: bytes, body: bytes = b"", reply: tuple[int, str] = BAD) -> Case:
    """Return a case whose head is well formed but for ``fields``."""
    return Case(name, START + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body, reply)


def with_line(name: str, line: bytes, reply: tuple[int, str] = BAD) -> Case:
    """Return a case whose request line is at fault."""
    return Case(
        name, line + b"\r\nHost: router\r\nX-Sandbox-ID: box\r\nX-Sandbox-Port: <port>\r\n\r\n", reply
    )


def with_host(name: str, *hosts: bytes) -> Case:
    """Return a case with these ``Host`` lines."""
    lines = b"".join(host + b"\r\n" for host in hosts)
    head = b"GET / HTTP/1.1\r\n" + lines + b"X-Sandbox-ID: box\r\nX-Sandbox-Port: <port>\r\n\r\n"
    return Case(name, head)


CL5: Final = b"Content-Length: 5"
TE: Final = b"Transfer-Encoding: chunked"
LAST: Final = b"0\r\n\r\n"

FRAMING_CONFLICTS: Final = (
    with_fields("CL then TE", CL5, TE, body=LAST),
    with_fields("TE then CL", TE, CL5, body=LAST),
    with_fields("CL 0 then TE", b"Content-Length: 0", TE, body=LAST),
    with_fields("CL and TE in odd case", b"cOnTeNt-LeNgTh: 5", b"TRANSFER-encoding: ChUnKeD", body=LAST),
    with_fields("TE, CL, TE", TE, CL5, TE, body=LAST, reply=NOT_IMPLEMENTED),
    with_fields("CL, TE, CL", CL5, TE, CL5, body=LAST),
    with_fields("CL and TE nominated by Connection", b"Connection: Transfer-Encoding", CL5, TE, body=LAST),
    with_fields("TE and CL nominated by Connection", b"Connection: Content-Length", TE, CL5, body=LAST),
    with_fields("CL and TE identity", CL5, b"Transfer-Encoding: identity", reply=NOT_IMPLEMENTED),
    with_fields("CL.TE", b"Content-Length: 6", TE, body=LAST + b"G"),
    with_fields("TE.CL", TE, b"Content-Length: 4", body=b"5c\r\n" + SMUGGLED + b"\r\n" + LAST),
    with_fields("CL.TE with a request behind", b"Content-Length: 4", TE, body=LAST + SMUGGLED),
    with_fields("TE.TE, the second unknown", TE, b"Transfer-Encoding: x", body=LAST, reply=NOT_IMPLEMENTED),
    with_fields("TE.TE, the first unknown", b"Transfer-Encoding: x", TE, body=LAST, reply=NOT_IMPLEMENTED),
)

LENGTHS: Final = (
    with_fields("two lengths", CL5, b"Content-Length: 6", body=b"hello!"),
    with_fields("two lengths, the second 0", CL5, b"Content-Length: 0", body=b"hello"),
    with_fields("two lengths of one value, spelled apart", CL5, b"Content-Length: 05", body=b"hello"),
    *(
        with_fields(f"length {value!r}", b"Content-Length:" + value, body=b"hello")
        for value in (
            b" +5",
            b" -5",
            b" -0",
            b" 5 5",
            b" 5,5",
            b" 5, 5",
            b" 5,6",
            b" 5,",
            b" ,5",
            b" 0x5",
            b" 5h",
            b" 5.0",
            b" 5e0",
            b" 1_0",
            b" 5;",
            b' "5"',
            b" 5\t6",
            b" \xd9\xa5",
            b" \xef\xbc\x95",
            b" five",
            b"",
            b" ",
            b" 18446744073709551621",
            b" 00000000000000000005",
            b" " + b"9" * 400,
        )
    ),
)

CODINGS: Final = (
    *(
        with_fields(f"coding {value!r}", b"Transfer-Encoding:" + value, body=LAST, reply=NOT_IMPLEMENTED)
        for value in (
            b" xchunked",
            b" chunkedx",
            b" chunked, chunked",
            b" chunked,",
            b" ,chunked",
            b" gzip, chunked",
            b" chunked, gzip",
            b" gzip",
            b" identity",
            b" chunked, identity",
            b" chunked;q=1",
            b' "chunked"',
            b" chunked chunked",
            b" chunked\xa0",
            b" chun\xc2\xadked",
            b"",
        )
    ),
    with_fields("coding behind VT", b"Transfer-Encoding: \x0bchunked", body=LAST),
    with_fields("coding behind FF", b"Transfer-Encoding: \x0cchunked", body=LAST),
    with_fields("coding before NUL", b"Transfer-Encoding: chunked\x00", body=LAST),
    with_fields("coding behind a bare CR", b"Transfer-Encoding:\rchunked", body=LAST),
    with_fields("coding behind a bare LF", b"Transfer-Encoding:\nchunked", body=LAST),
    with_fields("coding folded", b"Transfer-Encoding:\r\n chunked", body=LAST),
    with_fields("coding twice", TE, TE, body=LAST, reply=NOT_IMPLEMENTED),
    with_fields("coding twice in odd case", TE, b"tRANSFER-eNCODING: CHUNKED", reply=NOT_IMPLEMENTED),
    with_fields("coding name before a space", b"Transfer-Encoding : chunked", body=LAST),
    with_fields("coding name before a tab", b"Transfer-Encoding\t: chunked", body=LAST),
    with_fields("coding name behind a space", b" Transfer-Encoding: chunked", body=LAST),
    Case("chunked in HTTP/1.0", START.replace(b"/1.1", b"/1.0") + TE + b"\r\n\r\n" + LAST),
    Case(
        "chunked in a kept HTTP/1.0",
        START.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n" + TE + b"\r\n\r\n",
    ),
)

LINES: Final = (
    Case("bare LF everywhere", START.replace(b"\r\n", b"\n") + b"\n"),
    Case("bare LF behind the request line", START.replace(b"1.1\r\n", b"1.1\n") + b"\r\n"),
    Case("bare LF behind a field", START + b"A: b\nC: d\r\n\r\n"),
    Case("bare LF as the last empty line", START + b"\n"),
    Case("LF CR", START + b"A: b\n\rC: d\r\n\r\n"),
    Case("bare CR behind the request line", START.replace(b"1.1\r\n", b"1.1\r") + b"\r\n"),
    Case("bare CR behind a field", START + b"A: b\rC: d\r\n\r\n"),
    Case("CR CR LF", START + b"A: b\r\r\nC: d\r\n\r\n"),
    Case("bare CR before the head's end", START + b"A: b\r\r\n\r\n"),
    Case("obs-fold with a space", START + b"A: b\r\n c\r\n\r\n"),
    Case("obs-fold with a tab", START + b"A: b\r\n\tc\r\n\r\n"),
    Case("obs-fold of the first field", START.replace(b"\r\nHost", b"\r\n Host") + b"\r\n"),
    Case("white space only line", START + b" \r\nA: b\r\n\r\n"),
    Case("no colon", START + b"no colon here\r\n\r\n"),
    Case("no colon, one word", START + b"word\r\n\r\n"),
    Case("empty name", START + b": value\r\n\r\n"),
    Case("space for a name", START + b" : value\r\n\r\n"),
    Case("space before the colon", START + b"A : b\r\n\r\n"),
    Case("tab before the colon", START + b"A\t: b\r\n\r\n"),
    Case("space before the colon of Content-Length", START + b"Content-Length : 5\r\n\r\nhello"),
    *(
        Case(f"{bytes([byte])!r} in a name", START + b"A%cA: b\r\n\r\n" % byte)
        for byte in b'\x00\x01\x08\x0b\x0c\x1f\x7f\x80\xff "(),/;<=>?@[\\]{}'
    ),
    *(
        Case(f"{bytes([byte])!r} in a value", START + b"A: b%cb\r\n\r\n" % byte)
        for byte in b"\x00\x01\x07\x08\x0b\x0c\x0e\x1b\x1f\x7f"
    ),
    *(
        with_line(f"{bytes([byte])!r} in the target", b"GET /a%cb HTTP/1.1" % byte)
        for byte in b"\x00\x01\x09\x0b\x1f\x20\x7f\x80\xff"
    ),
)

REQUEST_LINES: Final = (
    with_line("HTTP/0.9", b"GET / HTTP/0.9", NO_VERSION),
    with_line("HTTP/1.2", b"GET / HTTP/1.2", NO_VERSION),
    with_line("HTTP/1.10", b"GET / HTTP/1.10", NO_VERSION),
    with_line("HTTP/01.1", b"GET / HTTP/01.1", NO_VERSION),
    with_line("HTTP/2.0", b"GET / HTTP/2.0", NO_VERSION),
    with_line("HTTP/2", b"GET / HTTP/2", NO_VERSION),
    with_line("HTTP/3", b"GET / HTTP/3", NO_VERSION),
    with_line("HTTP/-1.1", b"GET / HTTP/-1.1"),
    with_line("HTTP/1.1 and a space", b"GET / HTTP/1.1 "),
    with_line("HTTP/1,1", b"GET / HTTP/1,1"),
    with_line("http/1.1", b"GET / http/1.1"),
    with_line("HTTPS/1.1", b"GET / HTTPS/1.1"),
    with_line("no version", b"GET /"),
    with_line("no target", b"GET HTTP/1.1"),
    with_line("empty target", b"GET  HTTP/1.1"),
    with_line("two spaces", b"GET  / HTTP/1.1"),
    with_line("two spaces before the version", b"GET /  HTTP/1.1"),
    with_line("a tab for a space", b"GET\t/ HTTP/1.1"),
    with_line("a space first", b" GET / HTTP/1.1"),
    with_line("no method", b"/ HTTP/1.1"),
    with_line("a method that is no token", b"GE(T / HTTP/1.1"),
    with_line("a method with a colon", b"GET: / HTTP/1.1"),
    with_line("an authority for a target", b"GET example.com:443 HTTP/1.1"),
    with_line("a relative target", b"GET path HTTP/1.1"),
    with_line("a star for GET", b"GET * HTTP/1.1"),
    with_line("an absolute target without authority", b"GET http:///path HTTP/1.1"),
    with_line("CONNECT", b"CONNECT example.com:443 HTTP/1.1", NO_METHOD),
    with_line("CONNECT with a path", b"CONNECT / HTTP/1.1", NO_METHOD),
    Case(
        "the HTTP/2 preface",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        NO_VERSION,
    ),
    Case("a TLS ClientHello", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(range(160))),
    Case("an SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    Case("a PROXY protocol line", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + START + b"\r\n"),
    Case("a response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    Case("NULs", b"\x00" * 64),
)

HOSTS: Final = (
    with_host("no Host"),
    with_host("empty Host", b"Host:"),
    with_host("blank Host", b"Host:   "),
    with_host("Host twice", b"Host: router", b"Host: other"),
    with_host("Host twice with one value", b"Host: router", b"host: router"),
    with_host("Host with a space", b"Host: a b"),
    with_host("Host with a path", b"Host: a/b"),
    with_host("Host with user information", b"Host: user@host"),
    with_host("Host with obs-text", b"Host: \xe4"),
    with_host("Host with a query", b"Host: a?b"),
    with_host("Host with quotes", b'Host: "a"'),
    with_host("Host nominated by Connection, and missing", b"Connection: Host"),
)

_FIELDS: Final = b"".join(b"F-%d: v\r\n" % number for number in range(254))
SIZES: Final = (
    Case("257 fields", START + _FIELDS + b"\r\n", TOO_LARGE),
    Case("a field of 64 KiB", START + b"A: " + b"a" * 65536 + b"\r\n\r\n", TOO_LARGE),
    Case("a field of 64 KiB without an end", START + b"A: " + b"a" * 65536, TOO_LARGE),
    Case("a name of 64 KiB", START + b"a" * 65536, TOO_LARGE),
    Case("a head of 1 MiB", START + b"A: b\r\n" * 170000 + b"\r\n", TOO_LARGE),
    Case("a target over 16 KiB", b"GET /" + b"a" * 16384 + b" HTTP/1.1\r\nHost: a\r\n\r\n", TOO_LONG),
    Case("a target of 1 MiB without an end", b"GET /" + b"a" * 2**20, TOO_LONG),
    Case("a method over 16 KiB", b"G" * 16385 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", TOO_LONG),
)

HEADS: Final = FRAMING_CONFLICTS + LENGTHS + CODINGS + LINES + REQUEST_LINES + HOSTS + SIZES


def with_chunks(name: str, body: bytes) -> Case:
    """Return a case whose head is well formed and whose chunked body is not."""
    return Case(name, START + TE + b"\r\n\r\n" + body)


CHUNKS: Final = (
    *(
        with_chunks(f"chunk size {size!r}", size + b"\r\nhello\r\n" + LAST)
        for size in (
            b"+5",
            b"-5",
            b"0x5",
            b"0X5",
            b"x5",
            b"5h",
            b"5x",
            b"g",
            b" 5",
            b"\t5",
            b"5 5",
            b"5,5",
            b"5.",
            b"5_0",
            b'"5"',
            b"",
            b" ",
            b";ext",
            b"5\x00",
            b"5\x0b",
            b"\xef\xbc\x95",
            b"00000000000000005",
            b"FFFFFFFFFFFFFFFFF",
            b"5;a\x00b",
            b"5;a\x7fb",
            b"5;a\nb",
            b"5;a\rb",
            b"5;" + b"a" * 4096,
        )
    ),
    with_chunks("no CRLF behind a chunk", b"5\r\nhello" + LAST),
    with_chunks("a chunk longer than its size", b"5\r\nhello!\r\n" + LAST),
    with_chunks("a chunk shorter than its size", b"6\r\nhello\r\n" + LAST),
    with_chunks("bare LF behind a size", b"5\nhello\r\n" + LAST),
    with_chunks("bare LF behind a chunk", b"5\r\nhello\n" + LAST),
    with_chunks("bare LF behind the last size", b"0\n\n"),
    with_chunks("bare CR behind a size", b"5\rhello\r\n" + LAST),
    with_chunks("bare CR behind a chunk", b"5\r\nhello\r" + LAST),
    with_chunks("CR CR LF behind a size", b"5\r\r\nhello\r\n" + LAST),
    with_chunks("LF CR behind a chunk", b"5\r\nhello\n\r" + LAST),
    with_chunks("a size behind two chunks", b"5\r\nhello\r\n1\r\nx\r\n-1\r\n" + LAST),
    with_chunks("no size at all", b"hello\r\n\r\n"),
    with_chunks("a request for a chunk", SMUGGLED),
    with_chunks("TE.CL read as length", b"8\r\nSMUGGLED\r\n0\r\nX"[:-1] + SMUGGLED),
    with_chunks("a trailer without colon", b"0\r\nword\r\n\r\n"),
    with_chunks("a trailer with a space before the colon", b"0\r\nA : b\r\n\r\n"),
    with_chunks("a trailer with an empty name", b"0\r\n: b\r\n\r\n"),
    with_chunks("a folded trailer", b"0\r\nA: b\r\n c\r\n\r\n"),
    with_chunks("a trailer with NUL", b"0\r\nA: b\x00\r\n\r\n"),
    with_chunks("a trailer with a bare CR", b"0\r\nA: b\rc\r\n\r\n"),
    with_chunks("a trailer with a bare LF", b"0\r\nA: b\nC: d\r\n\r\n"),
    with_chunks("trailers that end with bare LF", b"0\r\nA: b\n\n"),
    with_chunks("trailers of 64 KiB", b"0\r\n" + b"A: b\r\n" * 11000 + b"\r\n"),
    with_chunks("a trailer that differs in length", b"0\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
)
