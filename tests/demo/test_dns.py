"""The demo's DNS server, asked by c-ares and by hand."""

import asyncio
import socket

import aiodns
import dnslib
import pycares
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrouter.demo.dns import NEGATIVE_TTL, DnsServer

NAME = "sandbox-1.default.svc.cluster.local"
ZONE = {NAME: ["127.0.0.11", "127.0.0.12"], "six.default.svc.cluster.local": ["fd00::7"]}


def client(server: DnsServer, *, tcp: bool = False) -> aiodns.DNSResolver:
    flags = pycares.ARES_FLAG_USEVC if tcp else 0
    # Client and server share a loop here: all replies arrive before the client reads the first.
    return aiodns.DNSResolver(
        nameservers=[server.address],
        timeout=1,
        tries=1,
        flags=flags,
        socket_receive_buffer_size=4 * 1024 * 1024,
    )


def addresses(result: pycares.DNSResult) -> list[str]:
    data = [record.data for record in result.answer]
    return [item.addr for item in data if isinstance(item, pycares.ARecordData | pycares.AAAARecordData)]


async def ask_udp(server: DnsServer, packet: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    host, _, port = server.address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (host, int(port)))
        await loop.sock_sendall(sock, packet)
        async with asyncio.timeout(5):
            return await loop.sock_recv(sock, 65536)


async def ask_tcp(server: DnsServer, *packets: bytes) -> list[bytes]:
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets))
        async with asyncio.timeout(5):
            sizes_and_bodies = [
                await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")) for _ in packets
            ]
    finally:
        writer.close()
        await writer.wait_closed()
    return sizes_and_bodies


def question(name: str, kind: str = "A") -> bytes:
    return bytes(dnslib.DNSRecord.question(name, kind).pack())


@pytest.mark.parametrize("tcp", [False, True])
async def test_known_names_have_their_addresses(tcp: bool) -> None:
    async with DnsServer(ZONE, ttl=7) as server, client(server, tcp=tcp) as resolver:
        four = await resolver.query_dns(NAME + ".", "A")
        six = await resolver.query_dns("six.default.svc.cluster.local.", "AAAA")
        assert addresses(four) == ZONE[NAME]
        assert {record.ttl for record in four.answer} == {7}
        assert addresses(six) == ["fd00::7"]
        assert server.questions == [(NAME, "A"), ("six.default.svc.cluster.local", "AAAA")]


async def test_other_type_has_no_data_and_unknown_name_does_not_exist() -> None:
    async with DnsServer(ZONE) as server, client(server) as resolver:
        with pytest.raises(aiodns.error.DNSError) as no_data:
            await resolver.query_dns(NAME, "AAAA")
        with pytest.raises(aiodns.error.DNSError) as no_name:
            await resolver.query_dns("gone.default.svc.cluster.local", "A")
        assert no_data.value.args[0] == aiodns.error.ARES_ENODATA
        assert no_name.value.args[0] == aiodns.error.ARES_ENOTFOUND


@pytest.mark.parametrize("name", ["gone.default.svc.cluster.local", NAME, "short"])
async def test_negative_answers_say_how_long_they_hold(name: str) -> None:
    async with DnsServer(ZONE) as server:
        reply = dnslib.DNSRecord.parse(await ask_udp(server, question(name, "AAAA")))
        (record,) = reply.auth
        assert record.rtype == dnslib.QTYPE.SOA
        assert record.rdata.times[4] == record.ttl == NEGATIVE_TTL
        assert reply.header.rcode == (dnslib.RCODE.NOERROR if name == NAME else dnslib.RCODE.NXDOMAIN)


async def test_case_of_the_question_is_kept_and_does_not_matter() -> None:
    async with DnsServer(ZONE) as server:
        reply = dnslib.DNSRecord.parse(await ask_udp(server, question(NAME.upper())))
        assert str(reply.questions[0].qname) == NAME.upper() + "."
        assert len(reply.rr) == 2
        assert server.questions == [(NAME.upper(), "A")]


async def test_zone_may_be_a_function_and_may_change() -> None:
    async with DnsServer(lambda name: ["127.0.0.9"] if name.startswith("any-") else None) as server:
        assert len(dnslib.DNSRecord.parse(await ask_udp(server, question("any-7.x"))).rr) == 1
        server.zone = {}
        reply = dnslib.DNSRecord.parse(await ask_udp(server, question("any-7.x")))
        assert reply.header.rcode == dnslib.RCODE.NXDOMAIN


async def test_modes_fail_on_demand() -> None:
    async with DnsServer(ZONE) as server, client(server) as resolver:
        server.mode = "servfail"
        with pytest.raises(aiodns.error.DNSError) as failed:
            await resolver.query_dns(NAME, "A")
        server.mode = "silent"
        with pytest.raises(aiodns.error.DNSError) as silent:
            await resolver.query_dns(NAME, "A")
        server.mode = "answer"
        assert len((await resolver.query_dns(NAME, "A")).answer) == 2
        assert failed.value.args[0] == aiodns.error.ARES_ESERVFAIL
        assert silent.value.args[0] == aiodns.error.ARES_ETIMEOUT


async def test_long_answers_over_udp_are_truncated_then_asked_over_tcp() -> None:
    many = [f"127.1.{n // 250}.{n % 250 + 1}" for n in range(400)]
    async with DnsServer({"many.x": many}) as server, client(server) as resolver:
        cut = await ask_udp(server, question("many.x"))
        assert len(cut) <= 512
        assert dnslib.DNSRecord.parse(cut).header.tc == 1
        assert addresses(await resolver.query_dns("many.x", "A")) == many


async def test_one_tcp_connection_carries_many_questions() -> None:
    async with DnsServer(ZONE) as server:
        replies = await ask_tcp(server, question(NAME), question("gone.x"), question(NAME))
        assert [len(dnslib.DNSRecord.parse(reply).rr) for reply in replies] == [2, 0, 2]


async def test_malformed_packets_are_ignored() -> None:
    async with DnsServer(ZONE) as server:
        reply = dnslib.DNSRecord.parse(question(NAME)).reply().pack()
        host, _, port = server.address.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for packet in (b"", b"\x00", question(NAME)[:-3], b"\xff" * 40, reply):
                sock.sendto(packet, (host, int(port)))
        # Datagrams of one sender and another keep their order on loopback: the five came first.
        assert len(dnslib.DNSRecord.parse(await ask_udp(server, question(NAME))).rr) == 2
        assert server.asked == 1


@given(st.binary(max_size=120))
def test_no_packet_is_fatal(packet: bytes) -> None:
    server = DnsServer(ZONE)
    for data in (packet, question(NAME)[:12] + packet):
        server.reply(data, over_udp=True)


async def test_recording_can_be_switched_off() -> None:
    async with DnsServer(ZONE, record=False) as server:
        await ask_udp(server, question(NAME))
        assert (server.questions, server.asked) == ([], 1)
        assert repr(server) == f"<DnsServer {server.address} mode=answer asked=1>"


async def test_a_burst_of_questions_is_answered() -> None:
    zone = {f"sandbox-{n}.x": [f"127.2.{n // 200}.{n % 200 + 1}"] for n in range(200)}
    async with DnsServer(zone) as server, client(server) as resolver:
        answers = await asyncio.gather(*(resolver.query_dns(name, "A") for name in zone))
        assert [addresses(answer) for answer in answers] == list(zone.values())


async def test_a_taken_port_is_an_error_and_close_frees_it() -> None:
    first, second = DnsServer(ZONE), DnsServer(ZONE)
    await first.start()
    port = int(first.address.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(OSError, match="in use"):
        await second.start(port=port)
    await first.close()
    await first.close()
    assert await reader.read() == b""
    writer.close()
    await second.start(port=port)
    assert second.address == f"127.0.0.1:{port}"
    await second.close()
