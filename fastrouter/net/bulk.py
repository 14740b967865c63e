"""Long bodies of known length: read into one buffer, written on from there (docs/decisions/0011).

The usual way makes a bytes object of every piece, an allocation and a copy, and reads 256,000 bytes at most.
Here the kernel fills one buffer that holds what a socket has, and empties it again while it is in the cache.
"""

from __future__ import annotations

import asyncio
import mmap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastrouter.net.connection import Connection
    from fastrouter.net.splice import Pipe
    from fastrouter.wire.framing import LengthBody

# More than a socket usually holds: a read that fills the buffer is followed by one that finds nothing.
SIZE: Final = 1024 * 1024

# A body whose rest is shorter comes in one piece the usual way, and is not worth the change.
WORTH_IT: Final = 256 * 1024

# A receiver that is slower than its sender keeps the buffer until it has taken all. Only so many may; for
# others there is less room meanwhile, and what they keep is theirs alone.
_MOST_GIVEN: Final = 16
_LITTLE: Final = 64 * 1024


class Buffer:
    """The one buffer of a process: what is read into it is written on before anybody else reads."""

    __slots__ = ("_holders", "view")

    def __init__(self) -> None:
        self._holders: list[tuple[asyncio.Transport, memoryview]] = []
        self.view = _room()

    def __repr__(self) -> str:
        return f"<Buffer held by {len(self._holders)}>"

    @property
    def lent_out(self) -> bool:
        """True while too many transports still have to send from buffers that were given away."""
        if len(self._holders) >= _MOST_GIVEN:
            self._holders = [one for one in self._holders if one[0].get_write_buffer_size()]
        return len(self._holders) >= _MOST_GIVEN

    def room(self, most: int) -> memoryview:
        """Return room for ``most`` bytes or fewer."""
        view = memoryview(bytearray(_LITTLE)) if self.lent_out else self.view
        return view if most >= len(view) else view[:most]

    def give_away(self, holder: asyncio.Transport) -> None:
        """Leave what was read to a transport that still has to send it, and take another buffer."""
        if not self.lent_out:
            self._holders.append((holder, self.view))
            self.view = self._returned() or _room()

    def _returned(self) -> memoryview | None:
        """Return a buffer whose holder has sent all of it: new memory costs more than the copy it saves."""
        for place, (holder, view) in enumerate(self._holders):
            if not holder.get_write_buffer_size():
                del self._holders[place]
                return view
        return None


def _room() -> memoryview:
    # Aligned to pages: measured against a bytearray, the kernel copies a tenth faster.
    return memoryview(mmap.mmap(-1, SIZE))


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
        """Tell whether a body is long enough."""
        return body.remaining > WORTH_IT

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer room for the rest of the body, and for nothing behind it."""
        self._view = _BUFFER.room(self._body.remaining)
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Write on what was read."""
        self._source.moved = True
        self._body.skip(nbytes)
        transport = self._sink.transport
        if not transport.is_closing():
            transport.write(self._view[:nbytes])
            if transport.get_write_buffer_size():
                _BUFFER.give_away(transport)
        if self._body.done:
            self._pipe.finish()

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
