"""What the Python SDK does, with the clients that it uses, against the demo's sandboxes."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import quote

import httpx
import pytest
import requests
import uvloop
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from fastrouter.demo.dns import DnsServer
from fastrouter.demo.sandbox import Sandbox
from fastrouter.server import Server
from fastrouter.settings import Settings

SETTINGS = Settings(host="127.0.0.1", port=0, dial_retry=0.0, shutdown_grace=1.0)


class Cluster:
    """A router, its DNS server and two sandboxes, on an event loop in a thread: `requests` blocks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = threading.Event()
        self._stop: Callable[[], object] = print
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))

    async def _main(self) -> None:
        self.sandboxes = [Sandbox(name, "127.0.0.1") for name in ("one", "two")]
        for sandbox in self.sandboxes:
            await sandbox.start()
        zone = {f"{sandbox.name}.default.svc.cluster.local": ["127.0.0.1"] for sandbox in self.sandboxes}
        async with DnsServer(zone) as dns:
            self.router = Server(replace(self._settings, dns_servers=(dns.address,)))
            await self.router.start()
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            self._stop = lambda: loop.call_soon_threadsafe(stop.set)
            self._ready.set()
            await stop.wait()
            await self.router.shutdown()
        for sandbox in self.sandboxes:
            await sandbox.close()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._stop()
        self._thread.join(10)

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.router.address)

    def headers(self, number: int = 0) -> dict[str, str]:
        sandbox = self.sandboxes[number]
        return {
            "X-Sandbox-ID": sandbox.name,
            "X-Sandbox-Namespace": "default",
            "X-Sandbox-Port": str(sandbox.port),
            "X-Sandbox-Timeout": "59.999",
        }


@contextmanager
def cluster(settings: Settings = SETTINGS) -> Iterator[Cluster]:
    running = Cluster(settings)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(name="sdk")
def _sdk() -> Iterator[tuple[Cluster, requests.Session]]:
    """Return a session as the SDK makes it: retries of 5xx, never of POST."""
    with cluster() as running, requests.Session() as session:
        retry = Retry(3, backoff_factor=0.01, status_forcelist=(500, 502, 503, 504), raise_on_status=False)
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.trust_env = False
        yield running, session


Sdk = tuple[Cluster, requests.Session]


def test_execute_upload_download_list_exists(sdk: Sdk) -> None:
    running, session = sdk
    common = {"headers": running.headers(), "allow_redirects": False, "timeout": 60}
    done = session.post(f"{running.url}/execute", json={"command": "echo hello"}, **common)  # type: ignore[arg-type]
    assert done.json() == {"stdout": "hello\n", "stderr": "", "exit_code": 0}
    content = bytes(range(256)) * 1000
    up = session.post(f"{running.url}/upload", files={"file": ("data.bin", content)}, **common)  # type: ignore[arg-type]
    assert up.status_code == 200
    down = session.get(f"{running.url}/download/{quote('data.bin', safe='')}", **common)  # type: ignore[arg-type]
    assert down.content == content
    assert session.get(f"{running.url}/exists/data.bin", **common).json()["exists"] is True  # type: ignore[arg-type]
    assert "data.bin" in session.get(f"{running.url}/list/", **common).text  # type: ignore[arg-type]
    assert session.head(f"{running.url}/", **common).content == b""  # type: ignore[arg-type]
    assert session.get(f"{running.url}/", **common).json()["sandbox"] == "one"  # type: ignore[arg-type]
    assert len(running.router.connections) == 1


@pytest.mark.parametrize("path", ["a%2Fb", "a%2Fb%2Fc.txt", "%2E%2E%2Fetc", "sp%20ace", "a%252Fb"])
def test_quoted_paths_stay_quoted(sdk: Sdk, path: str) -> None:
    running, session = sdk
    # As the SDK does it: a prepared request whose URL nobody touches.
    prepared = session.prepare_request(requests.Request("GET", running.url, headers=running.headers()))
    prepared.url = f"{running.url}/download/{path}"
    session.send(prepared, allow_redirects=False)
    assert running.sandboxes[0].requests[-1].target == f"/download/{path}"


def test_a_download_of_256_mb_arrives_whole(sdk: Sdk) -> None:
    running, session = sdk
    size = 256 * 2**20
    total, digests = 0, []
    for _ in range(2):
        digest = hashlib.sha256()
        with session.get(f"{running.url}/big?bytes={size}", headers=running.headers(), stream=True) as down:
            for piece in down.iter_content(2**20):
                digest.update(piece)
                total += len(piece)
        digests.append(digest.hexdigest())
    assert total == 2 * size
    assert digests[0] == digests[1]


def test_a_get_is_retried_and_a_post_is_not(sdk: Sdk) -> None:
    running, session = sdk
    nobody = {**running.headers(), "X-Sandbox-ID": "nobody"}
    assert session.post(f"{running.url}/execute", json={}, headers=nobody).status_code == 502
    assert running.router.requests == 1
    assert session.get(f"{running.url}/", headers=nobody).status_code == 502
    assert running.router.requests == 5


def test_ids_and_traces_reach_the_sandbox(sdk: Sdk) -> None:
    running, session = sdk
    ids = {"X-Request-ID": "r-1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    session.get(f"{running.url}/", headers={**running.headers(), **ids})
    seen = dict(running.sandboxes[0].requests[-1].headers)
    for name, value in ids.items():
        assert seen[name.encode()] == value.encode()


def test_many_threads_each_get_their_own_sandboxs_answer() -> None:
    with cluster() as running:

        def ask(number: int) -> bool:
            command = {"command": f"echo {number}"}
            done = requests.post(
                f"{running.url}/execute", json=command, headers=running.headers(number % 2), timeout=30
            )
            return bool(done.json()["stdout"] == f"{number}\n")

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(ask, range(200)))
        assert sum(sandbox.served for sandbox in running.sandboxes) == 200


def test_a_token_is_asked_for_and_goes_no_further() -> None:
    with cluster(replace(SETTINGS, auth_token="secret")) as running:
        refused = requests.get(f"{running.url}/", headers=running.headers(), timeout=30)
        assert (refused.status_code, refused.json()) == (
            401,
            {"detail": "Missing or invalid Authorization header."},
        )
        headers = {**running.headers(), "Authorization": "Bearer secret"}
        assert requests.get(f"{running.url}/", headers=headers, timeout=30).status_code == 200
        names = {name.lower() for name, _ in running.sandboxes[0].requests[-1].headers}
        assert b"authorization" not in names


async def test_httpx_streams_up_and_down() -> None:
    running = await asyncio.to_thread(started)
    try:
        async with httpx.AsyncClient(
            base_url=running.url, headers=running.headers(), trust_env=False
        ) as client:

            async def pieces() -> AsyncIterator[bytes]:
                for _ in range(100):
                    yield b"x" * 10_000

            await in_time(client.post("/upload?path=up.bin", content=pieces()))
            assert running.sandboxes[0].requests[-1].body_length == 1_000_000
            async with client.stream("GET", "/download/up.bin") as down:
                assert sum([len(piece) async for piece in down.aiter_bytes()]) == 1_000_000
            done = await in_time(client.post("/execute", json={"command": "whoami"}))
            assert done.json()["exit_code"] == 0
            assert len(running.router.connections) == 1
    finally:
        await asyncio.to_thread(running.stop)


def started() -> Cluster:
    running = Cluster(SETTINGS)
    running.start()
    return running


async def in_time(response: Awaitable[httpx.Response]) -> httpx.Response:
    return await asyncio.wait_for(response, 30)
