"""Every peer that is installed routes as the router does; the configurations say what they should."""

from __future__ import annotations

import importlib.util
import json
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from bench.peers import PEERS, Peer, Place, catalog, fastapi_router
from bench.processes import Child, accepts, free_port
from bench.serving import Address
from tests.bench.street import BLOCK, EVENT, EVENTS, LIMIT, Handler, street

PLACE = Place(Path("unused"), 12345, ("127.0.0.9", 5399), 20_000)
UPGRADE = (
    "GET /ws HTTP/1.1\r\nHost: router\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "X-Sandbox-ID: sandbox-1\r\nX-Sandbox-Port: {port}\r\n\r\n"
)


class Running(NamedTuple):
    """A peer at work."""

    peer: Peer
    child: Child
    port: int
    sandbox_port: int

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)

    def headers(self, number: int) -> dict[str, str]:
        return {"X-Sandbox-ID": f"sandbox-{number}", "X-Sandbox-Port": str(self.sandbox_port)}

    def execute(self, client: HTTPConnection, number: int, body: bytes = b"\x00\x01") -> dict[str, Any]:
        client.request("POST", "/execute?a=%2F", body, self.headers(number))
        answer = client.getresponse()
        assert answer.status == 200
        told: dict[str, Any] = json.loads(answer.read())
        return told


@pytest.fixture(scope="module")
def neighbours() -> Iterator[tuple[int, Address]]:
    with street() as known:
        yield known


def missing(peer: Peer) -> pytest.MarkDecorator:
    return pytest.mark.skipif(peer.find() is None, reason=f"{peer.name} is not installed: {peer.hint}")


@pytest.fixture(
    scope="module", params=[pytest.param(peer, marks=missing(peer), id=peer.name) for peer in PEERS]
)
def running(
    request: pytest.FixtureRequest, neighbours: tuple[int, Address], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    peer: Peer = request.param
    program = peer.find()
    assert program is not None
    sandbox_port, dns = neighbours
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    where = Place(tmp_path_factory.mktemp(peer.name), free_port(), dns, files)
    with Child(peer.name, peer.start_command(program, where), core=None) as child:
        child.wait_until(lambda: accepts(("127.0.0.1", where.port)))
        yield Running(peer, child, where.port, sandbox_port)


def test_requests_on_one_connection_reach_the_sandbox_that_each_names(running: Running) -> None:
    with closing(running.connect()) as client:
        for number in (0, 1, 1, 0):
            told = running.execute(client, number)
            kept = client.sock
            assert kept is not None, "the client's connection was closed"
            name = f"sandbox-{number}.default.svc.cluster.local:{running.sandbox_port}"
            assert told == {
                "sandbox": f"127.1.0.{number + 1}",
                "host": name,
                "target": "/execute?a=%2F",
                "received": 2,
                "intact": True,
            }


def test_connections_to_sandboxes_are_kept_where_the_program_can(running: Running) -> None:
    with closing(running.connect()) as client:
        running.execute(client, 0)
        Handler.connections.clear()
        for _ in range(5):
            running.execute(client, 0)
    assert len(Handler.connections) == (5 if running.peer.name == "nginx" else 1)


def uploaded(
    running: Running,
    upload: Callable[[HTTPConnection], dict[str, Any]],
    before: Callable[[HTTPConnection], None] = lambda _: None,
) -> dict[str, Any]:
    """Return what the sandbox tells of an upload, on a connection that ``before`` has had first.

    Go's client, in Caddy, now and then closes a connection whose answer came before it had noted the end of
    its own writing: such an upload is sent once more.
    """
    for _ in range(4 if running.peer.name == "caddy" else 0):
        with closing(running.connect()) as client:
            before(client)
            with suppress(IncompleteRead):
                return upload(client)
    with closing(running.connect()) as client:
        before(client)
        return upload(client)


def test_downloads_and_uploads_arrive_whole(running: Running) -> None:
    def download(client: HTTPConnection) -> None:
        client.request("GET", "/download", headers=running.headers(1))
        assert client.getresponse().read() == BLOCK * 3

    told = uploaded(running, lambda client: running.execute(client, 0, BLOCK * 3), download)
    assert told["received"] == 3 * len(BLOCK)
    assert told["intact"]


def test_events_are_passed_on_one_by_one_and_at_once(running: Running) -> None:
    with closing(running.connect()) as client:
        client.request("GET", "/events", headers=running.headers(0))
        answer = client.getresponse()
        began = time.monotonic()
        for _ in range(EVENTS):
            assert answer.read(len(EVENT)) == EVENT
            Handler.wanted.release()
        # HAProxy without http-no-delay holds each for up to 200 ms, in the hope of more.
        assert time.monotonic() - began < EVENTS * 0.1
        assert answer.read() == b""


def test_a_request_is_passed_on_before_its_end(running: Running) -> None:
    def in_two_pieces(client: HTTPConnection) -> dict[str, Any]:
        Handler.seen.clear()
        client.putrequest("POST", "/upload")
        for name, value in {**running.headers(0), "Content-Length": str(len(BLOCK))}.items():
            client.putheader(name, value)
        # Go's client, in Caddy, sends on what fills its 4 KB.
        client.endheaders(BLOCK[:65536])
        assert Handler.seen.wait(LIMIT)
        client.send(BLOCK[65536:])
        told: dict[str, Any] = json.loads(client.getresponse().read())
        return told

    assert uploaded(running, in_two_pieces)["intact"]


def test_an_upgrade_becomes_a_tunnel(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=LIMIT) as client:
        client.sendall(UPGRADE.format(port=running.sandbox_port).encode())
        received = client.makefile("rb")
        with received:
            status = received.readline()
            if not running.peer.upgrades:
                assert status.split()[1] != b"101"
                return
            assert status.split()[1] == b"101"
            while received.readline() != b"\r\n":
                pass
            for message in (b"\x00ping\xff", BLOCK[:4096]):
                client.sendall(message)
                assert received.read(len(message)) == message


def test_a_request_that_names_no_sandbox_is_refused(running: Running) -> None:
    with closing(running.connect()) as client:
        client.request("GET", "/")
        assert client.getresponse().status == 400


def test_every_request_is_a_line_of_the_access_log(running: Running) -> None:
    before = running.child.output.lines
    with closing(running.connect()) as client:
        for number in (0, 1, 0):
            running.execute(client, number)
    running.child.wait_until(lambda: running.child.output.lines >= before + 3)


def test_the_peers_are_those_that_users_would_pick_instead() -> None:
    assert [peer.name for peer in PEERS] == ["nginx", "haproxy", "caddy", "envoy", "fastapi"]
    assert all(peer.hint.startswith(("apt-get install ", "pip install ")) for peer in PEERS)


def test_a_peer_that_is_not_installed_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_arguments: object, **_options: object) -> None: ...

    monkeypatch.setattr(shutil, "which", nothing)
    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    assert [peer.find() for peer in PEERS] == [None] * len(PEERS)


def test_a_program_is_found_beside_the_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "envoy"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert catalog.find_program("envoy") == str(program)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "nginx.conf",
            [
                "listen 127.0.0.1:12345 ",
                "resolver 127.0.0.9:5399 ",
                "worker_connections 20000;",
                "$namespace",
            ],
        ),
        (
            "haproxy.cfg",
            ["bind 127.0.0.1:12345 ", "nameserver dns 127.0.0.9:5399", "maxconn 9950", "nbthread 1"],
        ),
        ("Caddyfile", ["http://:12345 {", "resolvers 127.0.0.9:5399", "admin off"]),
        ("envoy.yaml", ["port_value: 12345 ", 'address: "127.0.0.9", port_value: 5399']),
    ],
)
def test_configurations_are_filled_in(template: str, expected: list[str], tmp_path: Path) -> None:
    path = catalog.fill(template, replace(PLACE, folder=tmp_path))
    text = path.read_text()
    assert path.parent == tmp_path
    assert not [part for part in expected if part not in text]
    assert "${" not in text
    assert text.count("{") == text.count("}")


def test_envoy_has_no_admin_port_and_resolves_where_it_routes(tmp_path: Path) -> None:
    config = yaml.safe_load(catalog.fill("envoy.yaml", replace(PLACE, folder=tmp_path)).read_text())
    assert list(config) == ["static_resources"]
    (listener,), (cluster,) = (config["static_resources"][part] for part in ("listeners", "clusters"))
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    names = [part["typed_config"]["dns_cache_config"] for part in (filters[1], cluster["cluster_type"])]
    assert names[0] == names[1], "Envoy refuses two caches of one name that differ"


def test_every_command_runs_one_worker_in_the_foreground(tmp_path: Path) -> None:
    where = replace(PLACE, folder=tmp_path)
    commands = {peer.name: peer.start_command(f"/bin/{peer.name}", where) for peer in PEERS}
    assert "daemon off;\nmaster_process off;" in (tmp_path / "nginx.conf").read_text()
    assert "-db" in commands["haproxy"]
    assert commands["caddy"][:2] == ["env", "GOMAXPROCS=1"]
    assert commands["envoy"][3:6] == ["--concurrency", "1", "--disable-hot-restart"]
    assert commands["fastapi"][1:] == [
        "-m",
        fastapi_router.__name__,
        "--port",
        "12345",
        "--dns",
        "127.0.0.9:5399",
    ]
