"""A plain client of the admin ports: bytes out, everything up to the end of the connection in."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from fastrouter.telemetry.snapshot import Snapshot, empty
from tests.support import LIMIT, Client


class Answer(NamedTuple):
    """One answer; field names are lower case."""

    status: int
    fields: dict[str, str]
    body: bytes


def read(raw: bytes) -> Answer:
    """Cut an answer into its parts; fails where the body is not as long as the head says."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    fields = {name.lower(): value for name, value in pairs}
    assert len(fields) == len(lines)
    assert fields["connection"] == "close"
    return Answer(int(first.split(" ")[1]), fields, body)


async def connect(address: tuple[str, int]) -> Client:
    """Connect to an admin port; the caller closes."""
    return Client(*await asyncio.open_connection(*address, limit=2**20))


async def talk(address: tuple[str, int], raw: bytes) -> bytes:
    """Send bytes and return all that comes back."""
    client = await connect(address)
    try:
        await client.send(raw)
        return await client.rest()
    finally:
        client.close()
        with suppress(OSError):
            await asyncio.wait_for(client.writer.wait_closed(), LIMIT)


async def ask(
    address: tuple[str, int], target: str = "/", *fields: str, method: str = "GET", length: bool = True
) -> Answer:
    """Ask for one page; with ``length`` the body must be as long as the head says."""
    lines = [f"{method} {target} HTTP/1.1", "Host: router", *fields, "", ""]
    answer = read(await talk(address, "\r\n".join(lines).encode("ascii")))
    if length and method != "HEAD":
        assert len(answer.body) == int(answer.fields["content-length"])
    return answer


@dataclass
class Told:
    """A source that says what the test has put into it."""

    all: list[Snapshot] = field(default_factory=lambda: [empty(os.getpid(), "1.2.3", time.time() - 60)])
    reasons: list[str] = field(default_factory=list)

    async def snapshots(self) -> list[Snapshot]:
        return self.all

    async def unready(self) -> list[str]:
        return self.reasons
