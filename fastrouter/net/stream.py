"""Two ways between httpcore streams and asyncio transports, one for each direction."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from typing import Any, Final, cast

import httpcore

_READ_SIZE: Final = 64 * 1024
_HIGH_WATER: Final = 64 * 1024


class TransportStream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """An httpcore stream over an asyncio transport.

    The router dials one and takes the transport away with ``hand_over``; httpcore's own client reads and
    writes it as it is.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made
        self._received: deque[bytes] = deque()
        self._event = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._ended = False
        self._error: Exception | None = None
        self.resolved = 0.0
        """When the name was known that it was dialled by, monotonic seconds; 0: an address was given."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Keep bytes for the reader, and stop reading until it has taken them."""
        self._received.append(data)
        self._transport.pause_reading()
        self._event.set()

    def eof_received(self) -> None:
        """Note the end."""
        self._ended = True
        self._event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end and its reason."""
        self._ended = True
        self._error = exc
        self._event.set()
        self._drained.set()

    def pause_writing(self) -> None:
        """Make writers wait."""
        self._drained.clear()

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._drained.set()

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Let ``protocol`` have the transport, with all that came so far."""
        transport = self._transport
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        for data in self._received:
            protocol.data_received(data)
        if self._ended:
            protocol.eof_received()
            protocol.connection_lost(self._error)
        elif self._received:
            transport.resume_reading()
        self._received.clear()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return up to ``max_bytes``, nothing at the end; raise ``httpcore.ReadError`` or ``ReadTimeout``."""
        try:
            async with asyncio.timeout(timeout):
                while not self._received and not self._ended:
                    self._event.clear()
                    await self._event.wait()
        except TimeoutError as error:
            raise httpcore.ReadTimeout(f"nothing to read in {timeout} s") from error
        if not self._received:
            if self._error is not None:
                raise httpcore.ReadError(str(self._error)) from self._error
            return b""
        data = self._received.popleft()
        if len(data) > max_bytes:
            self._received.appendleft(data[max_bytes:])
        elif not self._received and not self._transport.is_closing():
            self._transport.resume_reading()
        return data[:max_bytes]

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes, waiting for room; raise ``httpcore.WriteError`` or ``WriteTimeout``."""
        if self._transport.is_closing():
            raise httpcore.WriteError("the connection is closed") from self._error
        self._transport.write(buffer)
        try:
            async with asyncio.timeout(timeout):
                await self._drained.wait()
        except TimeoutError as error:
            raise httpcore.WriteTimeout(f"nothing taken in {timeout} s") from error

    async def aclose(self) -> None:
        """Close the connection."""
        self._transport.close()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> TransportStream:
        """Return a stream of the same connection under TLS; raise ``httpcore.ConnectError``."""
        loop = asyncio.get_running_loop()
        stream = TransportStream()
        try:
            async with asyncio.timeout(timeout):
                transport = await loop.start_tls(
                    self._transport, stream, ssl_context, server_hostname=server_hostname
                )
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no TLS in {timeout} s") from error
        except (OSError, ssl.SSLError) as error:
            raise httpcore.ConnectError(str(error)) from error
        stream.connection_made(cast(asyncio.Transport, transport))
        return stream

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks by its own names, or asyncio's."""
        if info == "is_readable":
            return bool(self._received) or self._ended
        if info == "resolved":
            return self.resolved
        if info in {"client_addr", "server_addr"}:
            return self._transport.get_extra_info("sockname" if info == "client_addr" else "peername")
        return self._transport.get_extra_info(info)


class StreamTransport(asyncio.Transport):
    """An asyncio transport over any httpcore stream: two tasks, one per direction.

    For backends that bring no transport of their own: mocks, other stacks. Slower than a real transport, the
    same to the protocol above.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._stream = stream
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._outgoing: deque[bytes] = deque()
        self._unsent = 0
        self._writing_paused = False
        self._sending = False
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._may_write = asyncio.Event()
        self._closing = False
        self._lost_told = False
        protocol.connection_made(self)
        self._reader = self._loop.create_task(self._read())
        self._writer = self._loop.create_task(self._write())

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop (asyncio transports have it, their base class does not say so)."""
        return self._loop

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the stream tells, under httpcore's name for the peer."""
        value = self._stream.get_extra_info("server_addr" if name == "peername" else name)
        return default if value is None else value

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes from now on to another protocol."""
        self._protocol = cast(asyncio.Protocol, protocol)

    def is_closing(self) -> bool:
        """Tell whether the transport is closed or closing."""
        return self._closing

    def pause_reading(self) -> None:
        """Stop reading after the piece that is under way."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Read again."""
        self._may_read.set()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes for the writer; pause the protocol above 64 KiB."""
        if self._closing:
            return
        self._outgoing.append(bytes(data))
        self._unsent += len(data)
        self._may_write.set()
        if self._unsent > _HIGH_WATER and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that wait for the stream."""
        return self._unsent

    def can_write_eof(self) -> bool:
        """Tell that one half cannot be ended: httpcore's streams do not have that."""
        return False

    def close(self) -> None:
        """Close after what is queued was sent."""
        if not self._closing:
            self._closing = True
            self._may_write.set()

    def abort(self) -> None:
        """Close without sending what is queued."""
        self._outgoing.clear()
        self.close()
        if self._sending:
            self._writer.cancel()  # it may wait for a peer that takes nothing

    async def _read(self) -> None:
        try:
            while not self._closing:
                await self._may_read.wait()
                data = await self._stream.read(_READ_SIZE)
                if self.is_closing():
                    break
                if not data:
                    self._protocol.eof_received()
                    self.close()
                    break
                self._protocol.data_received(data)
        except Exception as error:  # noqa: BLE001 - whatever a foreign stream raises, the protocol is told
            self._lost(error)

    async def _write(self) -> None:
        error: Exception | None = None
        try:
            while self._outgoing or not self._closing:
                if not self._outgoing:
                    self._may_write.clear()
                    await self._may_write.wait()
                    continue
                data = self._outgoing.popleft()
                self._sending = True
                await self._stream.write(data)
                self._sending = False
                self._sent(len(data))
        except Exception as failure:  # noqa: BLE001 - as in `_read`
            error = failure
        finally:
            self._lost(error)
            with contextlib.suppress(Exception):
                await self._stream.aclose()

    def _sent(self, size: int) -> None:
        self._unsent -= size
        if self._writing_paused and self._unsent <= _HIGH_WATER // 4:
            self._writing_paused = False
            self._protocol.resume_writing()

    def _lost(self, error: Exception | None) -> None:
        """Tell the protocol once that the connection is gone, and end both tasks."""
        self._closing = True
        self._may_write.set()
        if self._lost_told:
            return
        self._lost_told = True
        self._protocol.connection_lost(error)
        if self._reader is not asyncio.current_task():
            self._reader.cancel()
