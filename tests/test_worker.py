"""One worker process, with the test as its parent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from fastrouter import control
from fastrouter.control import Channel
from fastrouter.settings import Settings
from fastrouter.telemetry.snapshot import Snapshot
from tests.support import LIMIT, Client

SETTINGS = Settings(host="127.0.0.1", port=0, dns_servers=("127.0.0.1:1",), shutdown_grace=5.0)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n"


@dataclass
class Raised:
    """A worker, the channel to it, and what it listens on."""

    process: asyncio.subprocess.Process
    channel: Channel
    listener: socket.socket
    number: int = 0

    async def ask(self, what: str) -> Any:
        self.number += 1
        self.channel.send({"ask": what, "number": self.number})
        answer = await self.next()
        assert answer["number"] == self.number
        return answer["answer"]

    async def next(self) -> dict[str, Any]:
        message = await asyncio.wait_for(self.channel.receive(), LIMIT)
        assert message is not None
        return message

    async def lines(self) -> list[dict[str, Any]]:
        """Wait for its end, and return what it logged."""
        output, _ = await asyncio.wait_for(self.process.communicate(), LIMIT)
        return [json.loads(line) for line in output.splitlines()]

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection(*self.listener.getsockname()))


@asynccontextmanager
async def raised() -> AsyncIterator[Raised]:
    mine, its = socket.socketpair()
    with its, socket.create_server(("127.0.0.1", 0)) as listener:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fastrouter.worker", str(its.fileno())),
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[its.fileno(), listener.fileno()],
        )
        its.close()
        channel = await Channel.over(mine)
        packed = control.packed(SETTINGS)
        channel.send({"slot": 3, "settings": packed, "sockets": [[listener.fileno()], []]})
        worker = Raised(process, channel, listener)
        try:
            assert await worker.next() == {"listening": True}
            yield worker
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await channel.close()


async def test_it_answers_its_parent_while_it_serves() -> None:
    async with raised() as worker:
        client = await worker.client()
        await client.send(HEALTH)
        await client.response()
        told = Snapshot.from_json(await worker.ask("snapshot"))
        assert told.pid == worker.process.pid
        assert sum(told.values["requests"].values()) == 1
        reasons = await worker.ask("unready")
        assert "DNS" in reasons[0]
        client.close()


async def test_to_shut_down_it_stops_listening_and_tells_its_last_numbers() -> None:
    async with raised() as worker:
        client = await worker.client()
        await client.send(HEALTH)
        await client.response()
        worker.channel.send({"order": "shutdown"})
        last = Snapshot.from_json((await worker.next())["last"])
        assert sum(last.values["requests"].values()) == 1
        assert await worker.channel.receive() is None
        assert await client.rest() == b""
        client.close()
        lines = await worker.lines()
        assert worker.process.returncode == 0
    said = [(line["message"], line["worker"]) for line in lines if "message" in line]
    assert said == [("worker started", 3), ("worker stopped", 3)]
    assert sum("status" in line for line in lines) == 1


async def test_to_retire_it_leaves_the_queue_to_others_and_serves_who_is_connected() -> None:
    async with raised() as worker:
        kept = await worker.client()
        await kept.send(b"GET / HTTP/1.1\r\nHost: r\r\n\r\n")
        assert (await kept.error())[0] == 400
        worker.channel.send({"order": "retire"})
        await worker.ask("snapshot")  # it has read the order by now
        await asyncio.sleep(0.05)
        other = await worker.client()  # the test's own copy of the socket takes it
        await other.send(HEALTH)
        await kept.send(b"GET / HTTP/1.1\r\nHost: r\r\n\r\n")
        assert (await kept.error())[2] != "shutting_down"
        kept.close()
        assert "last" in await worker.next()
        await worker.lines()
        listener = worker.listener
        listener.setblocking(False)
        accepted, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), LIMIT)
        assert accepted.recv(1000) == HEALTH
        accepted.close()
        other.close()


async def test_without_its_parent_it_ends_by_itself() -> None:
    async with raised() as worker:
        client = await worker.client()
        await client.send(HEALTH)
        await client.response()
        await worker.channel.close()
        lines = await worker.lines()
        assert worker.process.returncode == 0
        assert await client.rest() == b""
        client.close()
    assert [line["message"] for line in lines if line.get("level") == "warning"] == [
        "the parent is gone: shutting down"
    ]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
async def test_signals_are_the_parents(number: signal.Signals) -> None:
    async with raised() as worker:
        os.kill(worker.process.pid, number)
        await worker.ask("snapshot")
        client = await worker.client()
        await client.send(HEALTH)
        assert (await client.response())[0].startswith(b"HTTP/1.1 200 ")
        client.close()


async def test_a_parent_that_says_nothing_is_exit_code_1() -> None:
    mine, its = socket.socketpair()
    with its:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fastrouter.worker", str(its.fileno())), pass_fds=[its.fileno()]
        )
    mine.close()
    assert await asyncio.wait_for(process.wait(), LIMIT) == 1
