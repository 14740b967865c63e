"""A raw relay with as many upstream connections as there are sandboxes: what fan-out alone costs.

A plain relay has one upstream connection per client, warm in the processor's cache, whatever the number of
sandboxes. This one sends each piece that a client sends on the connection that has rested longest, to the
next sandbox, and the answer back: no HTTP, but the same sockets as a router. It needs clients that wait for
their answer, and messages and answers that come in one piece.

``python -m bench.fanout --listen 127.0.0.1:PORT --upstream PORT --sandboxes COUNT``
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from typing import cast

from bench.dns import sandbox_address
from bench.serving import Address, bound_address, parse_address, serve_until_signal

AT_ONCE = 100


class Upstream(asyncio.Protocol):
    """One connection to a sandbox."""

    transport: asyncio.Transport

    def __init__(self, free: deque[Upstream]) -> None:
        self.free = free
        self.client: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be there for a client."""
        self.transport = cast(asyncio.Transport, transport)
        self.free.append(self)

    def data_received(self, data: bytes) -> None:
        """Hand an answer back."""
        client, self.client = self.client, None
        if client is not None:
            self.free.append(self)
            if not client.is_closing():  # it may have left at the end of a round
                client.write(data)


class Downstream(asyncio.Protocol):
    """One client."""

    transport: asyncio.Transport

    def __init__(self, free: deque[Upstream]) -> None:
        self.free = free

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Send a request on the connection that has rested longest; there are more of them than clients."""
        upstream = self.free.popleft()
        upstream.client = self.transport
        upstream.transport.write(data)


async def start(listen: Address, port: int, sandboxes: int) -> asyncio.Server:
    """Connect to every sandbox, twice as often as there are usually clients at least, then listen."""
    loop = asyncio.get_running_loop()
    free: deque[Upstream] = deque()
    count = max(sandboxes, 2 * 64)
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        dials = (
            loop.create_connection(lambda: Upstream(free), sandbox_address(number % sandboxes), port)
            for number in numbers
        )
        await asyncio.gather(*dials)
    return await loop.create_server(lambda: Downstream(free), *listen, backlog=4096)


def main(arguments: list[str] | None = None) -> None:
    """Run the relay until a signal."""
    parser = argparse.ArgumentParser(prog="bench.fanout", description=__doc__)
    parser.add_argument("--listen", type=parse_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--upstream", type=int, required=True, metavar="PORT")
    parser.add_argument("--sandboxes", type=int, required=True, metavar="COUNT")
    options = parser.parse_args(arguments)

    async def listen() -> Address:
        return bound_address(await start(options.listen, options.upstream, options.sandboxes))

    serve_until_signal(listen)


if __name__ == "__main__":
    main()
