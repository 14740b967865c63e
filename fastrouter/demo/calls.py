"""One request to an embedded sandbox and its reply, over h11 on asyncio streams."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl

import h11

Framing = Literal["length", "chunked", "close"]
Pairs = list[tuple[bytes, bytes]]

LONGEST_HEAD = 256 * 1024
READ_SIZE = 256 * 1024


@dataclass
class Seen:
    """What the sandbox saw of one request; the body values grow while the body arrives."""

    method: str
    target: str
    http_version: str
    headers: Pairs
    trailers: Pairs = field(default_factory=list)
    body_length: int = 0
    complete: bool = False
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)

    @property
    def body_sha256(self) -> str:
        """Digest of the body bytes that have arrived."""
        return self.digest.hexdigest()

    def values(self, name: str) -> list[bytes]:
        """Return the values of every header field of that name, in order."""
        wanted = name.lower().encode()
        return [value for key, value in self.headers if key.lower() == wanted]


@dataclass
class Reply:
    """What an endpoint answers; `length` is needed with framing "length" and a streamed body."""

    status: int
    body: bytes | AsyncGenerator[bytes, None]
    content_type: str = "application/json"
    framing: Framing = "length"
    length: int | None = None
    trailers: Pairs = field(default_factory=list)


def json_reply(status: int, value: object) -> Reply:
    """Return a reply with a JSON body."""
    return Reply(status, json.dumps(value).encode())


class Wire:
    """An h11 server connection over a pair of streams."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, notify: Callable[[], None]
    ) -> None:
        """Keep the streams of one accepted connection, and whom to tell of each event."""
        self.machine = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
        self._reader = reader
        self._writer = writer
        self._notify = notify

    async def event(self) -> object:
        """Return the next event of the peer, reading as long as h11 needs more."""
        while (event := self.machine.next_event()) is h11.NEED_DATA:
            self.machine.receive_data(await self._reader.read(READ_SIZE))
        self._notify()
        return event

    async def send(self, *events: h11.Event) -> None:
        """Send events in one write; waits while the peer does not read."""
        await self.send_raw(b"".join([self.machine.send(event) or b"" for event in events]))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes past h11; waits while the peer does not read."""
        self._writer.write(data)
        await self._writer.drain()

    async def pause(self, seconds: float) -> None:
        """Let time pass; ConnectionResetError as soon as the peer has gone."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    data = await self._reader.read(READ_SIZE)
            except TimeoutError:
                return
            # Also a half-closed peer counts as gone: only by its end of stream is a leaving one noticed.
            if not data:
                raise ConnectionResetError
            self.machine.receive_data(data)

    def abort(self) -> None:
        """Drop the connection, so that a reply that was cut short cannot look whole."""
        self._writer.transport.abort()


class Call:
    """One request as an endpoint sees it."""

    def __init__(self, wire: Wire, request: h11.Request) -> None:
        """Take the parts of a request apart."""
        self._wire = wire
        self.seen = Seen(
            method=request.method.decode("ascii"),
            target=request.target.decode("latin-1"),
            http_version=request.http_version.decode("ascii"),
            headers=list(request.headers.raw_items()),
        )
        self.path, _, query = self.seen.target.partition("?")
        self.query = dict(parse_qsl(query, keep_blank_values=True))
        self.pause = wire.pause

    @property
    def method(self) -> str:
        """The method as it came."""
        return self.seen.method

    @property
    def chunked(self) -> bool:
        """Whether the body came chunked."""
        return bool(self.seen.values("transfer-encoding"))

    @property
    def length(self) -> int:
        """The declared length of the body; 0 without one."""
        return int((self.seen.values("content-length") or [b"0"])[0])

    def header(self, name: str, default: str) -> str:
        """Return the first value of a header field."""
        values = self.seen.values(name)
        return values[0].decode("latin-1") if values else default

    async def ask_for_body(self) -> None:
        """Send 100 Continue where the client waits for it."""
        if self._wire.machine.they_are_waiting_for_100_continue:
            await self._wire.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Yield what is left of the body, piece by piece."""
        await self.ask_for_body()
        while not self.seen.complete:
            event = await self._wire.event()
            if isinstance(event, h11.EndOfMessage):
                self.seen.trailers.extend(event.headers.raw_items())
                self.seen.complete = True
            elif isinstance(event, h11.Data):
                piece = bytes(event.data)
                self.seen.digest.update(piece)
                self.seen.body_length += len(piece)
                yield piece

    async def read(self, limit: int) -> bytes | None:
        """Return the whole body; None where it is over the limit."""
        if self.length > limit:
            return None
        data = bytearray()
        async for piece in self.body():
            data += piece
            if len(data) > limit:
                return None
        return bytes(data)
