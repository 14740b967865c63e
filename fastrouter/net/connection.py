"""What both sides of an exchange have in common: bytes in, bytes out, flow control."""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import struct
import termios
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from fastrouter.net.outbox import Outbox
    from fastrouter.net.splice import Pipe

# How many unread bytes a connection holds for a reader that is busy elsewhere (a dial, the request before)
# until it stops reading. One more read of the event loop (256 KiB) may come on top.
MAX_UNREAD: Final = 64 * 1024

# Up to this many bytes, copying a body behind its head is cheaper than a second buffer in the same writev.
_WORTH_JOINING: Final = 16 * 1024

# From here on, sending at once is cheaper than waiting: what was read is still in the processor's cache.
_WORTH_WAITING: Final = 4 * 1024

# struct linger: on, zero seconds.
_RESET: Final = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """One TCP connection. Bytes go to its pipe while it has one, else into ``buffer``.

    ``source`` is the connection whose bytes are written here: it stops reading while this side's write
    buffer is over the high-water mark. ``moved`` is set by every byte and cleared by the sweep of deadlines:
    a flag is all that the hot path pays for inactivity timeouts.
    """

    __slots__ = (
        "_unsent",
        "buffer",
        "half_open",
        "loop",
        "moved",
        "outbox",
        "pipe",
        "reading_paused",
        "source",
        "transport",
        "waiter",
        "writing_paused",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        self.loop = loop
        self.outbox = outbox
        """Where the posts of all connections wait; whatever writes at once or ends one sends them first."""
        self.waiter: asyncio.Future[None] | None = None
        """Where a task waits. An exchange that began without the task has both of its connections wake it."""
        self._unsent = 0
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made
        self.buffer = b""
        self.pipe: Pipe | None = None
        self.source: Connection | None = None
        self.moved = False
        self.half_open = False
        """Set for tunnels: the end of one direction leaves the other one open."""
        self.reading_paused = False
        self.writing_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the pipe, or keep them and wake the reader."""
        self.moved = True
        if self.pipe is not None:
            self.pipe.feed(data)
            return
        self.buffer = self.buffer + data if self.buffer else data
        if self.waiter is not None:
            self.wake()
        if len(self.buffer) > MAX_UNREAD:
            # Also while a reader waits: the event loop would read on, up to 32 times, before the reader gets
            # its turn, and each piece would be copied together with those before it.
            self.pause_reading()

    def wake(self) -> None:
        """Let the task that waits for this connection look again."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def changed(self) -> asyncio.Future[None]:
        """Return what to await until bytes came, a pipe ended, or the connection failed.

        A future, not a coroutine: this is awaited twice per request. One task waits at a time.
        """
        self.waiter = waiter = self.loop.create_future()
        return waiter

    def write(self, data: bytes) -> None:
        """Send bytes; what the peer does not take is kept, and the source paused.

        To a connection that is gone already, nothing: uvloop raises, and who has to know is told otherwise.
        """
        self.outbox.send()
        if not self.transport.is_closing():
            self.transport.write(data)

    def post(self, head: bytes, body: bytes = b"") -> None:
        """Send bytes at the end of this turn, together with what others post; long ones now."""
        if len(head) + len(body) < _WORTH_WAITING:
            self.outbox.put(self.transport, head + body)
        else:
            self.write_both(head, body)

    def write_both(self, head: bytes, body: bytes) -> None:
        """Send two pieces with one system call: joined where copying costs less than a second buffer."""
        if len(body) < _WORTH_JOINING:
            self.write(head + body)
            return
        self.outbox.send()
        if not self.transport.is_closing():
            self.transport.writelines((head, body))

    def read_with(self, protocol: asyncio.BaseProtocol) -> None:
        """Let ``protocol`` take what comes from now on; the connection itself takes it back."""
        transport = self.transport
        if transport.is_closing():
            return
        transport.pause_reading()  # uvloop chooses the way of reading when it starts to
        transport.set_protocol(protocol)
        if not self.reading_paused:
            transport.resume_reading()

    def pause_reading(self) -> None:
        """Stop reading: TCP makes the peer wait."""
        if not self.reading_paused and not self.transport.is_closing():
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again, if it was paused."""
        if self.reading_paused and not self.transport.is_closing():
            self.reading_paused = False
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        """Note that the write buffer is over its high-water mark."""
        self.writing_paused = True
        if self.source is not None:
            self.source.pause_reading()

    def resume_writing(self) -> None:
        """Note that the write buffer has drained."""
        self.writing_paused = False
        if self.source is not None:
            self.source.resume_reading()

    def has_moved(self) -> bool:
        """Tell whether bytes came, or a slow peer took some, since the last call."""
        moved, self.moved = self.moved, False
        if self.writing_paused or self.transport.is_closing():
            # A slow peer takes long to drain the buffers to the low-water mark: ask what it has acknowledged.
            unsent = self.transport.get_write_buffer_size() + _unacknowledged(self.transport)
            moved = moved or unsent != self._unsent
            self._unsent = unsent
        return moved

    def has_left(self) -> bool:
        """Tell whether the peer closed while reading is paused: the event loop does not look then."""
        sock = self.transport.get_extra_info("socket")
        if not self.reading_paused or sock is None:
            return False
        return readable([sock], select.POLLRDHUP)

    def write_eof(self) -> None:
        """End the half that is written, where that can be done: after what was written."""
        self.outbox.send()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def close(self) -> None:
        """Close after what was written."""
        self.outbox.send()
        self.transport.close()

    def abort(self) -> None:
        """Close at once, without sending what is buffered; what waits in the outbox was written before."""
        self.outbox.send()
        self.transport.abort()

    def reset(self) -> None:
        """Close at once with RST: the peer sees truncation, never a clean end.

        The FIN of a plain close would be the clean end of a body that ends with its connection.
        """
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.abort()


def readable(sockets: Iterable[socket.socket], events: int = select.POLLIN) -> bool:
    """Tell whether the kernel holds something for one of these sockets: a connection, bytes, or an end."""
    poll = select.poll()
    for each in sockets:
        if each.fileno() >= 0:
            poll.register(each.fileno(), events)  # POLLHUP and POLLERR are told always
    return bool(poll.poll(0))


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Return the number of bytes in the socket's send queue (SIOCOUTQ, which is TIOCOUTQ: tcp(7))."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:  # no socket, or closed in this turn of the event loop
        return 0
    size: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    return size
