"""Programs that the kernel runs on sockets: what they drop, and what they let pass."""

from __future__ import annotations

import errno
import select
import socket
import sys
from collections.abc import Iterator

import pytest

from fastrouter.net import filters
from tests.support import LIMIT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as made:
        made.settimeout(LIMIT)
        yield made


def knock(listener: socket.socket) -> socket.socket:
    """Begin to connect, and do not wait for it."""
    client = socket.socket(listener.family)
    client.setblocking(False)
    assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    return client


def test_who_is_in_the_queue_stays_and_nobody_joins_it(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()[:2]) as early:
        early.sendall(b"before")
        assert filters.drop_new_connections(listener)
        with knock(listener) as late:
            accepted, _ = listener.accept()
            # Data, an answer and an end go through the program too: a connection inherits it.
            assert accepted.recv(100) == b"before"
            early.sendall(b"after")
            assert accepted.recv(100) == b"after"
            accepted.sendall(b"answer")
            accepted.close()
            assert early.recv(100) == b"answer"
            assert early.recv(100) == b""
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
            # The next try of its kernel, a second later, finds nobody: refused, not reset.
            listener.close()
            assert select.select([], [late], [], LIMIT)[1] == [late]
            assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_a_kernel_that_does_not_know_it_is_no_error(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SO_ATTACH_FILTER", 9999)
    assert not filters.drop_new_connections(listener)
    with socket.create_connection(listener.getsockname()[:2]):
        listener.accept()[0].close()


def test_what_is_no_program_is_an_error(listener: socket.socket) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        filters.attach(listener, filters.SO_ATTACH_FILTER, [(filters.LOAD_WORD, 0, 0, 0)])
