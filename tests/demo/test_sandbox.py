"""The embedded sandbox over real sockets."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from fastrouter.demo.endpoints import big_pieces, big_sha256
from fastrouter.demo.files import Files
from fastrouter.demo.sandbox import REMEMBERED, Sandbox

MEGABYTE = 1024 * 1024
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox("sandbox-1") as running:
        yield running


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{sandbox.address}", trust_env=False, timeout=10) as http:
        yield http


@asynccontextmanager
async def connect(sandbox: Sandbox, *, limit: int = 2**16) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(sandbox.host, sandbox.port, limit=limit)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def raw(sandbox: Sandbox, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send bytes, and return all that comes back until the sandbox closes."""
    async with connect(sandbox) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if half_close:
            writer.write_eof()
        return await reader.read()


async def test_root_names_the_sandbox(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    reply = await client.get("/")
    assert reply.json() == {"status": "ok", "sandbox": "sandbox-1"}
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["server"] == "sandbox"
    assert "date" in reply.headers
    assert repr(sandbox) == f"<Sandbox sandbox-1 {sandbox.address} connections=1 served=1>"


async def test_execute_answers_as_the_runtime_does(client: httpx.AsyncClient) -> None:
    reply = await client.post("/execute", json={"command": "echo hello"})
    assert reply.json() == {"stdout": "hello\n", "stderr": "", "exit_code": 0}
    unknown = await client.post("/execute", json={"command": "rm -rf /"})
    assert unknown.json() == {"stdout": "", "stderr": "sh: rm: not found\n", "exit_code": 127}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"command": 1}', b"{}", b"\xff"])
async def test_execute_without_a_command_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.post("/execute", content=body)).status_code == 400


async def test_a_long_command_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.post("/execute", content=b"x" * (2 * MEGABYTE))).status_code == 413


async def test_files_go_up_and_come_down(client: httpx.AsyncClient) -> None:
    data = bytes(range(256)) * 5000
    form = await client.post("/upload", files={"file": ("dir/a b.bin", data)})
    plain = await client.post("/upload?path=/app/note.txt", content=b"a note")
    assert form.json() == {
        "message": "File 'dir/a b.bin' uploaded successfully.",
        "path": "dir/a b.bin",
        "size": len(data),
    }
    assert plain.json()["path"] == "note.txt"
    assert (await client.get("/download/dir%2Fa%20b.bin")).content == data
    assert (await client.get("/download/note.txt")).content == b"a note"
    listing = (await client.get("/list/")).json()
    assert [(entry["name"], entry["type"], entry["size"]) for entry in listing] == [
        ("dir", "directory", 0),
        ("note.txt", "file", 6),
    ]
    assert (await client.get("/exists/dir")).json() == {"path": "dir", "exists": True}
    assert (await client.get("/exists/gone")).json() == {"path": "gone", "exists": False}
    shown = await client.post("/execute", json={"command": "cat note.txt"})
    assert shown.json()["stdout"] == "a note"


@pytest.mark.parametrize("path", ["/nothing", "/download/gone", "/list/gone", "/execute"])
async def test_what_is_not_there_is_a_404_in_json(client: httpx.AsyncClient, path: str) -> None:
    reply = await client.get(path)
    assert reply.status_code == 404
    assert reply.json()["detail"]


async def test_the_upload_cap_holds(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    sandbox.files = Files(cap=MEGABYTE)
    assert (await client.post("/upload?path=a", content=b"x" * MEGABYTE)).status_code == 200
    assert (await client.post("/upload?path=b", content=b"x")).status_code == 413
    assert (await client.post("/upload?path=b", content=b"x" * 3 * MEGABYTE)).status_code == 413
    assert (await client.post("/upload", files={"other": b"x"})).status_code == 400
    # Also a refused body is read to its end, so the connection stays of use.
    assert sandbox.accepted == 1
    assert [entry.name for entry in sandbox.files.entries() or []] == ["a"]


async def test_clock_ticks_one_event_at_a_time(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/clock?interval=0.02&count=3") as reply:
        assert reply.headers["content-type"] == "text/event-stream"
        events = [piece async for piece in reply.aiter_raw()]
    assert [event.splitlines()[0] for event in events] == [b"id: 1", b"id: 2", b"id: 3"]
    assert all(event.endswith(b"\n\n") for event in events)


@pytest.mark.parametrize("query", ["interval=x", "interval=-1", "count=nan", "interval=inf"])
async def test_clock_refuses_what_is_no_number(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/clock?{query}")).status_code == 400


@pytest.mark.parametrize("start", [b"GET /clock", b"POST /execute"])
async def test_a_client_that_leaves_is_noticed_at_once(sandbox: Sandbox, start: bytes) -> None:
    body = b'{"command": "sleep 30"}' if start.startswith(b"POST") else b""
    async with connect(sandbox) as (_, writer):
        writer.write(b"%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (start, len(body), body))
        await sandbox.until(lambda: sandbox.requests and sandbox.requests[-1].complete)
        assert (sandbox.connections, sandbox.aborted) == (1, 0)
    async with asyncio.timeout(5):
        await sandbox.until(lambda: sandbox.connections == 0)
    assert sandbox.aborted == 1


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [0, 1, 65521, 3 * MEGABYTE + 7])
async def test_big_is_exact_in_every_framing(client: httpx.AsyncClient, framing: str, size: int) -> None:
    reply = await client.get(f"/big?bytes={size}&framing={framing}")
    assert hashlib.sha256(reply.content).hexdigest() == big_sha256(size)
    assert len(reply.content) == size
    expected = {
        "length": (str(size), None, None),
        "chunked": (None, "chunked", None),
        "close": (None, None, "close"),
    }
    names = ("content-length", "transfer-encoding", "connection")
    assert tuple(reply.headers.get(name) for name in names) == expected[framing]


async def test_big_defaults_to_64_megabytes_and_waits_for_a_slow_reader(sandbox: Sandbox) -> None:
    async with connect(sandbox) as (reader, writer):
        writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: 67108864\r\n" in head
        first = next(big_pieces(65521))
        assert await reader.readexactly(len(first)) == first
    # The sandbox still had most of it to send: it was waiting for a reader that then left.
    async with asyncio.timeout(5):
        await sandbox.until(lambda: sandbox.connections == 0)
    assert sandbox.aborted == 1


@pytest.mark.parametrize("query", ["bytes=-1", "bytes=much", "framing=none"])
async def test_big_refuses_bad_parameters(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/big?{query}")).status_code == 400


async def test_echo_keeps_bytes_and_framing(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    data = gzip.compress(bytes(range(256)) * 1000)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100):
            yield data[start : start + 100]

    whole = await client.post("/echo", content=data, headers={"Content-Type": "image/x"})
    assert (whole.content, whole.headers["content-type"]) == (data, "image/x")
    assert whole.headers["content-length"] == str(len(data))
    chunked = await client.post("/echo", content=pieces())
    assert (chunked.content, chunked.headers["transfer-encoding"]) == (data, "chunked")
    empty = await client.post("/echo")
    assert (empty.content, empty.headers["content-length"]) == (b"", "0")
    digests = [seen.body_sha256 for seen in sandbox.requests]
    assert digests == [hashlib.sha256(body).hexdigest() for body in (data, data, b"")]
    assert [seen.body_length for seen in sandbox.requests] == [len(data), len(data), 0]


async def test_echo_streams_while_the_body_is_coming_and_keeps_trailers(sandbox: Sandbox) -> None:
    async with connect(sandbox) as (reader, writer):
        writer.write(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        for word in (b"one", b"two"):
            writer.write(b"3\r\n" + word + b"\r\n")
            assert await reader.readexactly(8) == b"3\r\n" + word + b"\r\n"
        writer.write(b"0\r\nX-Sum: 7\r\n\r\n")
        assert await reader.read() == b"0\r\nX-Sum: 7\r\n\r\n"
    assert sandbox.requests[0].trailers == [(b"X-Sum", b"7")]


async def test_head_has_the_headers_of_get_and_no_body(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    for target in ("/", "/big?bytes=100", "/clock"):
        reply = await client.head(target)
        assert (reply.status_code, reply.content) == (200, b"")
    assert (await client.head("/big?bytes=77")).headers["content-length"] == "77"
    assert (await client.head("/nothing")).status_code == 404
    assert sandbox.accepted == 1
    assert (await client.head("/big?framing=close")).content == b""


async def test_what_was_seen_is_byte_exact(sandbox: Sandbox) -> None:
    fields = b"hOST: x\r\nX-A: \xe9\xff\r\nx-a: 2\r\nContent-Length: 3\r\nConnection: close\r\n"
    reply = await raw(sandbox, b"BREW /a%2F..//b?q=%00 HTTP/1.1\r\n" + fields + b"\r\nabc")
    assert reply.startswith(b"HTTP/1.1 404 Not Found\r\n")
    (seen,) = sandbox.requests
    assert (seen.method, seen.target, seen.http_version) == ("BREW", "/a%2F..//b?q=%00", "1.1")
    assert seen.headers[:3] == [(b"hOST", b"x"), (b"X-A", b"\xe9\xff"), (b"x-a", b"2")]
    assert seen.values("X-A") == [b"\xe9\xff", b"2"]
    await sandbox.until(lambda: seen.complete)
    assert (seen.body_length, seen.body_sha256) == (3, hashlib.sha256(b"abc").hexdigest())


async def test_memory_of_requests_is_bounded(sandbox: Sandbox, client: httpx.AsyncClient) -> None:
    for number in range(REMEMBERED + 5):
        await client.get(f"/?{number}")
    assert (len(sandbox.requests), sandbox.served) == (REMEMBERED, REMEMBERED + 5)
    assert sandbox.requests[0].target == "/?5"
    assert sandbox.accepted == 1


async def test_pipelined_requests_are_answered_in_order(sandbox: Sandbox) -> None:
    execute = b'{"command": "echo 2"}'
    reply = await raw(
        sandbox,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        + b"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(execute), execute)
        + b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert [part[:3] for part in reply.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


async def test_a_1_0_client_gets_no_chunks(sandbox: Sandbox) -> None:
    reply = await raw(sandbox, b"GET /clock?count=2&interval=0.01 HTTP/1.0\r\n\r\n")
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body.startswith(b"id: 1\n")


@pytest.mark.parametrize("target", [b"/echo", b"/upload"])
async def test_the_body_is_asked_for_where_the_client_waits(sandbox: Sandbox, target: bytes) -> None:
    async with connect(sandbox) as (reader, writer):
        writer.write(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n" % target
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_expect_on_a_path_that_reads_no_body_ends_the_connection(sandbox: Sandbox) -> None:
    head = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    reply = await raw(sandbox, head)
    assert reply.startswith(b"HTTP/1.1 404 ")
    assert b"\r\nConnection: close\r\n" in reply


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"POST /execute HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 300_000,
    ],
)
async def test_malformed_requests_are_refused_and_the_connection_closed(
    sandbox: Sandbox, request_bytes: bytes
) -> None:
    reply = await raw(sandbox, request_bytes)
    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(reply.partition(b"\r\n\r\n")[2]) == {"detail": "Malformed HTTP request."}


async def test_a_malformed_body_after_the_head_of_the_reply_cuts_the_reply(sandbox: Sandbox) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = await raw(sandbox, head, b"1\r\na\r\n", b"zz\r\n")
    assert b"HTTP/1.1 200" in reply
    assert not reply.endswith(b"0\r\n\r\n")
    assert sandbox.aborted == 1


async def test_an_idle_client_may_leave(sandbox: Sandbox) -> None:
    assert await raw(sandbox, half_close=True) == b""
    assert await raw(sandbox, b"GET / HT", half_close=True) != b""
    assert sandbox.served == 0


async def test_a_taken_port_is_an_error(sandbox: Sandbox) -> None:
    with pytest.raises(OSError, match="in use"):
        await Sandbox("other", sandbox.host, sandbox.port).start()
