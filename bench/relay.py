"""A raw TCP relay on uvloop: no HTTP at all, so the most that any Python proxy can reach.

``python -m bench.relay --listen 127.0.0.1:PORT --upstream 127.0.0.1:PORT``
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

from bench.serving import Address, bound_address, parse_address, serve_until_signal


class Side(asyncio.Protocol):
    """One of the two connections of a pair; its bytes go to the other one."""

    transport: asyncio.Transport

    def __init__(self, peer: Side | None = None) -> None:
        self.peer = peer
        self.early: list[bytes] = []
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand the bytes over as they are."""
        if self.peer is None:
            # uvloop starts to read after connection_made whatever that said, so the pause is asked for here.
            self.early.append(data)
            self.transport.pause_reading()
        else:
            self.peer.transport.write(data)

    def pause_writing(self) -> None:
        """Stop reading from the other side while this one cannot take more."""
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from the other side again."""
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def eof_received(self) -> bool:
        """Pass a half-close on; the second one ends the pair."""
        self.ended = True
        if self.peer is not None:
            if self.peer.ended:
                self.peer.transport.close()
                return False
            if not self.peer.transport.is_closing():
                self.peer.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other side once it has written what it still holds."""
        if self.peer is not None:
            self.peer.transport.close()


class Downstream(Side):
    """The connection that the relay accepted; it opens the upstream one."""

    def __init__(self, upstream: Address) -> None:
        super().__init__()
        self.upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Dial the other side."""
        super().connection_made(transport)
        self.dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        side = Side(self)
        try:
            await asyncio.get_running_loop().create_connection(lambda: side, *self.upstream)
        except OSError:
            self.transport.abort()
            return
        if self.transport.is_closing():
            side.transport.close()
        else:
            self._join(side)

    def _join(self, side: Side) -> None:
        self.peer = side
        side.transport.writelines(self.early)
        self.early.clear()
        if self.ended:
            side.transport.write_eof()
        else:
            self.transport.resume_reading()


async def start(listen: Address, upstream: Address) -> asyncio.Server:
    """Listen, and relay every connection to ``upstream``."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Downstream(upstream), *listen, backlog=4096)


def main(arguments: list[str] | None = None) -> None:
    """Run the relay until a signal."""
    parser = argparse.ArgumentParser(prog="bench.relay", description=__doc__)
    parser.add_argument("--listen", type=parse_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--upstream", type=parse_address, required=True, metavar="HOST:PORT")
    options = parser.parse_args(arguments)

    async def listen() -> Address:
        return bound_address(await start(options.listen, options.upstream))

    serve_until_signal(listen)


if __name__ == "__main__":
    main()
