"""The benchmark's sandbox: one process that answers for every sandbox address, as cheaply as Python can.

It shares a core with the load generator, so that what is measured is the proxy on the other core.
It reads Content-Length framing only, which is all that the load generators send. Beside plain answers it has
chunks (/chunks?count=N&size=M), events (/events?every=MS) and, for an upgrade to websocket, an echo of bytes.

``python -m bench.sandbox --listen 0.0.0.0:PORT``: all of 127.0.0.0/8 reaches it there.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import os
import re
import socket
from email.utils import formatdate
from typing import Final, cast

from bench.serving import Address, bound_address, parse_address, serve_until_signal
from bench.ticker import Ticker, Tickers

BODY: Final = (
    b'{"stdout":"hello from the sandbox, this is one line of output\\n",'
    b'"stderr":"","exit_code":0,"duration_ms":1.25,"session":"c0ffee00-0000-4000-8000-00000000beef"}'
)
HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
BIG: Final = re.compile(rb"GET /big\?bytes=(\d+) ")
CHUNKS: Final = re.compile(rb"GET /chunks\?count=(\d+)&size=(\d+) ")
EVENTS: Final = re.compile(rb"GET /events\?every=([1-9]\d*) ")
UPGRADE: Final = re.compile(rb"\r\nupgrade:[ \t]*websocket[ \t]*\r\n", re.IGNORECASE)
KEY: Final = re.compile(rb"\r\nsec-websocket-key:[ \t]*([^ \t\r]+)", re.IGNORECASE)
# RFC 6455, 1.3: what makes the answer to a key.
KEY_SUFFIX: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
LAST_CHUNK: Final = b"0\r\n\r\n"
BLOCK: Final = memoryview(bytes(range(256)) * 1024)
# Small on purpose: what is read here of a long body is copied, the rest is not (see _drop_body).
INBOX: Final = memoryview(bytearray(16 * 1024))
SIP: Final = INBOX[:1024]
# MSG_TRUNC writes nothing here; the interface wants a buffer of the size all the same.
SINK: Final = bytearray(1024 * 1024)
HIGH_WATER: Final = 512 * 1024


class Replies:
    """The prebuilt replies; their Date changes every second, as a real server's does."""

    def __init__(self) -> None:
        self.tickers = Tickers()
        self.renew()

    def renew(self) -> None:
        """Build the replies with the date of now."""
        common = f"date: {formatdate(usegmt=True)}\r\nserver: uvicorn\r\n"
        self._head = f"HTTP/1.1 200 OK\r\n{common}content-length: %d\r\ncontent-type: %s\r\n\r\n".encode()
        self._stream = (
            f"HTTP/1.1 200 OK\r\n{common}transfer-encoding: chunked\r\ncontent-type: %s\r\n\r\n".encode()
        )
        self.execute = self._head % (len(BODY), b"application/json") + BODY
        self.missing = f"HTTP/1.1 404 Not Found\r\n{common}content-length: 0\r\n\r\n".encode()

    def big(self, size: int) -> bytes:
        """Head of a download."""
        return self._head % (size, b"application/octet-stream")

    def stream(self, kind: bytes) -> bytes:
        """Head of a chunked answer."""
        return self._stream % kind

    def switching(self, request: bytes) -> bytes:
        """Head that turns a connection into a tunnel."""
        key = KEY.search(request)
        accept = base64.b64encode(hashlib.sha1(key[1] + KEY_SUFFIX).digest()) if key else b""  # noqa: S324
        field = b"sec-websocket-accept: %b\r\n" % accept if key else b""
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n%b\r\n" % field
        )

    def received(self, size: int) -> bytes:
        """Answer to an upload: how many body bytes arrived."""
        body = b'{"received":%d}' % size
        return self._head % (len(body), b"application/json") + body


class Responder(asyncio.BufferedProtocol):
    """One connection: requests are answered in order, each after the last byte of its body."""

    transport: asyncio.Transport

    def __init__(self, replies: Replies) -> None:
        self.replies = replies
        self.buffer = b""
        self.head = b""
        self.body = 0
        self.unread = 0
        self.unsent = 0
        self.chunk = b""
        self.ticker: Ticker | None = None
        self.paused = False
        self.socket: socket.socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer the one buffer that all connections share; what it holds is used up before the next read.

        Within a long body it is a small one: it only tells that more is there, which the kernel then drops.
        """
        return SIP if self.unread > len(SIP) else INBOX

    def buffer_updated(self, nbytes: int) -> None:
        """Skip body bytes by count, and answer each request that is complete."""
        if self.unread > nbytes:
            self.unread -= nbytes
            if self.unread > len(SIP):
                self._drop_body()
            return
        data = bytes(INBOX[self.unread : nbytes])
        if self.unread:
            self.unread = 0
            self._answer()
        self.buffer = self.buffer + data if self.buffer else data
        if self.buffer and not self.unsent:
            self._read_heads()

    def _drop_body(self) -> None:
        """Let the kernel throw body bytes away uncopied (MSG_TRUNC); always leave the last few to the loop.

        uvloop keeps no received bytes of its own, so reading beside it takes nothing from it.
        """
        if self.socket is None:
            self.socket = socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno()))
        with contextlib.suppress(OSError):
            while self.unread > len(SIP):
                size = self.socket.recv_into(SINK, min(self.unread - 1, len(SINK)), socket.MSG_TRUNC)
                if not size:
                    return
                self.unread -= size

    def connection_lost(self, exc: Exception | None) -> None:
        """Send nothing more; close the second handle on the socket, if there was need for one."""
        self.unsent = 0
        self.buffer = b""
        if self.ticker is not None:
            self.ticker.remove(self.transport)
        if self.socket is not None:
            self.socket.close()

    def _read_heads(self) -> None:
        data, start = self.buffer, 0
        self.buffer = b""
        while start < len(data) and not self.unsent:
            end = data.find(HEAD_END, start) + len(HEAD_END)
            if end < len(HEAD_END):
                break
            found = LENGTH.search(data, start, end)
            self.body = int(found[1]) if found else 0
            self.head = data[start:end]
            start = end + self.body
            if start > len(data):
                self.unread = start - len(data)
                return
            self._answer()
        self.buffer = data[start:]

    def _answer(self) -> None:
        head = self.head
        if head.startswith(b"POST /execute "):
            self.transport.write(self.replies.execute)
        elif head.startswith(b"POST /upload "):
            self.transport.write(self.replies.received(self.body))
        elif UPGRADE.search(head):
            self.unsent = 1  # what follows is no request
            self.transport.write(self.replies.switching(head))
            asyncio.get_running_loop().call_soon(self._switch)
        elif found := BIG.match(head):
            self.unsent = int(found[1])
            self.transport.write(self.replies.big(self.unsent))
            self._send_more()
        elif found := CHUNKS.match(head):
            self._start_chunks(int(found[1]), int(found[2]))
        elif found := EVENTS.match(head):
            self.unsent = 1  # it never ends
            self.transport.write(self.replies.stream(b"text/event-stream"))
            self.ticker = self.replies.tickers.of(int(found[1]) / 1000)
            self.ticker.add(self.transport)
        else:
            self.transport.write(self.replies.missing)

    def _send_more(self) -> None:
        while self.unsent and not self.paused:
            piece = BLOCK[: self.unsent]
            self.unsent -= len(piece)
            self.transport.write(piece)

    def _start_chunks(self, count: int, size: int) -> None:
        self.transport.write(self.replies.stream(b"application/octet-stream"))
        if count and size:
            self.unsent = count
            self.chunk = b"%x\r\n%b\r\n" % (size, bytes(size))
            self._send_chunk()
        else:
            self.transport.write(LAST_CHUNK)

    def _send_chunk(self) -> None:
        """Send one chunk and return to the loop: more in one go would leave as one write."""
        if self.paused or not self.unsent:
            return
        self.unsent -= 1
        self.transport.write(self.chunk)
        if self.unsent:
            asyncio.get_running_loop().call_soon(self._send_chunk)
            return
        self.chunk = b""
        self.transport.write(LAST_CHUNK)
        if self.buffer:
            # Requests behind it waited. Not from here: it may be their answer that is under way.
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self.buffer and not self.unsent:
            self._read_heads()

    def _switch(self) -> None:
        """Become a tunnel, once the bytes that came with the head are in the buffer."""
        if self.transport.is_closing():
            return
        if self.socket is not None:
            self.socket.close()
        self.transport.set_protocol(Echo(self.transport))
        if self.buffer:
            self.transport.write(self.buffer)

    def pause_writing(self) -> None:
        """Send no more of an answer until the reader has caught up; events go on."""
        self.paused = True

    def resume_writing(self) -> None:
        """Go on with the answer, then with the requests that waited behind it."""
        self.paused = False
        if self.chunk:
            self._send_chunk()
        elif self.ticker is None:
            self._send_more()
            self._go_on()


class Echo(asyncio.Protocol):
    """A tunnel that gives back what comes, as it came."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Give it back."""
        self.transport.write(data)

    def pause_writing(self) -> None:
        """Take no more than the other side reads."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Take more."""
        self.transport.resume_reading()


async def start(listen: Address) -> asyncio.Server:
    """Listen and answer."""
    loop = asyncio.get_running_loop()
    replies = Replies()

    def renew() -> None:
        replies.renew()
        loop.call_later(1.0, renew)

    renew()
    return await loop.create_server(lambda: Responder(replies), *listen, backlog=4096)


def main(arguments: list[str] | None = None) -> None:
    """Run the sandbox until a signal."""
    parser = argparse.ArgumentParser(prog="bench.sandbox", description=__doc__)
    parser.add_argument("--listen", type=parse_address, required=True, metavar="HOST:PORT")
    options = parser.parse_args(arguments)

    async def listen() -> Address:
        return bound_address(await start(options.listen))

    serve_until_signal(listen)


if __name__ == "__main__":
    main()
