"""A DNS server on one loopback port (UDP and TCP): addresses from a zone, and failures on demand."""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Literal, NamedTuple

import dnslib

from fastrouter.demo.listener import Listener, authority, bind

Zone = dict[str, list[str]] | Callable[[str], list[str] | None]
Mode = Literal["answer", "servfail", "silent"]

NEGATIVE_TTL = 30  # CoreDNS sends this as the SOA minimum
PLAIN_UDP_SIZE = 512  # RFC 1035 4.2.1; a question with EDNS may name more
RECORDED = 100_000
RECEIVE_BUFFER = 4 * 1024 * 1024
BIND_ATTEMPTS = 20


class DnsServer:
    """Answers A and AAAA questions from `zone`; keeps the questions it saw in `questions`.

    Names in the zone are lower case and have no trailing dot. `zone` and `mode` may change at any time.
    A known name without an address of the type asked for has no data; an unknown name does not exist.
    """

    def __init__(self, zone: Zone, *, ttl: int = 5, record: bool = True) -> None:
        """Serve `zone`; with `record` off only count the questions."""
        self.zone = zone
        self.ttl = ttl
        self.record = record
        self.mode: Mode = "answer"
        self.questions: list[tuple[str, str]] = []
        self.asked = 0
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp = Listener(self._serve_tcp)
        self._bound = ("", 0)

    def __repr__(self) -> str:
        """Show where it listens and what it has done."""
        return f"<DnsServer {self.address} mode={self.mode} asked={self.asked}>"

    @property
    def address(self) -> str:
        """Host and port as `DNS_SERVERS` takes them."""
        return authority(*self._bound)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen for UDP and TCP on the same port; port 0 takes a free one."""
        udp, tcp = _bind_pair(host, port)
        self._bound = (host, udp.getsockname()[1])
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        await self._tcp.start(tcp)

    async def close(self) -> None:
        """Stop answering and free the port."""
        if self._udp is not None:
            self._udp.close()
            self._udp = None
        await self._tcp.close()

    async def __aenter__(self) -> "DnsServer":
        """Start on a free loopback port."""
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close."""
        await self.close()

    def reply(self, packet: bytes, *, over_udp: bool) -> bytes | None:
        """Return the reply to one packet, or None where there is to be none."""
        question = _read(packet)
        if question is None:
            return None
        self.asked += 1
        if self.record and len(self.questions) < RECORDED:
            self.questions.append((question.name, question.kind))
        if self.mode == "silent":
            return None
        size = question.udp_size if over_udp else None
        if self.mode == "servfail":
            return _write(question, "SERVFAIL", (), ttl=self.ttl, size=size)
        addresses = self._look_up(question.name.lower())
        code = "NXDOMAIN" if addresses is None else "NOERROR"
        return _write(question, code, addresses or (), ttl=self.ttl, size=size)

    def _look_up(self, name: str) -> list[str] | None:
        return self.zone.get(name) if isinstance(self.zone, dict) else self.zone(name)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                length = int.from_bytes(await reader.readexactly(2), "big")
                packet = await reader.readexactly(length)
            except asyncio.IncompleteReadError:
                return
            reply = self.reply(packet, over_udp=False)
            if reply is not None:
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._server.reply(data, over_udp=True)
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)


def _bind_pair(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Bind UDP and TCP to one port; a free UDP port may be taken for TCP, then try another."""
    for _ in range(BIND_ATTEMPTS):
        udp = bind(socket.SOCK_DGRAM, host, port)
        # A burst of a thousand first questions must not overflow the socket: c-ares would wait for seconds.
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        try:
            return udp, bind(socket.SOCK_STREAM, host, udp.getsockname()[1])
        except OSError as error:
            udp.close()
            if port or error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"no port of {host} is free for UDP and TCP")


# What follows is the only code that touches dnslib: nearly all of it is Any for a type checker.


class _Question(NamedTuple):
    record: "dnslib.DNSRecord"
    name: str
    kind: str
    udp_size: int


def _read(packet: bytes) -> _Question | None:
    """Return the question of a packet; None for a malformed packet, a reply, or other than one question."""
    try:
        record = dnslib.DNSRecord.parse(packet)
    except dnslib.DNSError:
        return None
    if record.header.qr or len(record.questions) != 1:
        return None
    question = record.questions[0]
    sizes = [extra.edns_len for extra in record.ar if extra.rtype == dnslib.QTYPE.OPT]
    return _Question(
        record=record,
        name=str(question.qname).rstrip("."),
        kind=str(dnslib.QTYPE[question.qtype]),
        udp_size=max([PLAIN_UDP_SIZE, *sizes]),
    )


def _write(
    question: _Question, code: str, addresses: tuple[str, ...] | list[str], *, ttl: int, size: int | None
) -> bytes:
    """Return a reply; over `size` bytes it is cut down to its question and the truncation bit."""
    reply = question.record.reply()
    reply.header.rcode = getattr(dnslib.RCODE, code)
    name = question.record.questions[0].qname
    for address in addresses:
        kind = "A" if isinstance(ipaddress.ip_address(address), ipaddress.IPv4Address) else "AAAA"
        if kind == question.kind:
            data = getattr(dnslib, kind)(address)
            reply.add_answer(dnslib.RR(name, getattr(dnslib.QTYPE, kind), ttl=ttl, rdata=data))
    if not reply.rr and code != "SERVFAIL":
        reply.add_auth(_start_of_authority(question.name))
    packet: bytes = reply.pack()
    if size is not None and len(packet) > size:
        reply.rr.clear()
        reply.header.tc = 1
        packet = reply.pack()
    return packet


def _start_of_authority(name: str) -> "dnslib.RR":
    """Return the record that tells a resolver how long it may keep a negative answer (RFC 2308)."""
    apex = name.rpartition(".svc.")[2]
    times = (1, 7200, 1800, 86400, NEGATIVE_TTL)
    data = dnslib.SOA(f"ns.dns.{apex}", f"hostmaster.{apex}", times)
    return dnslib.RR(apex, dnslib.QTYPE.SOA, ttl=NEGATIVE_TTL, rdata=data)
