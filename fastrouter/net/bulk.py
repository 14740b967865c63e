"""Long bodies of known length: read into one buffer, written on from there (docs/decisions/0011).

The usual way makes a bytes object of every piece, an allocation and a copy, and reads 256,000 bytes at most.
Here the kernel fills one buffer that holds what a socket has, and empties it again while it is in the cache.
"""

from __future__ import annotations

import asyncio
import mmap
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from fastrouter.net.connection import Connection
    from fastrouter.net.splice import Pipe
    from fastrouter.wire.framing import LengthBody

# More than a socket usually holds: a read that fills the buffer is followed by one that finds nothing.
SIZE: Final = 1024 * 1024

# A body whose rest is shorter comes in one piece the usual way, and is not worth the change.
WORTH_IT: Final = 256 * 1024

# A receiver that is slower than its sender keeps the buffer until it has taken all. Only so many may; other
# bodies move the usual way meanwhile. A piece that is shorter than the second number is copied.
_MOST_GIVEN: Final = 16
_LITTLE: Final = 64 * 1024


class Held(NamedTuple):
    """A buffer that was given away, and how much of it has to be sent."""

    holder: asyncio.Transport
    view: memoryview
    size: int


class Buffer:
    """The one buffer of a process: what is read into it is written on before anybody else reads."""

    __slots__ = ("_held", "view")

    def __init__(self) -> None:
        self._held: list[Held] = []
        self.view = _room()

    def __repr__(self) -> str:
        return f"<Buffer, {len(self._held)} given away>"

    @property
    def lent_out(self) -> bool:
        """True while too many buffers that were given away are still to be sent."""
        if len(self._held) >= _MOST_GIVEN:
            self._held = [each for place, each in enumerate(self._held) if not self._is_sent(place)]
        return len(self._held) >= _MOST_GIVEN

    def room(self, most: int) -> memoryview:
        """Return room for ``most`` bytes or fewer."""
        view = memoryview(bytearray(_LITTLE)) if self.lent_out else self.view
        return view if most >= len(view) else view[:most]

    def give_away(self, holder: asyncio.Transport, size: int) -> None:
        """Leave ``size`` bytes that were read to a transport that has to send them; take another buffer."""
        if not self.lent_out:
            self._held.append(Held(holder, self.view, size))
            self.view = self._returned() or _room()

    def _returned(self) -> memoryview | None:
        """Return a buffer that was sent: new memory costs more than the copy it saves."""
        for place, each in enumerate(self._held):
            if self._is_sent(place):
                del self._held[place]
                return each.view
        return None

    def _is_sent(self, place: int) -> bool:
        """Tell whether all that is unsent fits into what the holder was given later: it sends in order."""
        holder = self._held[place].holder
        later = sum(each.size for each in self._held[place + 1 :] if each.holder is holder)
        return holder.get_write_buffer_size() <= later


def _room() -> memoryview:
    # Aligned to pages: measured against a bytearray, the kernel copies a tenth faster.
    return memoryview(mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


_BUFFER: Final = Buffer()


class Bulk(asyncio.BufferedProtocol):
    """Takes the place of a connection as its transport's protocol while a pipe moves a long body."""

    __slots__ = ("_body", "_pipe", "_sink", "_source", "_view")

    def __init__(self, pipe: Pipe, body: LengthBody) -> None:
        self._pipe = pipe
        self._body = body
        self._source: Connection = pipe.source
        self._sink: Connection = pipe.sink
        self._view: memoryview

    @staticmethod
    def fits(body: LengthBody) -> bool:
        """Tell whether a body is long enough, and a buffer to be had."""
        return body.remaining > WORTH_IT and not _BUFFER.lent_out

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer room for the rest of the body, and for nothing behind it."""
        self._view = _BUFFER.room(self._body.remaining)
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Write on what was read."""
        self._source.moved = True
        self._body.skip(nbytes)
        self._sink.outbox.send()  # the head, if it waits there still
        transport = self._sink.transport
        if transport.is_closing():
            pass  # who has to know is told otherwise
        elif nbytes < _LITTLE:
            transport.write(bytes(self._view[:nbytes]))
        else:
            transport.write(self._view[:nbytes])
            if transport.get_write_buffer_size():
                _BUFFER.give_away(transport, nbytes)
        if self._body.done:
            self._pipe.finish()
        elif _BUFFER.lent_out:
            self._pipe.leave_bulk()

    def data_received(self, data: bytes) -> None:
        """Leave it to the connection: some transports know no buffers."""
        self._source.data_received(data)

    def eof_received(self) -> bool | None:
        """Leave it to the connection."""
        return self._source.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave it to the connection."""
        self._source.connection_lost(exc)

    def pause_writing(self) -> None:
        """Leave it to the connection."""
        self._source.pause_writing()

    def resume_writing(self) -> None:
        """Leave it to the connection."""
        self._source.resume_writing()
