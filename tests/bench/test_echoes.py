"""The WebSocket echoes."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from bench import echoes
from tests.bench.scripted import ANSWER, answering, refusing, scripted
from tests.bench.talking import running

UPGRADE = b"GET /terminal HTTP/1.1\r\nHost: s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
NO_ERRORS = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}


def echo(*plan: Any) -> dict[str, Any]:
    return echoes.drive(echoes.Plan(*plan))


@pytest.mark.parametrize(
    ("size", "length"),
    [(5, b"\x85"), (125, b"\xfd"), (126, b"\xfe\0\x7e"), (65536, b"\xff" + (65536).to_bytes(8))],
)
def test_frames_are_masked_binary_ones(size: int, length: bytes) -> None:
    payload, mask = bytes(number % 251 for number in range(size)), b"\x01\x00\xff\x80"
    made = echoes.frame(payload, mask)
    assert made.startswith(b"\x82" + length + mask)
    masked = made[-size:]
    assert bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked)) == payload


@pytest.mark.parametrize("size", [1, 128, 200_000])
def test_echoes_are_counted(size: int) -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result = echo(address, [UPGRADE], 20, size, 0.3)
    assert result["errors"] == NO_ERRORS
    assert result["requests"] > 20
    assert result["bytes"] >= result["requests"] * size
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["p999_us"]


def test_every_tunnel_sends_a_frame_of_its_own() -> None:
    frames = []

    def handler(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(SWITCHED)
        frames.append(sock.recv(65536))

    with scripted(handler) as address:
        result = echo(address, [UPGRADE], 5, 128, 0.1)
    assert result["errors"] == NO_ERRORS | {"read": 5}
    assert len(set(frames)) == 5


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(ANSWER, "status"), (SWITCHED + b"early", "read"), (SWITCHED, "read")],
    ids=["not-switched", "early", "wrong-bytes"],
)
def test_echoes_count_what_goes_wrong_once_per_tunnel(answer: bytes, kind: str) -> None:
    with scripted(answering(answer)) as address:
        result = echo(address, [UPGRADE], 3, 32, 0.1)
    assert result["requests"] == 0
    assert result["errors"] == NO_ERRORS | {kind: 3}


def test_echoes_that_do_not_come_are_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echoes, "ANSWER_TIMEOUT", 0.1)

    def handler(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(SWITCHED)
        while sock.recv(65536):
            pass

    with scripted(handler) as address:
        result = echo(address, [UPGRADE], 3, 32, 0.2)
    assert result["errors"] == NO_ERRORS | {"timeout": 3}


def test_echoes_count_refused_connections() -> None:
    with refusing() as address:
        assert echo(address, [UPGRADE], 3, 32, 0.1)["errors"] == NO_ERRORS | {"connect": 3}
