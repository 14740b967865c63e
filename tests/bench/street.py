"""Two sandboxes on loopback addresses of their own, in threads, as the peers meet them by name."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from bench.dns import sandbox_address
from bench.processes import Child
from bench.serving import Address

LIMIT = 5.0
EVENT, EVENTS = b"data: tick\n\n", 10
WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BLOCK = bytes(range(256)) * 4096  # 1 MB


class Handler(BaseHTTPRequestHandler):
    """Says which sandbox it is and what it received."""

    protocol_version = "HTTP/1.1"
    connections: ClassVar[set[tuple[str, int]]] = set()
    """Where requests came from since a test cleared it."""
    seen: ClassVar[threading.Event] = threading.Event()
    """The first byte of a body is here."""
    wanted: ClassVar[threading.Semaphore] = threading.Semaphore(0)
    """The client of the test has received an event, and waits for another."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Keep the output of the tests clean."""

    def do_POST(self) -> None:
        self.connections.add(self.client_address)
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(min(1, length))
        self.seen.set()
        body += self.rfile.read(length - len(body))
        told = {
            "sandbox": self.connection.getsockname()[0],
            "host": self.headers["Host"],
            "target": self.path,
            "received": len(body),
            "intact": body == (BLOCK * (len(body) // len(BLOCK) + 1))[: len(body)],
        }
        self.answer(json.dumps(told).encode())

    def do_GET(self) -> None:
        if self.headers.get("Upgrade") == "websocket":
            self.echo()
        elif self.path == "/events":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(EVENTS):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
                self.wanted.acquire(timeout=LIMIT)
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.answer(BLOCK * 3)

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def echo(self) -> None:
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "websocket")
        # HAProxy passes no 101 without it.
        key = f"{self.headers['Sec-WebSocket-Key']}{WEBSOCKET_GUID}".encode()
        accept = hashlib.sha1(key, usedforsecurity=False).digest()
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(accept).decode())
        self.end_headers()
        while data := self.connection.recv(65536):
            self.connection.sendall(data)
        self.close_connection = True


@contextlib.contextmanager
def street() -> Iterator[tuple[int, Address]]:
    """Run sandbox-0 and sandbox-1 on one port, and the DNS server that knows them."""
    with contextlib.ExitStack() as stack:
        first, second = stack.enter_context(_pair())
        for server in (first, second):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.shutdown)
        command = [sys.executable, "-m", "bench.dns", "--listen", "127.0.0.1:0"]
        yield first.server_port, stack.enter_context(Child("dns", command, core=None)).listening_on()


@contextlib.contextmanager
def _pair() -> Iterator[tuple[ThreadingHTTPServer, ThreadingHTTPServer]]:
    # A port that is free at one address may be taken at the other.
    for _ in range(20):
        with ThreadingHTTPServer((sandbox_address(0), 0), Handler) as first:
            try:
                second = ThreadingHTTPServer((sandbox_address(1), first.server_port), Handler)
            except OSError:
                continue
            with second:
                yield first, second
                return
    msg = "no port is free at both addresses"
    raise OSError(msg)
