"""The fan-out relay sends every request to the next sandbox, and each answer to the client that asked."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from bench.dns import sandbox_address
from bench.processes import Child
from tests.support import eventually

LIMIT = 5.0


async def test_requests_go_to_the_sandboxes_in_turn_and_answers_to_who_asked() -> None:
    asked: list[str] = []
    opened: list[asyncio.BaseTransport] = []

    class Sandbox(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)
            opened.append(transport)

        def data_received(self, data: bytes) -> None:
            asked.append(self.transport.get_extra_info("sockname")[0])
            self.transport.write(b"to " + data)

    sandboxes = await asyncio.get_running_loop().create_server(Sandbox, "0.0.0.0", 0)
    port = sandboxes.sockets[0].getsockname()[1]
    command = [sys.executable, "-m", "bench.fanout", "--listen", "127.0.0.1:0"]
    relay = Child("fan-out", [*command, "--upstream", str(port), "--sandboxes", "3"], core=None)
    try:
        address = await asyncio.to_thread(relay.listening_on)
        clients = [await asyncio.open_connection(*address) for _ in range(2)]
        for number in range(6):
            reader, writer = clients[number % 2]
            writer.write(b"%d" % number)
            assert await asyncio.wait_for(reader.read(100), LIMIT) == b"to %d" % number
        # One that leaves without its answer takes no connection to a sandbox away.
        clients[0][1].write(b"6")
        clients[0][1].close()
        for number in range(7, 7 + 130):
            clients[1][1].write(b"%d" % number)
            assert await asyncio.wait_for(clients[1][0].read(100), LIMIT) == b"to %d" % number
        clients[1][1].close()
    finally:
        await asyncio.to_thread(relay.__exit__)
    await eventually(lambda: all(transport.is_closing() for transport in opened))
    sandboxes.close()
    assert len(opened) == 128
    assert asked[:6] == [sandbox_address(number % 3) for number in range(6)]
