"""The router behind TLS: real sockets, real certificates, all that passes without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import requests
import websockets
from websockets.asyncio.server import serve as serve_websocket

from fastrouter.net.tls import TlsTransport
from tests.certificates import Files, authority, certificate, client_context
from tests.processes import router_process
from tests.support import (
    LIMIT,
    Client,
    Stage,
    Visit,
    always,
    eventually,
    ok,
    read_request,
    request,
    settled,
    stage,
    unchunk,
)

MEGABYTES_50 = bytes(range(256)) * 4096 * 50
DIGEST = hashlib.sha256(MEGABYTES_50).hexdigest()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path).write(certificate())


@contextlib.asynccontextmanager
async def secure_stage(files: Files, mtls: str = "", **settings: object) -> AsyncIterator[Stage]:
    async with stage(**files.settings(mtls), **settings) as set_:
        yield set_


async def connect(set_: Stage, context: ssl.SSLContext | None = None) -> Client:
    """Connect with TLS."""
    assert set_.server.secure_address is not None
    reader, writer = await asyncio.open_connection(
        *set_.server.secure_address,
        limit=2**21,
        ssl=context or client_context(),
        server_hostname="localhost",
        ssl_shutdown_timeout=1,
    )
    client = Client(reader, writer)
    set_._clients.append(client)
    return client


async def raw(set_: Stage) -> Client:
    """Connect to the TLS port without TLS."""
    assert set_.server.secure_address is not None
    client = Client(*await asyncio.open_connection(*set_.server.secure_address, limit=2**21))
    set_._clients.append(client)
    return client


async def digests(visit: Visit) -> None:
    """Answer each request with the digest of its body."""
    while True:
        _, body = await read_request(visit)
        visit.received.clear()
        await visit.send(ok(hashlib.sha256(body).hexdigest().encode()))


class TestRequests:
    async def test_a_kept_connection_carries_pipelined_requests_in_order(self, files: Files) -> None:
        async with secure_stage(files) as set_:
            box = await set_.sandbox(always(ok()))
            client = await connect(set_)
            for _ in range(3):
                await client.send(request(box) + request(box, body=b"x" * 20_000, method=b"POST"))
                for _ in range(2):
                    head, body = await client.response()
                    assert (head[:12], body) == (b"HTTP/1.1 200", b"ok")
            assert len(set_.server.connections) == 1

    async def test_an_answer_that_waits_for_the_end_of_the_turn_goes_before_the_connection(
        self, files: Files
    ) -> None:
        """The answer comes, and in the same turn TCP's end, without a close_notify."""
        asked = 0

        async def answer_and_end(visit: Visit) -> None:
            nonlocal asked
            while True:
                await visit.head()
                asked += 1
                visit.writer.write(ok(b"%d" % asked))
                if asked == 3:
                    client.end_now()

        async with secure_stage(files) as set_:
            box = await set_.sandbox(answer_and_end)
            client = await connect(set_)
            for number in (b"1", b"2", b"3"):
                await client.send(request(box))
                assert (await client.response())[1] == number

    async def test_each_port_says_how_the_client_came(self, files: Files) -> None:
        """The same bytes on both: what is kept of one must not serve the other."""
        async with secure_stage(files) as set_:
            box = await set_.sandbox(always(ok()))
            for connecting, scheme in ((connect, b"https"), (Stage.client, b"http")) * 2:
                client = await connecting(set_)
                for _ in range(2):
                    before = len(box.received)
                    await client.send(request(box, b"X-Forwarded-Proto: gopher"))
                    await client.response()
                    assert b"\r\nX-Forwarded-Proto: %b\r\n" % scheme in box.received[before:]

    async def test_heads_byte_by_byte(self, files: Files) -> None:
        async with secure_stage(files) as set_:
            box = await set_.sandbox(always(ok()))
            client = await connect(set_)
            for byte in request(box):
                await client.send(bytes([byte]))
            assert (await client.response())[1] == b"ok"

    async def test_httpx_and_requests_trust_the_authority(self, files: Files) -> None:
        async with secure_stage(files) as set_:
            box = await set_.sandbox(always(ok(b"hello")))
            assert set_.server.secure_address is not None
            url = f"https://127.0.0.1:{set_.server.secure_address[1]}/"
            headers = {"X-Sandbox-ID": "box", "X-Sandbox-Port": str(box.port)}
            async with httpx.AsyncClient(verify=client_context()) as client:
                assert (await client.post(url, headers=headers, content=b"x" * 100_000)).text == "hello"
            ca = files.directory / "authority.pem"
            ca.write_bytes(authority().cert_pem.bytes())
            found = await asyncio.to_thread(requests.get, url, headers=headers, verify=str(ca), timeout=LIMIT)
            assert found.text == "hello"

    async def test_300_sandboxes(self, files: Files) -> None:
        async with secure_stage(files) as set_:
            box = await set_.sandbox(always(ok()))
            for number in range(300):
                set_.zone[f"box{number}.default.svc.cluster.local"] = ["127.0.0.1"]
            clients = [await connect(set_) for _ in range(10)]

            async def ask(client: Client, first: int) -> None:
                for number in range(first, 300, 10):
                    await client.send(request(box, name=b"box%d" % number))
                    assert (await client.response())[1] == b"ok"

            await asyncio.gather(*(ask(client, first) for first, client in enumerate(clients)))
            assert len(box.visits) == 300


class TestLongBodies:
    async def test_50_megabytes_down(self, files: Files) -> None:
        async with secure_stage(files) as set_:
            box = await set_.sandbox(always(ok(MEGABYTES_50)))
            client = await connect(set_)
            for _ in range(2):
                await client.send(request(box))
                assert hashlib.sha256((await client.response())[1]).hexdigest() == DIGEST

    async def test_50_megabytes_up_and_a_request_behind_it(self, files: Files) -> None:
        async with secure_stage(files) as set_:
            box = await set_.sandbox(digests)
            client = await connect(set_)
            await client.send(request(box, method=b"POST", body=MEGABYTES_50) + request(box))
            assert (await client.response())[1].decode() == DIGEST
            assert (await client.response())[1].decode() == hashlib.sha256().hexdigest()

    async def test_a_head_that_waits_for_the_end_of_the_turn_goes_before_its_body(self, files: Files) -> None:
        """One read of the socket brings both: the head is posted, and the body behind it written at once."""
        body = MEGABYTES_50[:1_000_000]
        async with secure_stage(files) as set_:
            box = await set_.sandbox(digests)
            client = await connect(set_)
            message = request(box, method=b"POST", body=body)
            cut = len(message) - len(body) + 10
            for _ in range(4):  # from the third time on, the head is known and the connection warm
                client.writer.write(message[:cut])
                await client.send(message[cut:])
                assert (await client.response())[1].decode() == hashlib.sha256(body).hexdigest()

    async def test_chunked_both_ways(self, files: Files) -> None:
        chunk = b"x" * 50_000

        async def echo(visit: Visit) -> None:
            _, body = await read_request(visit)
            await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
            await visit.gone()

        async with secure_stage(files) as set_:
            box = await set_.sandbox(echo)
            client = await connect(set_)
            head = request(box, b"Transfer-Encoding: chunked", method=b"POST")
            body = (b"%x\r\n%b\r\n" % (len(chunk), chunk)) * 20 + b"0\r\n\r\n"
            await client.send(head + body)
            assert b"\r\nTransfer-Encoding: chunked\r\n" in await client.head()
            answer = await asyncio.wait_for(client.reader.readuntil(b"\r\n0\r\n\r\n"), LIMIT)
            assert unchunk(answer) == (chunk * 20, b"")

    async def test_a_client_that_reads_nothing_makes_the_sandbox_wait(self, files: Files) -> None:
        sent = 0

        async def pour(visit: Visit) -> None:
            nonlocal sent
            await visit.head()
            await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 2**40)
            while True:
                await visit.send(b"x" * 65536)
                sent += 65536

        async with secure_stage(files) as set_:
            box = await set_.sandbox(pour)
            client = await connect(set_)
            transport = cast(asyncio.Transport, client.writer.transport)
            transport.pause_reading()
            await client.send(request(box))
            await settled(lambda: sent)
            (connection,) = set_.server.connections
            assert connection.writing_paused
            assert connection.transport.get_write_buffer_size() < 2 * 2**20
            client.writer.transport.abort()
            await eventually(lambda: not set_.server.connections and box.visits[0].ended)

    async def test_a_sandbox_that_reads_nothing_makes_the_client_wait(self, files: Files) -> None:
        async def stall(visit: Visit) -> None:
            await visit.head()
            await asyncio.Event().wait()

        async with secure_stage(files) as set_:
            box = await set_.sandbox(stall)
            client = await connect(set_)
            client.writer.write(request(box, method=b"POST", body=MEGABYTES_50))
            await eventually(lambda: bool(set_.server.connections))
            (connection,) = set_.server.connections
            await eventually(lambda: connection.reading_paused)
            tls = cast(TlsTransport, connection.transport)
            held = await settled(lambda: len(connection.buffer) + tls._incoming.pending)
            assert held < 2**20
            assert connection.reading_paused
            client.reset()  # a FIN would wait behind what nobody reads
            await eventually(lambda: not set_.server.connections)


class TestEnds:
    @pytest.mark.parametrize("polite", [True, False])
    async def test_a_client_that_leaves_within_its_upload_ends_the_exchange(
        self, files: Files, *, polite: bool
    ) -> None:
        async def take(visit: Visit) -> None:
            await visit.gone()

        async with secure_stage(files) as set_:
            box = await set_.sandbox(take)
            client = await connect(set_)
            await client.send(request(box, b"Content-Length: 1000000", method=b"POST") + b"x" * 1000)
            await eventually(lambda: b"xxx" in box.received)
            if polite:
                client.close()  # close_notify, then the end of TCP
            else:
                client.writer.transport.abort()  # the end of TCP
            await eventually(lambda: box.visits[0].ended and not set_.server.connections)

    async def test_a_body_that_ends_with_its_connection_ends_with_close_notify(self, files: Files) -> None:
        async def answer(visit: Visit) -> None:
            await visit.head()
            await visit.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            visit.close()

        async with secure_stage(files) as set_:
            box = await set_.sandbox(answer)
            assert await until_end(set_, request(box)) == (b"all of it", True)

    async def test_one_that_the_sandbox_broke_off_does_not(self, files: Files) -> None:
        async def break_off(visit: Visit) -> None:
            await visit.head()
            await visit.send(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
            await told.wait()
            visit.reset()

        told = asyncio.Event()
        async with secure_stage(files) as set_:
            box = await set_.sandbox(break_off)
            assert await until_end(set_, request(box), told) == (b"half of it", False)

    async def test_an_idle_client_that_answers_no_close_notify_holds_up_no_shutdown(
        self, files: Files
    ) -> None:
        async with secure_stage(files) as set_:
            box = await set_.sandbox(always(ok()))
            client = await connect(set_)
            await client.send(request(box))
            await client.response()
            transport = cast(asyncio.Transport, client.writer.transport)
            transport.pause_reading()
            async with asyncio.timeout(1.5):
                await set_.server.shutdown()
            transport.abort()

    async def test_who_sends_too_much_still_sees_the_answer(self, files: Files) -> None:
        async with secure_stage(files, max_body=1000) as set_:
            box = await set_.sandbox(always(ok()))
            client = await connect(set_)
            client.writer.write(request(box, b"Content-Length: 900000", method=b"POST") + b"x" * 400_000)
            assert (await client.error())[0] == 413
            assert await client.rest() == b""

    async def test_more_connections_than_allowed_are_told_so(self, files: Files) -> None:
        async with secure_stage(files, max_connections=1) as set_:
            await set_.client()
            await eventually(lambda: len(set_.server.connections) == 1)
            client = await connect(set_)
            assert (await client.error())[2] == "overloaded"
            assert await client.rest() == b""


async def until_end(set_: Stage, sent: bytes, told: asyncio.Event | None = None) -> tuple[bytes, bool]:
    """Send a request; return the body, and whether the connection ended with close_notify.

    Over TLS objects of our own: asyncio's transport does not tell one end from the other.
    """
    client = await raw(set_)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")

    async def until(action: Any) -> Any:
        while True:
            try:
                result = action()
            except ssl.SSLWantReadError:
                await client.send(outgoing.read())
                data = await asyncio.wait_for(client.reader.read(65536), LIMIT)
                if not data:
                    incoming.write_eof()
                incoming.write(data)
            else:
                await client.send(outgoing.read())
                return result

    await until(tls.do_handshake)
    await until(lambda: tls.write(sent))
    got = b""
    try:
        while data := await until(lambda: tls.read(65536)):
            got += data
            if told is not None and got.endswith(b"it"):
                told.set()
    except (ssl.SSLEOFError, ConnectionError):
        return got.partition(b"\r\n\r\n")[2], False
    return got.partition(b"\r\n\r\n")[2], True


class TestTunnels:
    async def test_websockets_both_ways(self, files: Files) -> None:
        async def echo(connection: Any) -> None:
            async for message in connection:
                await connection.send(message)

        async with secure_stage(files) as set_, serve_websocket(echo, "127.0.0.1", 0, max_size=None) as box:
            set_.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
            assert set_.server.secure_address is not None
            port = next(iter(box.sockets)).getsockname()[1]
            async with websockets.connect(
                f"wss://127.0.0.1:{set_.server.secure_address[1]}/",
                ssl=client_context(),
                additional_headers={"X-Sandbox-ID": "box", "X-Sandbox-Port": str(port)},
                max_size=None,
            ) as client:
                for message in ("hello", b"x" * 3_000_000, ""):
                    await client.send(message)
                    assert await asyncio.wait_for(client.recv(), LIMIT) == message
                await client.close(1000, "done")
                assert (client.close_code, client.close_reason) == (1000, "done")
            await eventually(lambda: not set_.server.connections)

    async def test_the_sandboxes_half_ends_and_the_clients_goes_on(self, files: Files) -> None:
        async def half(visit: Visit) -> None:
            await visit.head()
            await visit.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nlast words"
            )
            visit.writer.write_eof()
            await visit.gone()

        async with secure_stage(files, upgrade_protocols=("raw",)) as set_:
            box = await set_.sandbox(half)
            client = await raw(set_)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
            got = b""
            shaken = ended = False
            while not ended:
                try:
                    if not shaken:
                        tls.do_handshake()
                        shaken = True
                        tls.write(request(box, b"Connection: Upgrade", b"Upgrade: raw"))
                    data = tls.read(65536)
                    got += data
                    ended = not data  # close_notify
                except ssl.SSLWantReadError:
                    await client.send(outgoing.read())
                    incoming.write(await asyncio.wait_for(client.reader.read(65536), LIMIT))
            assert got.endswith(b"last words")
            for piece in (b"still here ", b"x" * 100_000, b" the end"):
                tls.write(piece)
                await client.send(outgoing.read())
            await eventually(lambda: box.received.endswith(b"x the end"))
            client.close()
            await eventually(lambda: not set_.server.connections)


class TestHandshakes:
    @pytest.fixture(autouse=True)
    async def quiet(self, caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
        """Whatever comes, nothing is logged above debug, and the event loop has nothing to complain of."""
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        yield
        gc.collect()
        # The sandbox of a test is cancelled at its end, and asyncio's streams complain of that.
        assert [each for each in faults if "StreamReaderProtocol" not in each["message"]] == []
        assert [each.message for each in caplog.records if each.levelno > logging.INFO] == []

    @pytest.mark.parametrize(
        "sent", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 70_000]
    )
    async def test_what_is_no_tls_ends(self, files: Files, sent: bytes) -> None:
        async with secure_stage(files) as set_:
            client = await raw(set_)
            await client.send(sent)
            with contextlib.suppress(ConnectionError):  # where more came than anybody wants to read
                assert len(await client.rest()) < 100
            client.close()
            await eventually(lambda: not set_.server.connections)
            assert set_.server.failed_handshakes == 1
            assert set_.server.snapshot().values["tls_handshake_failures"] == {(): 1}
            assert set_.access_lines() == []

    async def test_tls_on_the_plain_port_ends(self, files: Files) -> None:
        async with secure_stage(files) as set_:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(*set_.server.address, ssl=client_context())
            await eventually(lambda: not set_.server.connections)

    @pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
    async def test_a_handshake_that_does_not_end_is_ended(self, files: Files, sent: bytes) -> None:
        async with secure_stage(files, request_head_timeout=0.3) as set_:
            client = await raw(set_)
            await client.send(sent)
            began = time.monotonic()
            assert await client.rest() == b""
            assert time.monotonic() - began < 1.5
            await eventually(lambda: not set_.server.connections)

    async def test_a_client_that_leaves_within_it_is_forgotten(self, files: Files) -> None:
        async with secure_stage(files) as set_:
            clients = [await raw(set_) for _ in range(20)]
            await eventually(lambda: len(set_.server.connections) == 20)
            for number, client in enumerate(clients):
                await client.send(b"\x16\x03\x01")
                client.reset() if number % 2 else client.close()
            await eventually(lambda: not set_.server.connections)

    async def test_a_client_that_does_not_trust_the_certificate_leaves_quietly(self, files: Files) -> None:
        async with secure_stage(files) as set_:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(set_, client_context("strangers"))
            await eventually(lambda: not set_.server.connections)

    async def test_without_a_client_certificate_the_alert_says_why(self, files: Files) -> None:
        async with secure_stage(files, "required") as set_:
            box = await set_.sandbox(always(ok()))
            client = await connect(set_)  # in TLS 1.3 the client is done before the server looks
            client.writer.write(request(box))
            with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
                await client.head()
            await eventually(lambda: not set_.server.connections)
            assert box.visits == []

    async def test_with_one_it_is_served(self, files: Files) -> None:
        async with secure_stage(files, "required") as set_:
            box = await set_.sandbox(always(ok()))
            client = await connect(set_, client_context(own=certificate("client")))
            await client.send(request(box))
            assert (await client.response())[1] == b"ok"


class TestReload:
    async def test_200_reloads_lose_no_connection(self, files: Files) -> None:
        async with secure_stage(files) as set_:
            box = await set_.sandbox(always(ok()))
            certificates = set_.server.certificates
            assert certificates is not None
            old = await connect(set_)
            other = authority().issue_cert("localhost")
            done = 0
            over = asyncio.Event()

            async def come_and_go() -> None:
                nonlocal done
                while not over.is_set():
                    client = await connect(set_)
                    await client.send(request(box))
                    assert (await client.response())[1] == b"ok"
                    client.writer.transport.abort()
                    done += 1

            coming = [asyncio.create_task(come_and_go()) for _ in range(4)]
            for number in range(200):
                files.write(certificate() if number % 2 else other)
                certificates._looked = 0.0
                assert certificates.reload_if_changed()
                await asyncio.sleep(0.005)
            over.set()
            await asyncio.gather(*coming)
            assert certificates.reloads == 200
            assert done > 20
            await old.send(request(box))
            assert (await old.response())[1] == b"ok"

    async def test_the_sweep_looks_at_the_files(self, files: Files) -> None:
        async with secure_stage(files) as set_:
            other = certificate("127.0.0.1")
            before = await peer_certificate(set_)
            files.write(other)
            assert set_.server.certificates is not None
            await eventually(lambda: set_.server.certificates.reloads == 1)  # type: ignore[union-attr]
            assert await peer_certificate(set_) != before


async def peer_certificate(set_: Stage) -> bytes:
    context = client_context()
    context.check_hostname = False
    client = await connect(set_, context)
    found: bytes = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return found


class TestTheProcess:
    async def test_it_serves_and_drains(self, files: Files) -> None:
        async with router_process(
            TLS_CERT_FILE=str(files.cert),
            TLS_KEY_FILE=str(files.key),
            HTTPS_PORT="0",
            METRICS_PORT="0",
            HEALTH_PORT="0",
        ) as router:
            line = router.line("listening")
            assert line is not None
            client = Client(
                *await asyncio.open_connection(
                    "127.0.0.1",
                    line["settings"]["https_port"],
                    ssl=client_context(),
                    server_hostname="localhost",
                )
            )
            await client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.response())[1] == b'{"status":"ok"}'
            router.process.terminate()
            assert await client.rest() == b""
            assert await asyncio.wait_for(router.process.wait(), LIMIT) == 0

    async def test_files_that_cannot_be_used_are_exit_code_2(self, files: Files) -> None:
        files.key.unlink()
        async with router_process(
            TLS_CERT_FILE=str(files.cert),
            TLS_KEY_FILE=str(files.key),
            HTTPS_PORT="0",
            METRICS_PORT="0",
            HEALTH_PORT="0",
        ) as router:
            assert await asyncio.wait_for(router.process.wait(), LIMIT) == 2
            assert router.lines[-1]["message"] == "cannot start"
            assert "cannot use the TLS files" in router.lines[-1]["error"]
            assert "TLS_KEY_FILE" in router.lines[-1]["error"]

    async def test_a_port_that_is_taken_is_exit_code_1(self, files: Files) -> None:
        taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = taken.sockets[0].getsockname()[1]
        async with router_process(
            TLS_CERT_FILE=str(files.cert),
            TLS_KEY_FILE=str(files.key),
            HTTPS_PORT=str(port),
            METRICS_PORT="0",
            HEALTH_PORT="0",
        ) as router:
            assert await asyncio.wait_for(router.process.wait(), LIMIT) == 1
        taken.close()
