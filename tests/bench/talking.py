"""Conversations with the servers of the benchmark, on uvloop as in the benchmark itself."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import uvloop

from bench import relay, sandbox
from bench.processes import Child
from bench.serving import Address, bound_address

ROOT = Path(__file__).parent.parent.parent
LIMIT = 5.0
EXECUTE = b'POST /execute HTTP/1.1\r\nHost: s\r\nContent-Length: 11\r\n\r\n{"a": "bc"}'
LONG = bytes(range(256)) * 16 * 1024  # 4 MB

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def through_relay(handler: Handler, conversation: Conversation) -> None:
    """Hold a conversation through a relay on uvloop, as it runs in the benchmark."""

    async def go() -> None:
        upstream = await asyncio.start_server(handler, "127.0.0.1", 0)
        server = await relay.start(("127.0.0.1", 0), bound_address(upstream))
        with closing(upstream), closing(server):
            await converse_with(bound_address(server), conversation)

    uvloop.run(go())


def with_sandbox(conversation: Conversation) -> None:
    async def go() -> None:
        with closing(await sandbox.start(("127.0.0.1", 0))) as server:
            await converse_with(bound_address(server), conversation)

    uvloop.run(go())


async def converse_with(address: Address, conversation: Conversation) -> None:
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection(*address)
        try:
            await conversation(reader, writer)
        finally:
            writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    found = sandbox.LENGTH.search(head)
    assert found
    return head, await reader.readexactly(int(found[1]))


@contextmanager
def running(module: str, *arguments: str) -> Iterator[tuple[Child, Address]]:
    with Child(module, [sys.executable, "-m", module, *arguments], core=None) as child:
        yield child, child.listening_on()
