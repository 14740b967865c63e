"""The TLS transport alone: a client's TLS object on one side, a recording protocol on the other."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

import pytest

from fastrouter.net.tls import HANDSHAKING, TlsTransport
from tests.certificates import certificate, client_context
from tests.support import eventually


class Below(asyncio.Transport):
    """A TCP transport in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.log: list[str] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.sent += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.log.append("close")
        self.closing = True

    def abort(self) -> None:
        self.log.append("abort")
        self.closing = True

    def write_eof(self) -> None:
        self.log.append("eof")

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")

    def get_write_buffer_size(self) -> int:
        return 7

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else default


class Above(asyncio.Protocol):
    """The protocol that is served: records what it is told."""

    def __init__(self, *, half_open: bool = False, enough: int = 2**40) -> None:
        self.half_open = half_open
        self.enough = enough
        self.got = b""
        self.log: list[str] = []
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.got += data
        if len(self.got) >= self.enough:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.log.append("eof")
        return self.half_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.log.append("lost")

    def pause_writing(self) -> None:
        self.log.append("pause")

    def resume_writing(self) -> None:
        self.log.append("resume")


class Room(asyncio.BufferedProtocol):
    """Takes bytes in buffers of its own, a few at a time, and then gives the transport back."""

    def __init__(self, size: int, pieces: int, then: Above) -> None:
        self.view = memoryview(bytearray(size))
        self.left = pieces
        self.then = then
        self.got = b""

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        self.got += self.view[:nbytes]
        self.left -= 1
        if not self.left:
            self.then.transport.set_protocol(self.then)


class Link:
    """Both ends of one connection, and what goes between them by hand."""

    def __init__(self, above: Above, *, trusts: str = "") -> None:
        self.above = above
        self.below = Below()
        self.failures: list[ssl.SSLError] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate().configure_cert(context)
        self.tls = TlsTransport(above, context, self.failures.append)
        self.tls.connection_made(self.below)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client_context(trusts).wrap_bio(
            self.incoming, self.outgoing, server_hostname="localhost"
        )

    def to_router(self, data: bytes | None = None, step: int = 100_000) -> None:
        data = self.outgoing.read() if data is None else data
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            self.tls.get_buffer(-1)[: len(piece)] = piece
            self.tls.buffer_updated(len(piece))

    def try_(self, action: Callable[[], Any]) -> Any:
        """Do something on the client's side with what the router has sent; None: it wants more."""
        sent, self.below.sent = self.below.sent, b""
        self.incoming.write(sent)
        try:
            return action()
        except ssl.SSLWantReadError:
            return None

    def shake(self, step: int = 100_000) -> Link:
        for _ in range(3):
            self.try_(self.client.do_handshake)
            self.to_router(step=step)
        return self

    def send(self, data: bytes, step: int = 100_000) -> None:
        view = memoryview(data)
        while view:
            view = view[self.client.write(view) :]
        self.to_router(step=step)

    def read(self) -> bytes | None:
        found: bytes | None = self.try_(lambda: self.client.read(2**20))
        return found


async def test_bytes_go_both_ways_whole_or_byte_by_byte() -> None:
    for step in (100_000, 1):
        link = Link(Above()).shake(step)
        link.send(b"hello", step)
        link.tls.writelines((b"to", bytearray(b" you"), memoryview(b"")))
        assert (link.above.got, link.read(), link.read()) == (b"hello", b"to", b" you")


async def test_what_is_longer_than_a_record_is_several() -> None:
    link = Link(Above()).shake()
    data = bytes(range(256)) * 400
    link.tls.write(memoryview(data))
    got = link.read() or b""
    while piece := link.read():
        got += piece
    assert got == data
    link.send(data)
    assert link.above.got == data


async def test_what_is_written_before_the_handshake_comes_after_it() -> None:
    link = Link(Above())
    link.tls.write(b"no room")
    link.tls.write_eof()
    assert link.tls.get_write_buffer_size() == 7 + 7
    assert link.below.sent == b""
    link.shake()
    assert (link.read(), link.read()) == (b"no room", b"")
    assert link.below.log == ["eof"]
    assert link.tls.get_write_buffer_size() == 7


async def test_it_tells_what_tcp_tells_and_of_its_handshake() -> None:
    link = Link(Above())
    assert repr(link.tls) == "<TlsTransport handshake>"
    assert not link.tls.get_extra_info(HANDSHAKING)
    link.try_(link.client.do_handshake)
    link.to_router()
    assert link.tls.get_extra_info(HANDSHAKING)
    link.shake()
    assert not link.tls.get_extra_info(HANDSHAKING)
    assert link.tls.get_extra_info("peername") == ("192.0.2.1", 1)
    assert link.tls.get_extra_info("other", 5) == 5
    assert link.tls.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert repr(link.tls) == "<TlsTransport TLSv1.3>"
    assert link.tls.get_protocol() is link.above


async def test_a_protocol_that_has_enough_gets_the_rest_when_it_resumes() -> None:
    link = Link(Above(enough=1)).shake()
    records = b"".join(bytes([number]) * 16384 for number in range(5))
    link.send(records)
    assert len(link.above.got) == 16384
    assert not link.tls.is_reading()
    assert link.below.log == ["pause"]
    while len(link.above.got) < len(records):
        before = len(link.above.got)
        link.tls.resume_reading()
        assert len(link.above.got) == before  # not within the call
        await eventually(lambda before=before: len(link.above.got) > before)  # type: ignore[misc]
        assert len(link.above.got) == before + 16384
    assert link.above.got == records
    assert "resume" not in link.below.log
    link.tls.resume_reading()
    assert link.below.log[-1] == "resume"


async def test_a_protocol_with_buffers_of_its_own_gets_no_byte_too_many() -> None:
    above = Above()
    link = Link(above).shake()
    room = Room(1000, 3, above)
    link.tls.set_protocol(room)
    data = bytes(range(200)) * 100
    link.send(data)
    assert room.got == data[:3000]
    assert above.got == data[3000:]


async def test_pressure_of_tcp_is_passed_on() -> None:
    link = Link(Above()).shake()
    link.tls.pause_writing()
    link.tls.resume_writing()
    assert link.above.log == ["pause", "resume"]


async def test_close_says_so_and_waits_for_nobody() -> None:
    link = Link(Above()).shake()
    link.tls.write(b"bye")
    link.tls.close()
    link.tls.close()
    link.tls.write(b"more")
    assert link.below.log == ["close"]
    assert (link.read(), link.read()) == (b"bye", b"")
    assert link.tls.is_closing()


async def test_abort_says_nothing() -> None:
    link = Link(Above()).shake()
    link.below.sent = b""
    link.tls.abort()
    assert (link.below.log, link.below.sent) == (["abort"], b"")


async def test_close_notify_is_the_end_and_closes() -> None:
    link = Link(Above()).shake()
    link.try_(link.client.unwrap)
    link.to_router()
    assert (link.above.log, link.below.log) == (["eof"], ["close"])
    with pytest.raises(ssl.SSLZeroReturnError):  # it has got the router's, too
        link.read()


async def test_a_tunnel_goes_on_after_one_half_has_ended() -> None:
    link = Link(Above(half_open=True)).shake()
    link.send(b"last")
    link.try_(link.client.unwrap)
    link.to_router()
    assert link.tls.eof_received() is True
    link.tls.write(b"answer")
    assert (link.above.got, link.above.log, link.read()) == (b"last", ["eof"], b"answer")
    assert link.below.log == []


async def test_the_end_of_tcp_alone_is_a_connection_that_broke() -> None:
    link = Link(Above(half_open=True)).shake()
    assert link.tls.eof_received() is False
    assert (link.above.log, link.below.log) == ([], ["abort"])
    link.tls.connection_lost(None)
    assert link.above.log == ["lost"]


async def test_ending_one_half_loses_nothing_that_waits() -> None:
    """OpenSSL, asked to end, reads on for the peer's own end, and drops what it finds."""
    link = Link(Above(enough=1)).shake()
    link.send(b"a" * 16384 + b"b" * 100)
    link.tls.write_eof()
    link.tls.write_eof()
    assert link.read() == b""
    link.tls.resume_reading()
    await eventually(lambda: link.above.got.endswith(b"b" * 100))
    link.tls.resume_reading()
    link.above.enough = 2**40
    link.send(b"c")
    assert link.above.got.endswith(b"bc")
    assert link.below.log.count("eof") == 1


async def test_a_record_that_was_changed_ends_the_connection() -> None:
    link = Link(Above()).shake()
    link.client.write(b"hello")
    data = bytearray(link.outgoing.read())
    data[-1] ^= 1
    link.to_router(bytes(data))
    assert (link.above.got, link.below.log) == (b"", ["abort"])


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 50])
async def test_what_is_no_tls_is_refused(sent: bytes) -> None:
    link = Link(Above())
    link.tls.write(b"never")
    link.to_router(sent)
    assert len(link.failures) == 1
    assert link.below.log == ["eof"]
    assert b"never" not in link.below.sent
    assert link.tls.eof_received() is False
    assert link.tls.get_write_buffer_size() == 7


async def test_after_a_refusal_a_little_is_read_and_no_more() -> None:
    link = Link(Above())
    link.to_router(b"\0" * 50)
    for _ in range(10):
        link.to_router(b"x" * 100_000)
    assert link.below.log == ["eof"]
    link.to_router(b"x" * 100_000)
    assert link.below.log == ["eof", "abort"]


async def test_a_client_that_does_not_trust_it_is_a_failure_with_its_reason() -> None:
    link = Link(Above(), trusts="strangers")
    link.try_(link.client.do_handshake)
    link.to_router()
    with pytest.raises(ssl.SSLCertVerificationError):
        link.try_(link.client.do_handshake)
    link.to_router()
    (failure,) = link.failures
    assert failure.reason is not None
    assert "UNKNOWN_CA" in failure.reason


async def test_the_end_lets_go_of_the_protocol() -> None:
    link = Link(Above()).shake()
    link.below.closing = True
    link.tls.connection_lost(None)
    assert link.above.log == ["lost"]
    assert link.tls.get_protocol() is not link.above
    link.tls.write(b"x")
    link.tls.write_eof()
    link.tls.pause_reading()
    link.tls.resume_reading()
    link.tls.close()
    assert link.below.log == []


class Barren:
    """Stands for a TLS object whose peer sends records without a byte: updates of keys, which no client here
    can be made to send. ``answers``: what each piece makes TLS say by itself."""

    def __init__(self, outgoing: ssl.MemoryBIO, answers: bytes) -> None:
        self._outgoing = outgoing
        self._answers = answers

    def read(self, *_: object) -> bytes:
        self._outgoing.write(self._answers)
        raise ssl.SSLWantReadError

    def version(self) -> str:
        return "TLSv1.3"


@pytest.mark.parametrize(("answers", "pieces"), [(b"", 3), (b"x" * 3000, 2)])
async def test_a_client_that_says_nothing_in_many_records_is_cut_off(answers: bytes, pieces: int) -> None:
    link = Link(Above()).shake()
    link.tls._tls = cast(ssl.SSLObject, Barren(link.tls._outgoing, answers))
    for _ in range(pieces - 1):
        link.to_router(b"\0" * 30_000)
        link.tls._incoming.read()
    assert "abort" not in link.below.log
    link.to_router(b"\0" * 30_000)
    assert link.below.log == ["abort"]
