"""Connections that are held open and silent."""

from __future__ import annotations

import socket
import threading

import pytest

from bench import idle
from tests.bench.scripted import ANSWER, CHUNKED, answering, answering_once, refusing, scripted
from tests.bench.talking import EXECUTE, running


def test_idle_connections_answer_once_and_stay() -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (child, address):
        with idle.hold(idle.Plan(address, [EXECUTE, EXECUTE.replace(b"bc", b"cb")], 250)) as held:
            assert (held.pairs, held.errors) == (250, 0)
            assert child.open_files() >= 250
        assert (held.pairs, held.errors) == (0, 0)


def test_idle_connections_send_their_messages_in_turn() -> None:
    seen = []

    def handler(sock: socket.socket) -> None:
        seen.append(sock.recv(65536))
        sock.sendall(CHUNKED + b"2\r\nok\r\n0\r\n\r\n")
        sock.recv(1)

    with scripted(handler) as address, idle.hold(idle.Plan(address, [b"a", b"b", b"c"], 7)) as held:
        assert (held.pairs, held.errors) == (7, 0)
        assert sorted(seen) == [b"a"] * 3 + [b"b"] * 2 + [b"c"] * 2


def test_connections_that_are_lost_meanwhile_are_errors() -> None:
    end, ended = threading.Event(), threading.Barrier(4, timeout=2)
    order = iter(range(5))

    def handler(sock: socket.socket) -> None:
        sock.recv(65536)
        number = next(order)
        sock.sendall(ANSWER)
        if number < 3:
            end.wait(2)
            sock.sendall(b"surprise") if number == 0 else sock.shutdown(socket.SHUT_RDWR)
            ended.wait()
        sock.recv(1)

    with scripted(handler) as address:
        with idle.hold(idle.Plan(address, [EXECUTE], 5)) as held:
            assert (held.pairs, held.errors) == (5, 0)
            end.set()
            ended.wait()
            assert (held.errors, held.pairs) == (3, 2)
        assert held.errors == 3


@pytest.mark.parametrize("answer", [ANSWER.replace(b"200", b"502"), ANSWER[:-1], ANSWER + b"x", b""])
def test_wrong_answers_are_errors(answer: bytes) -> None:
    with scripted(answering_once(answer)) as address, idle.hold(idle.Plan(address, [EXECUTE], 5)) as held:
        assert (held.pairs, held.errors) == (0, 5)


def test_nobody_is_asked_again_and_again_when_nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "BATCH", 10)
    asked = []

    def handler(sock: socket.socket) -> None:
        asked.append(sock.recv(65536))

    with scripted(handler) as address, idle.hold(idle.Plan(address, [EXECUTE], 35)) as held:
        assert (held.pairs, held.errors) == (0, 35)
    assert len(asked) <= 10


def test_silence_and_refusal_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "ANSWER_TIMEOUT", 0.1)
    with scripted(answering(b"")) as address, idle.hold(idle.Plan(address, [EXECUTE], 2)) as held:
        assert (held.pairs, held.errors) == (0, 2)
    with refusing() as address, idle.hold(idle.Plan(address, [EXECUTE], 2)) as held:
        assert (held.pairs, held.errors) == (0, 2)
