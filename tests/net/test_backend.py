"""The network backend: how dials fail by name, and httpcore's own client over it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpcore
import pytest

from fastrouter.demo.dns import DnsServer
from fastrouter.errors import (
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    CONNECT_UNREACHABLE,
    DNS_FAILURE,
    DNS_NOT_FOUND,
    Cause,
    Source,
)
from fastrouter.net.backend import Backend, DialError
from fastrouter.net.resolver import Resolver
from fastrouter.server import Server
from fastrouter.settings import Settings
from tests.adversity.descriptors import no_files
from tests.support import (
    LIMIT,
    Client,
    ScriptedSandbox,
    Visit,
    always,
    eventually,
    free_port,
    full_listener,
    ok,
    read_request,
    request,
)

NAME = "box.default.svc.cluster.local"


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    zone: dict[str, list[str]] = {NAME: ["127.0.0.1"]}
    async with DnsServer(zone) as server:
        yield server


@pytest.fixture
async def backend(dns: DnsServer) -> AsyncIterator[Backend]:
    resolver = Resolver([dns.address])
    yield Backend(resolver)
    await resolver.close()


@pytest.fixture
async def box() -> AsyncIterator[ScriptedSandbox]:
    sandbox = ScriptedSandbox(always(ok(b"answer")))
    await sandbox.start()
    yield sandbox
    await sandbox.close()


def zone(dns: DnsServer) -> dict[str, list[str]]:
    assert isinstance(dns.zone, dict)
    return dns.zone


async def cause_of(backend: Backend, host: str, port: int, **options: object) -> Cause:
    with pytest.raises(DialError) as caught:
        await backend.connect_tcp(host, port, **options)  # type: ignore[arg-type]
    assert isinstance(caught.value, httpcore.ConnectError)
    return caught.value.cause


class TestCauses:
    async def test_refused(self, backend: Backend) -> None:
        assert await cause_of(backend, NAME, free_port()) is CONNECT_REFUSED

    async def test_no_such_name(self, backend: Backend) -> None:
        assert await cause_of(backend, "nobody", 1) is DNS_NOT_FOUND

    async def test_a_name_server_that_fails(self, backend: Backend, dns: DnsServer) -> None:
        dns.mode = "servfail"
        assert await cause_of(backend, NAME, 1) is DNS_FAILURE

    async def test_no_way_there(self, backend: Backend) -> None:
        # From an IPv4 address there is none to ::1.
        assert await cause_of(backend, "::1", 1, local_address="127.0.0.1") is CONNECT_UNREACHABLE

    async def test_no_answer(self, backend: Backend, dns: DnsServer) -> None:
        listener, filler = full_listener()
        with listener, filler:
            port = listener.getsockname()[1]
            assert await cause_of(backend, NAME, port, timeout=0.2) is CONNECT_TIMEOUT
            assert await cause_of(backend, NAME, port, timeout=0.2) is CONNECT_TIMEOUT
        assert len(dns.questions) == 2  # the sandbox may have moved

    async def test_a_silent_name_server(self, backend: Backend, dns: DnsServer) -> None:
        dns.mode = "silent"
        assert await cause_of(backend, NAME, 1, timeout=0.2) is CONNECT_TIMEOUT

    async def test_no_descriptor_is_no_fault_of_the_sandbox(
        self, backend: Backend, dns: DnsServer, box: ScriptedSandbox
    ) -> None:
        await (await backend.connect_tcp(NAME, box.port)).aclose()
        with no_files():
            for host in (NAME, "127.0.0.1"):
                cause = await cause_of(backend, host, box.port)
                assert (cause.status, cause.reason, cause.source) == (503, "overloaded", Source.DIAL)
        await (await backend.connect_tcp(NAME, box.port)).aclose()
        assert len(dns.questions) == 1  # there is no reason to doubt its address

    async def test_room_is_made_before_each_dial(self, box: ScriptedSandbox) -> None:
        made: list[int] = []
        backend = Backend(Resolver(), lambda: made.append(len(box.visits)))
        for _ in range(2):
            await (await backend.connect_tcp("127.0.0.1", box.port)).aclose()
            await eventually(lambda: len(box.visits) == len(made))
        assert made == [0, 1]


class TestConnect:
    async def test_the_next_address_is_tried(
        self, backend: Backend, dns: DnsServer, box: ScriptedSandbox
    ) -> None:
        zone(dns)[NAME] = ["127.0.0.9", "127.0.0.1"]
        for _ in range(4):  # c-ares sorts as it likes
            stream = await backend.connect_tcp(NAME, box.port, timeout=5.0)
            assert stream.get_extra_info("server_addr") == ("127.0.0.1", box.port)
            await stream.aclose()

    async def test_an_address_is_not_looked_up(
        self, backend: Backend, dns: DnsServer, box: ScriptedSandbox
    ) -> None:
        await (await backend.connect_tcp("127.0.0.1", box.port)).aclose()
        assert dns.asked == 0

    async def test_a_refusal_asks_the_name_anew(self, backend: Backend, dns: DnsServer) -> None:
        port = free_port()
        for _ in range(2):
            assert await cause_of(backend, NAME, port) is CONNECT_REFUSED
        assert len(dns.questions) == 2

    async def test_local_address_and_socket_options_are_used(
        self, backend: Backend, box: ScriptedSandbox
    ) -> None:
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        stream = await backend.connect_tcp(
            "127.0.0.1", box.port, local_address="127.0.0.7", socket_options=options
        )
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.7"
        assert stream.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await stream.aclose()

    async def test_a_socket_in_the_file_system(self, backend: Backend) -> None:
        async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readexactly(2)).upper())
            writer.close()

        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "s")
            with pytest.raises(DialError):
                await backend.connect_unix_socket(path)
            server = await asyncio.start_unix_server(shout, path)
            stream = await backend.connect_unix_socket(path, timeout=5.0)
            await stream.write(b"hi")
            assert await stream.read(10, timeout=5.0) == b"HI"
            await stream.aclose()
            server.close()

    async def test_sleep_waits(self, backend: Backend) -> None:
        await backend.sleep(0.0)


class TestHttpcoreOverIt:
    async def test_its_pool_works(self, backend: Backend, box: ScriptedSandbox) -> None:
        async with httpcore.AsyncConnectionPool(network_backend=backend) as pool:
            for _ in range(2):
                response = await pool.request("POST", f"http://{NAME}:{box.port}/p", content=b"body")
                assert (response.status, response.content) == (200, b"answer")
        assert len(box.visits) == 1
        assert box.received.count(b"body") == 2

    async def test_its_connection_works(self, backend: Backend, box: ScriptedSandbox) -> None:
        origin = httpcore.Origin(b"http", NAME.encode(), box.port)
        async with httpcore.AsyncHTTPConnection(origin, network_backend=backend) as connection:
            response = await connection.request("GET", f"http://{NAME}:{box.port}/")
            assert response.content == b"answer"

    async def test_large_bodies_pass_both_ways(self, backend: Backend) -> None:
        async def echo(visit: Visit) -> None:
            _, body = await read_request(visit)
            await visit.send(ok(body))

        box = ScriptedSandbox(echo)
        await box.start()
        body = bytes(range(256)) * 20_000
        async with httpcore.AsyncConnectionPool(network_backend=backend) as pool:
            response = await pool.request("PUT", f"http://{NAME}:{box.port}/", content=body)
            assert response.content == body
        await box.close()

    async def test_its_timeouts_and_errors_come_as_its_own(self, backend: Backend) -> None:
        async def leave(visit: Visit) -> None:
            await visit.head()

        async def mute(visit: Visit) -> None:
            await visit.gone()

        for handler, error in ((leave, httpcore.RemoteProtocolError), (mute, httpcore.ReadTimeout)):
            box = ScriptedSandbox(handler)
            await box.start()
            async with httpcore.AsyncConnectionPool(network_backend=backend) as pool:
                with pytest.raises(error):
                    await pool.request(
                        "GET", f"http://{NAME}:{box.port}/", extensions={"timeout": {"read": 0.2}}
                    )
            await box.close()

    async def test_tls_works(self, backend: Backend) -> None:
        closed = asyncio.Event()

        async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ok(b"secret"))
            await reader.read(1)  # until the client closes
            writer.close()
            closed.set()

        server = await asyncio.start_server(hello, "127.0.0.1", 0, ssl=anonymous(ssl.PROTOCOL_TLS_SERVER))
        port = server.sockets[0].getsockname()[1]
        async with httpcore.AsyncConnectionPool(
            network_backend=backend, ssl_context=anonymous(ssl.PROTOCOL_TLS_CLIENT)
        ) as pool:
            response = await pool.request("GET", f"https://{NAME}:{port}/")
            assert response.content == b"secret"
        await asyncio.wait_for(closed.wait(), LIMIT)
        server.close()

    async def test_tls_that_fails_is_a_connect_error(self, backend: Backend, box: ScriptedSandbox) -> None:
        context = anonymous(ssl.PROTOCOL_TLS_CLIENT)
        async with httpcore.AsyncConnectionPool(network_backend=backend, ssl_context=context) as pool:
            with pytest.raises((httpcore.ConnectError, httpcore.ConnectTimeout)):
                await pool.request(
                    "GET", f"https://{NAME}:{box.port}/", extensions={"timeout": {"connect": 0.5}}
                )


def anonymous(protocol: int) -> ssl.SSLContext:
    """Return a context for TLS without certificates: Diffie-Hellman between nobodies."""
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # TLS 1.3 has no anonymous suites
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    return context


class TestOtherBackends:
    """Any httpcore backend can stand in for the router's own."""

    async def test_the_mock_backend_answers_requests(self) -> None:
        answer = [b"HTTP/1.1 200 OK\r\n", b"Content-Length: 4\r\n\r\n", b"mock"]
        server = Server(
            Settings(host="127.0.0.1", port=0, access_log=False, shutdown_grace=0.0),
            backend=httpcore.AsyncMockBackend(answer),
        )
        await server.start()
        client = Client(*await asyncio.open_connection(*server.address))
        for _ in range(2):
            await client.send(request(8888))
            assert (await client.response())[1] == b"mock"
        client.close()
        await server.shutdown()
