"""Frames through a tunnel, byte for byte, and the checks of Origin that sandboxes make."""

from __future__ import annotations

import asyncio
import hashlib
from http import HTTPStatus

import pytest
import websockets
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response

from tests.support import LIMIT, Visit, stage
from tests.test_tunnels import SWITCHED, connect, echo, upgraded

SIZES = [0, 1, 125, 126, 127, 65535, 65536]
MASKED = [False, True]


def frame(opcode: int, size: int, *, fin: bool = True, masked: bool) -> bytes:
    payload = bytes(index % 251 for index in range(size))
    return Frame(Opcode(opcode), payload, fin).serialize(mask=masked)


def table(*, masked: bool) -> bytes:
    """Return all opcodes at all sizes, and fragments with pings between."""
    single = [frame(opcode, size, masked=masked) for opcode in (1, 2) for size in SIZES]
    control = [frame(opcode, size, masked=masked) for opcode in (9, 10) for size in (0, 1, 125)]
    fragments = [
        frame(2, 65536, fin=False, masked=masked),
        frame(9, 5, masked=masked),
        frame(0, 126, fin=False, masked=masked),
        frame(10, 0, masked=masked),
        frame(0, 0, masked=masked),
    ]
    return b"".join([*single, *control, *fragments, frame(8, 0, masked=masked)])


@pytest.mark.parametrize("step", [1, 7, 4096, 10**7])
async def test_every_kind_of_frame_passes_unchanged_both_ways(step: int) -> None:
    up, down = table(masked=True), table(masked=False)
    received = bytearray()

    async def exchange(visit: Visit) -> None:
        await visit.head()
        await visit.send(SWITCHED)
        received.extend(await visit.exactly(len(up)))
        await in_steps(visit, down, step)
        await visit.gone()

    async with stage() as router:
        client = await upgraded(router, await router.sandbox(exchange))
        for start in range(0, len(up), max(step, 512)):
            await client.send(up[start : start + max(step, 512)])
        echoed = await client.exactly(len(down))
    assert hashlib.sha256(received).digest() == hashlib.sha256(up).digest()
    assert hashlib.sha256(echoed).digest() == hashlib.sha256(down).digest()


async def in_steps(visit: Visit, data: bytes, step: int) -> None:
    """Send the first headers in steps, the long rest at once."""
    start = 0
    while start < 2000:
        await visit.send(data[start : min(start + step, 2000)])
        await asyncio.sleep(0)
        start += step
    await visit.send(data[2000:])


def jupyter(connection: ServerConnection, request: Request) -> Response | None:
    """Refuse an Origin whose host is not the Host, as JupyterLab does; none at all is a program."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.headers["Host"]:
        return connection.respond(HTTPStatus.FORBIDDEN, "origin\n")
    return None


def code_server(connection: ServerConnection, request: Request) -> Response | None:
    """Compare Origin with the forwarded host, else with Host, as code-server does."""
    origin = request.headers.get("Origin")
    host = request.headers.get("X-Forwarded-Host") or request.headers["Host"]
    if origin is not None and origin.partition("://")[2] != host:
        return connection.respond(HTTPStatus.FORBIDDEN, "origin\n")
    return None


@pytest.mark.parametrize("check", [jupyter, code_server])
async def test_the_origin_checks_of_notebooks_and_editors_pass(check: object) -> None:
    async with stage() as router:
        server = await websockets.serve(echo, "127.0.0.1", 0, process_request=check)  # type: ignore[arg-type]
        router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
        port = server.sockets[0].getsockname()[1]
        async with connect(router, port, origin="https://public.example") as connection:
            await connection.send("in")
            assert await asyncio.wait_for(connection.recv(), LIMIT) == "in"
        server.close()
        await server.wait_closed()
