"""Servers that answer as a test wants it, wrongly above all."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from bench.serving import Address

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Handler = Callable[[socket.socket], None]


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def scripted(handler: Handler) -> Iterator[Address]:
    """Call `handler` with every connection, in a thread of its own."""

    class Handle(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                handler(self.request)

    with Server(("127.0.0.1", 0), Handle) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield "127.0.0.1", server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def answering(answer: bytes) -> Handler:
    """Give the same answer to whatever arrives, until the client has gone."""

    def handler(sock: socket.socket) -> None:
        while sock.recv(65536):
            sock.sendall(answer)

    return handler


def answering_once(answer: bytes) -> Handler:
    """Give one answer, and close."""

    def handler(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(answer)

    return handler


@contextmanager
def refusing() -> Iterator[Address]:
    """An address where nobody listens."""
    with socket.socket() as bound_only:
        bound_only.bind(("127.0.0.1", 0))
        yield bound_only.getsockname()
