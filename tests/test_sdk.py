"""What the Python SDK does, with the clients that it uses, against the demo's sandboxes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self
from urllib.parse import quote

import httpx
import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from fastrouter.demo.endpoints import big_sha256
from tests.sdk_cluster import ONE, PLACE, SETTINGS, THREE, TWO, Cluster, cluster

CONTENT = bytes(range(256)) * 1000
QUOTED = [
    "a%2Fb",
    "a%2Fb%2Fc.txt",
    "%2E%2E%2Fetc",
    "%2E%2E/x",
    "sp%20ace",
    "a%252Fb",
    "%C3%A9",
    "a//b",
    "%00",
]
BIG = 256 * 2**20
RETRY = Retry(
    total=3,
    backoff_factor=0.01,
    status_forcelist=(500, 502, 503, 504),
    allowed_methods=("GET", "HEAD", "PUT", "DELETE"),
    raise_on_status=False,
)


class Sdk:
    """A client as the SDK makes it: one session, retries of 5xx but never of POST, redirects off."""

    def __init__(self, running: Cluster, name: str = ONE, *, sockets: int = 10) -> None:
        self.cluster = running
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers.update(running.headers(name))
        self.session.mount("http://", HTTPAdapter(pool_maxsize=sockets, max_retries=RETRY))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        # A prepared request whose URL nobody touches: requests would unquote %2E.
        prepared = self.session.prepare_request(requests.Request(method, self.cluster.url, **options))
        prepared.url = self.cluster.url + path
        return self.session.send(prepared, allow_redirects=False, timeout=60)


@pytest.fixture(name="sdk", scope="module")
def _sdk() -> Iterator[Sdk]:
    with cluster() as running, Sdk(running) as sdk:
        yield sdk


@pytest.mark.parametrize("path", QUOTED)
@pytest.mark.parametrize("verb", ["download", "list", "exists"])
def test_quoted_paths_stay_quoted(sdk: Sdk, verb: str, path: str) -> None:
    sdk.call("GET", f"/{verb}/{path}?q=%2F&r")
    assert sdk.cluster.sandboxes[ONE].requests[-1].target == f"/{verb}/{path}?q=%2F&r"


class TestRequests:
    def test_execute_upload_download_list_exists(self, sdk: Sdk) -> None:
        done = sdk.call("POST", "/execute", json={"command": "echo hello"})
        assert done.json() == {"stdout": "hello\n", "stderr": "", "exit_code": 0}
        up = sdk.call("POST", "/upload", files={"file": ("data.bin", CONTENT)})
        assert up.json()["size"] == len(CONTENT)
        assert sdk.call("GET", f"/download/{quote('data.bin', safe='')}").content == CONTENT
        assert sdk.call("GET", "/exists/data.bin").json()["exists"] is True
        assert sdk.call("GET", "/exists/other.bin").json()["exists"] is False
        assert [entry["name"] for entry in sdk.call("GET", "/list/").json()] == ["data.bin"]
        assert sdk.call("GET", "/").json() == {"status": "ok", "sandbox": ONE}
        assert sdk.call("GET", "/download/other.bin").status_code == 404

    def test_a_head_has_the_length_and_no_body(self, sdk: Sdk) -> None:
        answer = sdk.call("HEAD", "/")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Length"] == sdk.call("GET", "/").headers["Content-Length"]

    def test_a_download_of_256_mb_arrives_whole(self, sdk: Sdk) -> None:
        digest = hashlib.sha256()
        url = f"{sdk.cluster.url}/big?bytes={BIG}"
        with sdk.session.get(url, stream=True, timeout=60) as down:
            assert down.headers["Content-Length"] == str(BIG)
            for piece in down.iter_content(2**20):
                digest.update(piece)
        assert digest.hexdigest() == big_sha256(BIG)

    def test_one_connection_carries_all_calls_of_a_session(self) -> None:
        with cluster() as running, Sdk(running) as client:
            for _ in range(5):
                client.call("POST", "/execute", json={"command": "true"})
                client.call("GET", "/exists/x")
                client.call("GET", "/download/x")
                client.call("HEAD", "/")
            assert len(running.router.connections) == 1
            assert running.sandboxes[ONE].accepted == 1

    def test_a_get_is_retried_and_a_post_is_not(self, sdk: Sdk) -> None:
        nobody = {"X-Sandbox-ID": "nobody"}
        for method, tries in (("POST", 1), ("PATCH", 1), ("GET", 4), ("HEAD", 4)):
            before = sdk.cluster.router.metrics.requests
            answer = sdk.call(method, "/execute", headers=nobody)
            assert (answer.status_code, answer.headers["X-Sandbox-Router-Error"]) == (502, "dns_not_found")
            assert sdk.cluster.router.metrics.requests - before == tries

    def test_what_the_router_reads_stops_there_and_the_rest_reaches_the_sandbox(self, sdk: Sdk) -> None:
        ids = {"X-Request-ID": "r-1/ä=", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71-01"}
        own = {name: value.encode("utf-8") for name, value in ids.items()}
        sdk.call("GET", "/", headers=own)
        seen = sdk.cluster.seen()
        assert {name: seen[name.lower().encode()] for name in ids} == own
        assert seen[b"user-agent"].startswith(b"python-requests/")
        assert not [name for name in seen if name.startswith(b"x-sandbox-")]
        assert seen[b"host"] == f"one.default.svc.cluster.local:{sdk.cluster.sandboxes[ONE].port}".encode()

    def test_a_redirect_is_passed_on_untouched_and_not_followed(self, sdk: Sdk) -> None:
        before = sdk.cluster.moved.received.count(b"GET /")
        with Sdk(sdk.cluster, THREE) as client:
            answer = client.call("GET", "/x")
        assert (answer.status_code, answer.headers["Location"]) == (302, PLACE)
        assert sdk.cluster.moved.received.count(b"GET /") == before + 1

    def test_a_cookie_of_one_sandbox_stays_with_the_client_that_got_it(self, sdk: Sdk) -> None:
        for name in (THREE, ONE, TWO, THREE):
            with Sdk(sdk.cluster, name) as client:
                assert client.call("GET", "/").cookies.get("owner") == ("three" if name == THREE else None)
        assert b"cookie" not in sdk.cluster.seen(ONE)
        assert b"cookie" not in sdk.cluster.seen(TWO)
        assert b"\r\ncookie:" not in sdk.cluster.moved.received.lower()

    def test_many_threads_each_get_their_own_sandboxs_answer(self) -> None:
        with cluster() as running, Sdk(running, ONE, sockets=16) as one, Sdk(running, TWO, sockets=16) as two:

            def ask(number: int) -> tuple[str, str]:
                client = two if number % 2 else one
                done = client.call("POST", "/execute", json={"command": f"echo {number}"})
                return done.json()["stdout"], client.call("GET", "/").json()["sandbox"]

            with ThreadPoolExecutor(16) as threads:
                answers = list(threads.map(ask, range(200)))
            assert answers == [(f"{number}\n", (ONE, TWO)[number % 2]) for number in range(200)]
            assert [sandbox.served for sandbox in running.sandboxes.values()] == [200, 200]
            assert len(running.router.connections) <= 32

    def test_a_token_is_asked_for_once_and_goes_no_further(self) -> None:
        with cluster(replace(SETTINGS, auth_token="secret")) as running, Sdk(running) as client:
            refused = client.call("GET", "/")
            assert refused.status_code == 401
            assert refused.json() == {"detail": "Missing or invalid Authorization header."}
            assert running.router.metrics.requests == 1
            client.session.headers["Authorization"] = "Bearer secret"
            assert client.call("POST", "/execute", json={"command": "true"}).status_code == 200
            assert b"authorization" not in running.seen()
            assert len(running.router.connections) == 1


@asynccontextmanager
async def async_sdk() -> AsyncIterator[tuple[Cluster, httpx.AsyncClient]]:
    running = Cluster(SETTINGS)
    await asyncio.to_thread(running.start)
    try:
        async with httpx.AsyncClient(
            base_url=running.url, headers=running.headers(), trust_env=False, timeout=60
        ) as client:
            yield running, client
    finally:
        await asyncio.to_thread(running.stop)


class TestHttpx:
    async def test_execute_upload_download_list_exists(self) -> None:
        async with async_sdk() as (running, client):
            done = await client.post("/execute", json={"command": "echo hello"})
            assert done.json() == {"stdout": "hello\n", "stderr": "", "exit_code": 0}
            up = await client.post("/upload", files={"file": ("data.bin", CONTENT)})
            assert up.json()["size"] == len(CONTENT)
            assert (await client.get("/download/data.bin")).content == CONTENT
            assert (await client.get("/exists/data.bin")).json()["exists"] is True
            assert [entry["name"] for entry in (await client.get("/list/")).json()] == ["data.bin"]
            assert (await client.head("/")).content == b""
            assert (await client.get("/")).json()["sandbox"] == ONE
            assert len(running.router.connections) == 1
            assert running.sandboxes[ONE].accepted == 1

    async def test_uploads_and_downloads_are_streamed(self) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 10_000

        async with async_sdk() as (running, client):
            assert (await client.post("/upload?path=up.bin", content=pieces())).json()["size"] == 1_000_000
            assert running.seen()[b"transfer-encoding"] == b"chunked"
            async with client.stream("GET", "/download/up.bin") as down:
                assert b"".join([piece async for piece in down.aiter_raw()]) == b"x" * 1_000_000
            async with client.stream("GET", "/clock?interval=0.001&count=3") as events:
                lines = [line async for line in events.aiter_lines()]
            assert [line for line in lines if line.startswith("id: ")] == ["id: 1", "id: 2", "id: 3"]

    @pytest.mark.parametrize("path", ["a%2Fb", "%2E%2E%2Fetc", "sp%20ace", "a%252Fb"])
    async def test_quoted_paths_stay_quoted(self, path: str) -> None:
        async with async_sdk() as (running, client):
            await client.get(f"/download/{path}")
            assert running.sandboxes[ONE].requests[-1].target == f"/download/{path}"

    async def test_fifty_calls_at_once_each_get_their_answer(self) -> None:
        async with async_sdk() as (running, client):

            async def ask(number: int) -> str:
                command = {"command": f"echo {number}"}
                name = (ONE, TWO)[number % 2]
                done = await client.post("/execute", json=command, headers=running.headers(name))
                return str(done.json()["stdout"])

            assert await asyncio.gather(*map(ask, range(50))) == [f"{number}\n" for number in range(50)]

    async def test_redirects_and_errors_are_the_clients_to_judge(self) -> None:
        async with async_sdk() as (running, client):
            moved = await client.get("/", headers=running.headers(THREE))
            assert (moved.status_code, moved.headers["Location"]) == (302, PLACE)
            nobody = await client.post("/execute", json={}, headers={"X-Sandbox-ID": "nobody"})
            assert (nobody.status_code, nobody.json()) == (
                502,
                {"detail": "Could not connect to the backend sandbox: nobody"},
            )
