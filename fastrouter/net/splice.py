"""Bodies from one connection to the other, with back-pressure."""

from __future__ import annotations

from collections.abc import Callable

from fastrouter.errors import MalformedMessageError
from fastrouter.net.bulk import Bulk
from fastrouter.net.connection import Connection
from fastrouter.wire.framing import Body, LengthBody


class Pipe:
    """One body on its way: ``source`` -> meter -> ``sink``. Holds no bytes of its own.

    ``on_end`` is called once when the body is complete, ``on_error`` once when its bytes are no body or its
    sender closed too early. Two pipes, one per direction, make an exchange full duplex.
    """

    __slots__ = ("_bulk", "_ended", "_on_end", "_on_error", "body", "sink", "source")

    def __init__(
        self,
        source: Connection,
        sink: Connection,
        body: Body,
        on_end: Callable[[], None],
        on_error: Callable[[MalformedMessageError], None],
    ) -> None:
        self.source = source
        self.sink = sink
        self.body = body
        self._on_end = on_end
        self._on_error = on_error
        self._ended = False
        self._bulk = False

    def __repr__(self) -> str:
        return f"<Pipe {type(self.body).__name__} total={self.body.total} done={self.body.done}>"

    def attach(self, head: bytes = b"") -> None:
        """Send ``head``, and take over the source's bytes: those it holds, then those that come."""
        held, self.source.buffer = self.source.buffer, b""
        self.source.pipe = self
        self.sink.source = self.source
        if head:
            self._pass(held, head)
        elif held or self.body.backlog:
            self.feed(held)
        if self.source.pipe is self and isinstance(self.body, LengthBody) and Bulk.fits(self.body):
            self._bulk = True
            self.source.read_with(Bulk(self, self.body))
        if self.source.pipe is self and not self.body.backlog:
            if self.sink.writing_paused:
                self.source.pause_reading()
            else:
                self.source.resume_reading()

    def feed(self, data: bytes) -> None:
        """Send on what belongs to the body; give back what came behind it."""
        self._pass(data, b"")

    def _pass(self, data: bytes, head: bytes) -> None:
        if self.source.pipe is not self:
            return  # a continuation that outlived its exchange
        body = self.body
        try:
            out = body.feed(data)
        except MalformedMessageError as error:
            if head:
                self.sink.write(head)
            self.detach()
            self._on_error(error)
            return
        if head:
            self.sink.write_both(head, out)
        elif out:
            self.sink.post(out)
        if body.done:
            self.finish()
        elif body.backlog:
            # Others get their turn before the rest of a piece made of very many chunks.
            self.source.pause_reading()
            self.source.loop.call_soon(self._continue)

    def eof(self) -> None:
        """Note that the source has closed its side."""
        self._ended = True
        if self.body.backlog:
            return  # what came before the end is not yet read: ``_continue`` comes back
        try:
            self.body.eof()
        except MalformedMessageError as error:
            self.detach()
            self._on_error(error)
        else:
            self.finish()

    def detach(self) -> None:
        """Let go of both connections; bytes go to the source's buffer again."""
        self.leave_bulk()
        if self.source.pipe is self:
            self.source.pipe = None
        if self.sink.source is self.source:
            self.sink.source = None

    def leave_bulk(self) -> None:
        """Read the usual way again."""
        if self._bulk:
            self._bulk = False
            self.source.read_with(self.source)

    def finish(self) -> None:
        """Let go of both connections, and tell that the body is complete."""
        self.detach()
        self.source.buffer = self.body.excess
        self._on_end()

    def _continue(self) -> None:
        self.feed(b"")
        if self.source.pipe is not self or self.body.backlog:
            return
        if self._ended:
            self.eof()
        elif not self.sink.writing_paused:
            self.source.resume_reading()
