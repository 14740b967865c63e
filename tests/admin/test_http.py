"""The admin ports' HTTP, over real sockets: exact paths, bounded places, bounded time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from fastrouter.admin import http
from fastrouter.admin.http import MAX_CONNECTIONS, AdminServer, Reply, plain
from fastrouter.wire.heads import RequestHead
from tests.admin.asking import Answer, ask, connect, read, talk
from tests.support import Client, eventually, settled

BIG = 8 * 1024 * 1024


class Pages:
    """Routes that answer, hang, and break."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.gate = asyncio.Event()

    async def page(self, head: RequestHead) -> Reply:
        self.asked.append(head.target)
        return plain(200, "a page")

    async def html(self, head: RequestHead) -> Reply:
        return Reply(200, "text/html; charset=utf-8", b"<p>")

    async def big(self, head: RequestHead) -> Reply:
        self.asked.append(head.target)
        return Reply(200, "text/plain", b"x" * BIG)

    async def held(self, head: RequestHead) -> Reply:
        self.asked.append(head.target)
        await self.gate.wait()
        return plain(200, "at last")

    async def broken(self, head: RequestHead) -> Reply:
        raise ValueError("no such luck")

    async def impatient(self, head: RequestHead) -> Reply:
        raise TimeoutError("its own")


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
async def server(pages: Pages) -> AsyncIterator[AdminServer]:
    names = ("page", "html", "big", "held", "broken", "impatient")
    server = AdminServer("127.0.0.1", 0, {b"/" + name.encode(): getattr(pages, name) for name in names})
    await server.start()
    yield server
    await server.close()
    assert "open=0 reading=0 answering=0" in repr(server)


async def crowd(server: AdminServer, count: int, data: bytes) -> list[Client]:
    """Open connections, one after the other, that have sent ``data`` and wait."""
    clients = []
    for number in range(count):
        clients.append(await connect(server.address))
        await clients[-1].send(data)
        await eventually(lambda wanted=number + 1: f"open={wanted}" in repr(server))  # type: ignore[misc]
    return clients


def close(clients: list[Client]) -> None:
    for client in clients:
        client.close()


class TestAnswers:
    async def test_a_page_comes_with_its_length_and_is_not_kept(self, server: AdminServer) -> None:
        answer = await ask(server.address, "/page")
        assert answer == Answer(
            200,
            {
                "content-type": "text/plain; charset=utf-8",
                "content-length": "7",
                "cache-control": "no-store",
                "x-content-type-options": "nosniff",
                "connection": "close",
            },
            b"a page\n",
        )

    async def test_real_clients_get_page_after_page(self, server: AdminServer) -> None:
        host, port = server.address
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
            for _ in range(3):
                assert (await client.get("/page")).text == "a page\n"
            assert len((await client.get("/big")).content) == BIG

    async def test_head_is_get_without_the_body(self, server: AdminServer) -> None:
        asked, got = [await ask(server.address, "/page", method=each) for each in ("HEAD", "GET")]
        assert (asked.status, asked.fields, asked.body) == (got.status, got.fields, b"")

    async def test_html_may_run_its_own_script_and_nothing_else(self, server: AdminServer) -> None:
        policy = (await ask(server.address, "/html")).fields["content-security-policy"]
        assert policy.split("; ")[0] == "default-src 'none'"
        assert "http" not in policy
        assert {"style-src 'unsafe-inline'", "script-src 'unsafe-inline'", "connect-src 'self'"} <= set(
            policy.split("; ")
        )

    async def test_the_query_plays_no_part(self, server: AdminServer, pages: Pages) -> None:
        assert (await ask(server.address, "/page?name[]=up&x=/held")).status == 200
        assert (await ask(server.address, "/?/page")).status == 404
        assert pages.asked == [b"/page?name[]=up&x=/held"]

    async def test_the_absolute_form_is_a_path(self, server: AdminServer) -> None:
        assert (await ask(server.address, "http://elsewhere/page")).status == 200

    async def test_http_1_0_is_answered(self, server: AdminServer) -> None:
        assert read(await talk(server.address, b"GET /page HTTP/1.0\r\n\r\n")).status == 200

    async def test_bytes_one_by_one_are_a_head_too(self, server: AdminServer) -> None:
        client = await connect(server.address)
        for byte in b"GET /page HTTP/1.1\r\nHost: r\r\n\r\n":
            await client.send(bytes([byte]))
        assert read(await client.rest()).status == 200
        client.close()

    async def test_what_follows_the_request_is_no_second_one(self, server: AdminServer, pages: Pages) -> None:
        raw = await talk(server.address, b"GET /page HTTP/1.1\r\nHost: r\r\n\r\n" * 3 + b"x" * 900_000)
        assert raw.count(b"HTTP/1.1 200 OK") == 1
        assert pages.asked == [b"/page"]


class TestRefusals:
    @pytest.mark.parametrize("path", ["/", "/pag", "/page/", "//page", "/page/../page", "/%70age", "/PAGE"])
    async def test_only_exact_paths_are_there(self, server: AdminServer, path: str) -> None:
        answer = await ask(server.address, path)
        assert answer.status == 404
        assert answer.fields["content-type"] == "text/plain; charset=utf-8"
        assert b"/page" in answer.body

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
    async def test_other_methods_are_told_which(self, server: AdminServer, pages: Pages, method: str) -> None:
        answer = await ask(server.address, "/page", method=method)
        assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD")
        assert pages.asked == []

    @pytest.mark.parametrize(
        ("raw", "status"),
        [
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
            (b"GET /page HTTP/1.1\nHost: r\n\n", 400),
            (b"GET /page HTTP/1.1\r\n\r\n", 400),
            (b"GET /page HTTP/1.1\r\nHost: r\r\nA : b\r\n\r\n", 400),
            (
                b"GET /page HTTP/1.1\r\nHost: r\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            (b"CONNECT r:80 HTTP/1.1\r\nHost: r\r\n\r\n", 405),
            (b"GET /" + b"x" * 20_000, 414),
            (b"GET /page HTTP/1.1\r\nHost: r\r\n" + b"A: b\r\n" * 300 + b"\r\n", 431),
            (b"GET /page HTTP/1.1\r\nHost: r\r\nA: " + b"x" * 70_000, 431),
            (b"GET /page HTTP/2.0\r\nHost: r\r\n\r\n", 505),
        ],
    )
    async def test_what_is_no_request_is_refused_at_once(
        self, server: AdminServer, pages: Pages, raw: bytes, status: int
    ) -> None:
        async with asyncio.timeout(2.0):  # below the time for a head
            answer = read(await talk(server.address, raw))
        assert answer.status == status
        assert answer.fields["content-type"] == "text/plain; charset=utf-8"
        assert pages.asked == []
        assert (await ask(server.address, "/page")).status == 200

    async def test_a_client_that_leaves_without_a_request_is_nobody(self, server: AdminServer) -> None:
        for data in (b"", b"GET /pa"):
            client = await connect(server.address)
            await client.send(data)
            client.writer.write_eof()
            assert await client.rest() == b""
            client.close()
        client = await connect(server.address)
        client.reset()
        await eventually(lambda: "open=0" in repr(server))


class TestTime:
    @pytest.mark.parametrize("data", [b"", b"GET /page HTTP/1.1\r\nHost: r\r\n"])
    async def test_a_head_that_does_not_come_is_a_408(
        self, server: AdminServer, monkeypatch: pytest.MonkeyPatch, data: bytes
    ) -> None:
        monkeypatch.setattr(http, "_HEAD_SECONDS", 0.05)
        assert read(await talk(server.address, data)).status == 408

    async def test_a_slow_page_is_a_503(
        self, server: AdminServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(http, "_ROUTE_SECONDS", 0.05)
        assert (await ask(server.address, "/held")).status == 503
        assert [record.message for record in caplog.records] == ["admin page timed out"]

    async def test_others_are_answered_meanwhile(self, server: AdminServer, pages: Pages) -> None:
        slow = asyncio.create_task(ask(server.address, "/held"))
        await eventually(lambda: pages.asked == [b"/held"])
        assert (await ask(server.address, "/page")).status == 200
        pages.gate.set()
        assert (await slow).body == b"at last\n"

    async def test_a_client_that_does_not_read_is_cut_off(
        self, server: AdminServer, pages: Pages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "_WRITE_SECONDS", 0.1)
        client = await connect(server.address)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(b"GET /big HTTP/1.1\r\nHost: r\r\n\r\n")
        await eventually(lambda: pages.asked == [b"/big"])
        await eventually(lambda: "open=0" in repr(server))
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        try:
            assert len(await client.rest()) < BIG
        except ConnectionResetError:
            pass
        finally:
            client.close()

    async def test_a_client_that_reads_slowly_gets_all_of_a_page(
        self, server: AdminServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "_LINGER_SECONDS", 0.05)
        client = await connect(server.address)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(b"GET /big HTTP/1.1\r\nHost: r\r\n\r\n")
        await eventually(lambda: "answering=0" in repr(server) and "open=1" in repr(server))
        assert await settled(lambda: "open=1" in repr(server))  # it waits, for longer than it lingers
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(read(await client.rest()).body) == BIG
        client.close()

    async def test_a_client_that_still_sends_is_not_reset(
        self, server: AdminServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "_LINGER_SECONDS", 60.0)
        client = await connect(server.address)
        await client.send(b"POST /page HTTP/1.1\r\nHost: r\r\nContent-Length: 20000\r\n\r\n")
        assert read(await client.rest()).status == 405
        await client.send(b"x" * 20_000)
        assert await settled(lambda: "open=1" in repr(server))
        client.close()
        await eventually(lambda: "open=0" in repr(server))

    async def test_a_client_that_does_not_leave_is_left(
        self, server: AdminServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "_LINGER_SECONDS", 0.05)
        client = await connect(server.address)
        await client.send(b"GET /page HTTP/1.1\r\nHost: r\r\n\r\n")
        assert read(await client.rest()).status == 200
        await eventually(lambda: "open=0" in repr(server))
        client.close()


class TestFailures:
    @pytest.mark.parametrize(("path", "error"), [("/broken", "no such luck"), ("/impatient", "its own")])
    async def test_a_page_that_raises_is_a_500_with_its_traceback_in_the_log(
        self, server: AdminServer, caplog: pytest.LogCaptureFixture, path: str, error: str
    ) -> None:
        answer = await ask(server.address, path)
        assert answer.status == 500
        assert error.encode() not in answer.body
        (record,) = caplog.records
        assert (record.levelno, record.message) == (logging.ERROR, "admin page failed")
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == error
        assert (await ask(server.address, "/page")).status == 200


class TestPlaces:
    async def test_a_hundred_at_once_all_get_an_answer(self, server: AdminServer) -> None:
        answers = await asyncio.gather(*[ask(server.address, "/page") for _ in range(100)])
        statuses = [answer.status for answer in answers]
        assert set(statuses) <= {200, 503}
        assert statuses.count(200) >= MAX_CONNECTIONS
        assert (await ask(server.address, "/page")).status == 200

    async def test_with_every_place_taken_the_next_is_a_503(self, server: AdminServer, pages: Pages) -> None:
        clients = await crowd(server, MAX_CONNECTIONS, b"GET /held HTTP/1.1\r\nHost: r\r\n\r\n")
        await eventually(lambda: len(pages.asked) == MAX_CONNECTIONS)
        assert (await ask(server.address, "/page")).status == 503
        pages.gate.set()
        for client in clients:
            assert read(await client.rest()).status == 200
        close(clients)
        assert (await ask(server.address, "/page")).status == 200

    async def test_silent_clients_do_not_keep_a_probe_out(
        self, server: AdminServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "_PATIENCE_SECONDS", 0.0)
        clients = await crowd(server, MAX_CONNECTIONS, b"GET /page HT")
        assert (await ask(server.address, "/page")).status == 200
        assert read(await clients[0].rest()).status == 408  # the one that was silent for longest
        await clients[1].send(b"TP/1.1\r\nHost: r\r\n\r\n")
        assert read(await clients[1].rest()).status == 200
        close(clients)

    async def test_a_client_just_come_keeps_its_place(
        self, server: AdminServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "_PATIENCE_SECONDS", 60.0)
        clients = await crowd(server, MAX_CONNECTIONS, b"")
        assert (await ask(server.address, "/page")).status == 503
        await clients[0].send(b"GET /page HTTP/1.1\r\nHost: r\r\n\r\n")
        assert read(await clients[0].rest()).status == 200
        close(clients)

    async def test_files_are_bounded_though_nobody_leaves(
        self, server: AdminServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "_MAX_OPEN", 3)
        clients = await crowd(server, 3, b"")
        late = await connect(server.address)
        assert await late.rest() == b""
        close([*clients, late])


class TestListening:
    async def test_a_taken_port_is_an_error_that_names_it(self, server: AdminServer) -> None:
        host, port = server.address
        second = AdminServer(host, port, {})
        with pytest.raises(OSError, match=f"{port}.*in use"):
            await second.start()
        assert second.address == (host, port)
        await second.close()

    async def test_close_cuts_off_who_is_there_and_frees_the_port(self, pages: Pages) -> None:
        server = AdminServer("127.0.0.1", 0, {b"/held": pages.held})
        await server.start()
        address = server.address
        clients = [await connect(address) for _ in range(2)]
        await clients[0].send(b"GET /held HTTP/1.1\r\nHost: r\r\n\r\n")
        await eventually(lambda: pages.asked == [b"/held"] and "open=2" in repr(server))
        await server.close()
        for client in clients:
            assert await client.rest() == b""
        close(clients)
        again = AdminServer(*address, {b"/page": pages.page})
        await again.start()
        assert (await ask(address, "/page")).status == 200
        await again.close()

    async def test_ipv6_is_listened_on(self, pages: Pages) -> None:
        server = AdminServer("::1", 0, {b"/page": pages.page})
        await server.start()
        assert (await ask(server.address, "/page")).status == 200
        await server.close()
