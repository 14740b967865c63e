"""What a sandbox keeps of a request; reading and pausing are tested over sockets in test_sandbox.py."""

import asyncio

import h11
import pytest

from fastrouter.demo.calls import Call, Seen, Wire, json_reply


class Silent(asyncio.Transport):
    """A transport that nothing is written to."""

    def is_closing(self) -> bool:
        return True


def call(target: str, *headers: tuple[str, str]) -> Call:
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    reader = asyncio.StreamReader()
    writer = asyncio.StreamWriter(Silent(), protocol, reader, asyncio.get_running_loop())
    wire = Wire(reader, writer, lambda: None)
    return Call(wire, h11.Request(method="POST", target=target, headers=[("Host", "x"), *headers]))


async def test_a_target_is_taken_apart_but_not_decoded() -> None:
    one = call("/a%2Fb?x=1&y=&x=2&z=%20")
    assert (one.path, one.query) == ("/a%2Fb", {"x": "2", "y": "", "z": " "})
    assert one.seen.target == "/a%2Fb?x=1&y=&x=2&z=%20"


@pytest.mark.parametrize(
    ("header", "chunked", "length"),
    [
        (("X", "y"), False, 0),
        (("Content-Length", "12"), False, 12),
        (("transfer-encoding", "chunked"), True, 0),
    ],
)
async def test_framing_of_the_body(header: tuple[str, str], chunked: bool, length: int) -> None:
    one = call("/", header)
    assert (one.chunked, one.length) == (chunked, length)
    assert one.header(header[0].upper(), "none") == header[1]
    assert one.header("absent", "none") == "none"


def test_values_ignore_case_and_keep_order() -> None:
    seen = Seen("GET", "/", "1.1", [(b"A", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert seen.values("A") == [b"1", b"3"]
    assert (seen.body_length, seen.complete, seen.body_sha256[:8]) == (0, False, "e3b0c442")


def test_json_replies() -> None:
    reply = json_reply(404, {"detail": "x"})
    assert (reply.status, reply.body, reply.content_type) == (404, b'{"detail": "x"}', "application/json")
