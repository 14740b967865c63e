"""TLS between a client's TCP connection and the protocol that serves it: docs/tls.md.

The event loop's own TLS transport is not used. It cannot end one half, tells less than it has to send,
waits for the peer's close_notify before it closes, and keeps a certificate for as long as its listener.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

# One read of the socket, ciphertext. All connections share it: what is read is decrypted before anybody else
# reads.
_ROOM: Final = memoryview(bytearray(256 * 1024))

# How much goes into a BIO at once: it keeps the largest size that it ever had while its connection lives.
_PIECE: Final = 32 * 1024

# The longest record (RFC 8446 5.1): one read of the TLS object never gives more.
_RECORD: Final = 16 * 1024

# After a handshake that failed, how much is read and dropped so that the client sees the alert: closing with
# unread bytes makes the kernel send RST. The protocol's own deadline limits the time.
_MAX_DROPPED: Final = 1024 * 1024

# A handshake that the client has begun: in `get_extra_info`, for who waits for what is under way.
HANDSHAKING: Final = "handshaking"

# How much may come without a byte for the protocol, and be answered by TLS itself: a client that asks for new
# keys again and again (RFC 8446 4.6.3) would hold up the loop, and fill the memory with answers.
_MOST_BARREN: Final = 64 * 1024
_MOST_ANSWERED: Final = 4 * 1024

_NOBODY: Final = asyncio.Protocol()


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """A transport to the protocol above, a protocol to the TCP transport below.

    Bytes are encrypted as they are written and decrypted as they come: it has no queues of its own, and
    back-pressure is that of TCP. The protocol is told of the connection before the handshake, so that its
    deadline and the limits of connections hold for handshakes too; what it writes until then waits.

    ``eof_received`` is the peer's close_notify. TCP's end without one is a connection that broke, since
    anybody on the way could have made it (RFC 8446 6.1).
    """

    __slots__ = (
        *("_answered", "_barren", "_begun", "_below", "_buffered", "_closing", "_deaf", "_dropped"),
        *("_end_waits", "_established", "_failed", "_half_open", "_incoming", "_loop"),
        *("_outgoing", "_paused", "_protocol", "_said_end", "_send", "_tls", "_waiting"),
    )

    def __init__(
        self,
        protocol: asyncio.BaseProtocol,
        context: ssl.SSLContext,
        failed: Callable[[ssl.SSLError], None] = lambda _: None,
        send: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve ``protocol``, which gets the plain bytes; tell ``failed`` of a handshake that did.

        ``send`` is called before the connection is cut: what was written may wait in an outbox.
        """
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._failed, self._send = failed, send
        self._below: asyncio.Transport
        self._protocol: asyncio.Protocol
        self._buffered: asyncio.BufferedProtocol | None
        self.set_protocol(protocol)
        self._waiting = b""
        self._begun = self._established = self._paused = self._half_open = False
        self._said_end = self._end_waits = self._closing = False
        self._deaf = False
        """Set when nothing more is passed on: after close_notify, a failure, or the end."""
        self._dropped = self._barren = self._answered = 0

    def __repr__(self) -> str:
        return f"<TlsTransport {self._tls.version() if self._established else 'handshake'}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the TCP transport; the client begins the handshake."""
        self._below = cast(asyncio.Transport, transport)
        self._protocol.connection_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer room for ciphertext."""
        return _ROOM

    def buffer_updated(self, nbytes: int) -> None:
        """Take ciphertext."""
        if self._deaf:
            self._drop(nbytes)
            return
        for start in range(0, nbytes, _PIECE):
            self._take(_ROOM[start : min(start + _PIECE, nbytes)])

    def _take(self, piece: memoryview) -> None:
        if self._deaf or self._closing:  # since the piece before
            return
        self._incoming.write(piece)
        if self._established or self._shake_hands():
            self._barren += len(piece)
            self._answered += self._deliver()
            if self._answered > _MOST_ANSWERED or (self._barren > _MOST_BARREN and not self._paused):
                self.abort()

    def eof_received(self) -> bool:
        """Take TCP's end: nothing new after close_notify, else the connection broke."""
        if not self._deaf:
            self.abort()
        return self._half_open

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end on, and let go of the protocol: the two refer to each other."""
        protocol, self._protocol, self._buffered = self._protocol, _NOBODY, None
        self._deaf = self._closing = True
        self._waiting = b""
        protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on that TCP takes no more."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that TCP has taken what it was given."""
        self._protocol.resume_writing()

    # The transport of the protocol above.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the TLS object, whether a handshake is under way, or what TCP tells."""
        if name == "ssl_object":
            return self._tls
        if name == HANDSHAKING:
            return self._begun and not (self._established or self._deaf)
        return self._below.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes from now on to another protocol, in buffers of its own where it has them."""
        self._protocol = cast(asyncio.Protocol, protocol)
        self._buffered = protocol if isinstance(protocol, asyncio.BufferedProtocol) else None

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol above."""
        return self._protocol

    def is_closing(self) -> bool:
        """Tell whether the transport is closed or closing."""
        return self._closing or self._below.is_closing()

    def is_reading(self) -> bool:
        """Tell whether the protocol wants more."""
        return not (self._paused or self._deaf)

    def pause_reading(self) -> None:
        """Stop reading; what was read already waits in its records."""
        self._paused = True
        if not self.is_closing():
            self._below.pause_reading()

    def resume_reading(self) -> None:
        """Read again: first what waits, in a turn of its own, then the socket."""
        self._paused = False
        if self._unread():
            self._loop.call_soon(self._go_on)
        elif not self.is_closing():
            self._below.resume_reading()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; before the end of the handshake, keep."""
        self.writelines((data,))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Encrypt and send several pieces with one system call."""
        if self._said_end or self.is_closing():
            return
        if not self._established:
            self._waiting += b"".join(list_of_data)
            return
        sealed: list[bytes] = []
        try:
            for data in list_of_data:
                self._encrypt(data, sealed)
        except ssl.SSLError:
            self.abort()
        if not self.is_closing():
            self._below.writelines(sealed)

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that TCP has not taken, and those that wait for the handshake."""
        return self._below.get_write_buffer_size() + len(self._waiting)

    def can_write_eof(self) -> bool:
        """Tell that one half can be ended."""
        return True

    def write_eof(self) -> None:
        """End the half that is written: close_notify, and TCP's end with it."""
        if self._said_end or self.is_closing():
            return
        if not self._established:
            self._end_waits = True
            return
        self._say_end()
        self._below.write_eof()

    def close(self) -> None:
        """Close after what was written and close_notify were sent; the peer's is not waited for.

        RFC 8446 6.1 asks for no more, and clients that keep connections may not look for hours.
        """
        if not self.is_closing():
            self._say_end()
            self._closing = True
            self._below.close()

    def abort(self) -> None:
        """Close without close_notify, and without what is not yet sent: the peer sees that it broke."""
        self._send()
        self._closing = True
        self._below.abort()

    def _shake_hands(self) -> bool:
        """Go on with the handshake; return whether it is done."""
        self._begun = True
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._refuse(error)
            return False
        self._established = True
        self._flush()
        waiting, self._waiting = self._waiting, b""
        if waiting:
            self.write(waiting)
        if self._end_waits:
            self.write_eof()
        return True

    def _refuse(self, error: ssl.SSLError) -> None:
        """Send the alert, and leave the rest to the client or to the protocol's deadline."""
        self._deaf = self._said_end = True
        self._waiting = b""
        self._flush()
        if not self.is_closing():
            self._below.write_eof()
        self._failed(error)

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > _MAX_DROPPED:
            self.abort()

    def _unread(self) -> bool:
        return not self._deaf and (self._incoming.pending > 0 or self._tls.pending() > 0)

    def _go_on(self) -> None:
        """Pass on what waited while reading was paused."""
        if self._established:
            self._deliver()
        if not self._paused and not self.is_closing():
            self._below.resume_reading()

    def _deliver(self) -> int:
        """Decrypt and pass on, until the protocol has enough; return how much TLS itself has to answer."""
        more = True
        while more and not (self._paused or self._closing) and self._unread():
            try:
                more = self._fill(self._buffered) if self._buffered else self._pass()
            except ssl.SSLError:  # no record of this connection: somebody changed it on its way
                self.abort()
                return 0
        answered = self._outgoing.pending  # to the peer's updates of keys
        self._flush()
        return answered

    def _pass(self) -> bool:
        """Pass one record on; return whether there may be more."""
        try:
            data = self._tls.read(_RECORD)
        except ssl.SSLWantReadError:
            return False
        if data:
            self._barren = 0
            self._protocol.data_received(data)
        else:
            self._end()
        return True

    def _fill(self, protocol: asyncio.BufferedProtocol) -> bool:
        """Fill the protocol's buffer; return whether there may be more."""
        room = cast(memoryview, protocol.get_buffer(-1))
        filled = 0
        some = 1
        more = True
        try:
            while some and filled < len(room) and self._unread():
                some = self._tls.read(len(room) - filled, room[filled:])  # type: ignore[assignment]
                filled += some
        except ssl.SSLWantReadError:
            more = False
        if filled:
            self._barren = 0
            protocol.buffer_updated(filled)
        if not some:
            self._end()
        return more

    def _end(self) -> None:
        """Pass the peer's close_notify on; close, unless the protocol has more to say."""
        self._deaf = True
        self._half_open = bool(self._protocol.eof_received())
        if not self._half_open:
            self.close()

    def _say_end(self) -> None:
        """Write close_notify, once."""
        if not self._established or self._said_end:
            return
        self._said_end = True
        # OpenSSL looks for the peer's close_notify at once, and loses what it finds instead: hide it.
        unread = self._incoming.read()
        # It is written then; that the peer's own has not come is what the error says.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._incoming.write(unread)
        self._flush()

    def _encrypt(self, data: bytes | bytearray | memoryview, sealed: list[bytes]) -> None:
        """Add the ciphertext of some bytes to ``sealed``, a piece at a time: see ``buffer_updated``."""
        rest = memoryview(data)
        done = 0
        while done < len(rest):
            done += self._tls.write(rest[done : done + _PIECE])
            sealed.append(self._outgoing.read())

    def _flush(self) -> None:
        if self._outgoing.pending and not self.is_closing():
            self._below.write(self._outgoing.read())
