"""A sandbox of the soak, a process: it says who it is in all that it sends, and misbehaves when asked to.

``python -m tests.adversity.soak_box --name box1 --host 127.0.64.1 --port 8888``; SIGUSR1 closes every
connection that idles, SIGKILL and SIGSTOP do what they do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import uvloop

from tests.adversity.soak_words import (
    END,
    OPCODE_CLOSE,
    PIECE,
    chunk,
    digest,
    event,
    frame,
    pattern,
    read_body,
    read_fields,
    read_frame,
    reset,
)

BREATH = 0.01
"""Seconds between the pieces of what comes slowly."""


class BrokenOffError(Exception):
    """The sandbox has ended the connection, as it was asked to."""


@dataclass
class Call:
    """One request, and the means to answer it."""

    box: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    path: str
    query: dict[str, str]
    fields: dict[str, str]

    @property
    def nonce(self) -> str:
        return self.fields.get("x-nonce", "")

    @property
    def fault(self) -> str:
        return self.fields.get("x-fault", "")

    @property
    def size(self) -> int:
        return int(self.query.get("size", "0"))

    def head(self, *fields: str, status: str = "200 OK") -> bytes:
        lines = [f"HTTP/1.1 {status}", f"X-Box: {self.box}", f"X-Nonce: {self.nonce}", *fields]
        return "\r\n".join([*lines, "", ""]).encode()

    async def send(self, data: bytes) -> None:
        """Send, in small pieces where it shall trickle."""
        if self.fault == "trickle":
            step = max(7, len(data) // 8)
            for start in range(0, len(data), step):
                await self._write(data[start : start + step])
                await asyncio.sleep(BREATH)
            return
        for start in range(0, len(data), PIECE):
            await self._write(data[start : start + PIECE])

    async def _write(self, data: bytes) -> None:
        if self.writer.is_closing():
            raise ConnectionError("the router left")  # before uvloop says so with a RuntimeError
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, body: bytes, *fields: str) -> None:
        """Send a whole answer."""
        if self.fault in {"reset-body", "close-body", "stall-body"}:
            await self.send(self.head(f"Content-Length: {len(body) + 10}") + body)
            await self.break_off()
        excess = b"HTTP/1.1 200 OK\r\nX-Box: nobody\r\n\r\n" if self.fault == "excess" else b""
        await self.send(self.head(f"Content-Length: {len(body)}", *fields) + body + excess)

    async def break_off(self) -> None:
        """End, or leave, what has begun."""
        if self.fault.startswith("stall"):
            await self.until_left()
        elif self.fault.startswith("reset"):
            reset(self.writer)
        raise BrokenOffError

    async def until_left(self) -> None:
        while await self.reader.read(PIECE):
            pass

    async def digest(self) -> tuple[str, int]:
        """Read the body; return its hash and size."""
        seen, size = hashlib.sha256(), 0
        async for piece in read_body(self.reader, self.fields):
            seen.update(piece)
            size += len(piece)
        return seen.hexdigest(), size


async def take(call: Call) -> None:
    """Answer with the hash of the body: a command, or an upload in any framing."""
    if call.fault == "early":
        await call.reply(f"{call.box} {call.nonce} early".encode())
        await call.digest()
        return
    seen, size = await call.digest()
    await call.reply(f"{call.box} {call.nonce} {seen} {size}".encode())


async def download(call: Call) -> None:
    """Send a body in the framing that was asked for."""
    await call.digest()
    body = pattern(call.box, call.nonce, call.size)
    framing = call.query.get("as", "length")
    if framing == "length":
        await call.reply(body)
    elif framing == "close":
        await call.send(call.head("Connection: close") + body)
        raise BrokenOffError
    else:
        await call.send(call.head("Transfer-Encoding: chunked"))
        step = max(1, len(body) // 5)
        for start in range(0, len(body), step):
            piece = chunk(body[start : start + step])
            if call.fault.endswith(("-chunk", "-body")) and start:
                await call.send(piece[: len(piece) // 2])
                await call.break_off()
            await call.send(piece)
        await call.send(b"0\r\nX-Digest: %b\r\n\r\n" % digest(body).encode())


async def events(call: Call) -> None:
    """Send events, a moment between them."""
    await call.digest()
    await call.send(call.head("Content-Type: text/event-stream", "Transfer-Encoding: chunked"))
    for number in range(call.size):
        await asyncio.sleep(BREATH)
        await call.send(chunk(event(call.box, call.nonce, number)))
        if number and call.fault.endswith(("-chunk", "-body")):
            await call.break_off()
    await call.send(b"0\r\n\r\n")


async def echo(call: Call) -> None:
    """Send the body back while it comes."""
    await call.send(call.head("Transfer-Encoding: chunked"))
    async for piece in read_body(call.reader, call.fields):
        await call.send(chunk(piece))
    await call.send(b"0\r\n\r\n")


async def websocket(call: Call) -> None:
    """Echo messages, each with this sandbox's name and the nonce before it."""
    fields = ("Connection: Upgrade", "Upgrade: websocket")
    await call.send(call.head(*fields, status="101 Switching Protocols"))
    while True:
        opcode, payload = await read_frame(call.reader)
        if opcode == OPCODE_CLOSE:
            await call.send(frame(OPCODE_CLOSE, payload, masked=False))
            raise BrokenOffError
        if call.fault:
            await call.break_off()
        await call.send(frame(opcode, f"{call.box} {call.nonce} ".encode() + payload, masked=False))


ROUTES: dict[str, Callable[[Call], Awaitable[None]]] = {
    "/execute": take,
    "/upload": take,
    "/download": download,
    "/events": events,
    "/echo": echo,
    "/ws": websocket,
}


async def misbehave(call: Call) -> None:
    """Do what is wrong before an answer; return where the fault is within it.

    What shall be seen is not followed by a close: with a body unread that would be RST, which overtakes it.
    """
    switch = call.head("Connection: Upgrade", "Upgrade: other", status="101 Switching Protocols")
    early_hints = call.head(status="103 Early Hints")
    endless = {"endless-head": b"X-Line: again\r\n" * 100, "flood-interim": early_hints * 20}
    said = {
        "stall": b"",
        "garbage": os.urandom(400),
        "long-head": call.head(f"X-Long: {'x' * 100_000}"),
        "endless-head": b"HTTP/1.1 200 OK\r\n",
        "flood-interim": early_hints,
        "switch": switch,
        "reset": b"",
        "reset-head": call.head("Content-Length: 2")[:30],
    }
    if call.fault == "interim":
        await call.send(early_hints * 3)
    if call.fault not in said:
        return
    await call.send(said[call.fault])
    while call.fault in endless:
        await call.send(endless[call.fault])
    if call.fault.startswith("reset"):
        reset(call.writer)
    else:
        await call.until_left()
    raise BrokenOffError


class Box:
    """One sandbox."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._idle: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, BrokenOffError):
            while True:
                self._idle.add(writer)
                try:
                    head = await reader.readuntil(END)
                finally:
                    self._idle.discard(writer)
                await self._answer(reader, writer, head)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        url = urlsplit(head.split(b" ", 2)[1].decode())
        call = Call(self.name, reader, writer, url.path, dict(parse_qsl(url.query)), read_fields(head))
        await misbehave(call)
        await ROUTES[url.path](call)

    def hush(self) -> None:
        """Close every connection that idles."""
        for writer in self._idle:
            writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    box = Box(options.name)
    server = await asyncio.start_server(box.serve, options.host, options.port, limit=2**20, backlog=1024)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, box.hush)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
