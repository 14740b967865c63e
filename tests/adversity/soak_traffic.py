"""The soak's clients: what they ask, and what they make of the answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.adversity.soak_ask import FAULTS_OF, Ask, Ledger
from tests.adversity.soak_words import (
    END,
    FAULTS,
    OPCODE_BINARY,
    OPCODE_CLOSE,
    PIECE,
    digest,
    frame,
    read_body,
    read_fields,
    read_frame,
)
from tests.support import Client

LIMIT = 60.0
"""Seconds after which an exchange hangs: longer than every timeout of the router together."""

# Every target is a shape of request that the router may remember: so few of them are known after the warm-up.
SIZES = (101, 5_003, 70_001, 600_011)
WEIGHTS = {**dict.fromkeys(FAULTS_OF, 3), "execute": 8, "pipelined": 2, "leave": 2}


async def read_reply(reader: asyncio.StreamReader, ask: Ask) -> tuple[str, bool]:
    """Return what became of an exchange, and whether the connection can carry another."""
    try:
        status, fields = await _final_head(reader, ask)
    except asyncio.IncompleteReadError as error:
        return ("wrong: half a head" if error.partial else "no reply"), False
    except ConnectionError:
        return "truncated", False  # RST drops what this client had not read yet
    got: list[bytes] = []
    try:
        async for piece in _body_of(reader, fields):
            got.append(piece)
            await asyncio.sleep(0.005 if ask.slow else 0)
    except (ConnectionError, asyncio.IncompleteReadError):
        return _compare(ask, fields, b"".join(got), cut=True), False
    if "x-sandbox-router-error" in fields:
        outcome = fields["x-sandbox-router-error"]
    else:
        outcome = _compare(ask, fields, b"".join(got), cut=False)
    if outcome == "ok" and status != 200:
        outcome = f"wrong: status {status}"
    keep = _is_framed(fields) and not ask.http10 and fields.get("connection") != "close"
    return outcome, keep and not outcome.startswith("wrong")


def _is_framed(fields: Mapping[str, str]) -> bool:
    return "content-length" in fields or "transfer-encoding" in fields


async def _body_of(reader: asyncio.StreamReader, fields: Mapping[str, str]) -> AsyncIterator[bytes]:
    if _is_framed(fields):
        async for piece in read_body(reader, fields):
            yield piece
        return
    while piece := await reader.read(PIECE):
        yield piece


async def _final_head(reader: asyncio.StreamReader, ask: Ask) -> tuple[int, dict[str, str]]:
    while True:
        head = await reader.readuntil(END)
        status, fields = int(head[9:12]), read_fields(head)
        if status >= 200 or status == 101:
            return status, fields
        assert fields["x-nonce"] == ask.nonce, f"a 1xx of {fields['x-nonce']} for {ask.nonce}"


def _compare(ask: Ask, fields: dict[str, str], body: bytes, *, cut: bool) -> str:
    """Judge a body; ``cut``: it was broken off, and did not end."""
    if (fields.get("x-box"), fields.get("x-nonce")) != (ask.box, ask.nonce):
        return f"wrong: cross-talk, the answer of {fields.get('x-box')} to {fields.get('x-nonce')}"
    expected = ask.expected()
    if not expected.startswith(body):
        return f"wrong: another body, {len(body)} bytes"
    if digest(body) == digest(expected) and not cut:
        return "ok"
    # Only what a sandbox ends by closing may look whole when it is not. Chunks tell the router where they
    # end: what it makes of them for HTTP/1.0 must not end well before.
    closes = not _is_framed(fields) and ask.kind != "download-chunked"
    return "truncated" if cut or closes else "wrong: a false end"


@dataclass(frozen=True)
class Town:
    """What all clients know: the router, the ports of the sandboxes, and who notes what happens."""

    router: tuple[str, int]
    boxes: Mapping[str, int]
    troubled: Callable[[str, float], bool]
    """Whether a sandbox was in trouble at any time since a moment."""
    ledger: Ledger


class Talker:
    """One client: asks again and again, on a connection that it keeps or on a new one."""

    def __init__(self, seed: str, town: Town, *, fault_share: float) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a run can be repeated, and guards no secret
        self._seed = seed
        self._address = town.router
        self._boxes = town.boxes
        self._ledger = town.ledger
        self._troubled = town.troubled
        self._fault_share = fault_share
        self._client: Client | None = None
        self._number = 0

    async def run(self, until: float, pause: float) -> None:
        """Talk until a moment of the loop's clock."""
        clock = asyncio.get_running_loop().time
        while clock() < until:
            async with asyncio.timeout(LIMIT):
                await self._talk()
            await asyncio.sleep(self._random.uniform(0, pause))
        self._hang_up()

    def ask(self, kind: str, box: str = "") -> Ask:
        """Draw a request of a kind, to ``box`` or any."""
        draw = self._random
        self._number += 1
        box = box or draw.choice(list(self._boxes))
        nonce = f"{self._seed}-{self._number}-{draw.getrandbits(32):08x}"
        fault = draw.choice(FAULTS_OF[kind]) if draw.random() < self._fault_share else ""
        size = draw.choice(SIZES[:2] if fault == "trickle" else SIZES)
        chunked = draw.random() < 0.5
        match kind:
            case "execute":
                body = b'{"command": "%b"}' % nonce.encode()
                return Ask(kind, box, nonce, "/execute", "POST", body, fault=fault)
            case "upload":
                body = draw.randbytes(size + draw.randrange(2000))
                return Ask(kind, box, nonce, "/upload", "PUT", body, chunked, fault=fault)
            case "echo":
                body = draw.randbytes(size + draw.randrange(2000))
                return Ask(kind, box, nonce, "/echo", "POST", body, chunked, fault=fault)
            case "events":
                count = draw.randrange(2, 12)
                return Ask(kind, box, nonce, f"/events?size={count}", fault=fault, size=count)
            case "websocket":
                return Ask(kind, box, nonce, "/ws", fault=fault)
        framing = kind.partition("-")[2] or "length"
        target = f"/download?as={framing}&size={size}"
        slow, http10 = draw.random() < 0.1, draw.random() < 0.1
        return Ask(kind, box, nonce, target, fault=fault, size=size, http10=http10, slow=slow)

    async def _talk(self) -> None:
        kind = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        client = await self._connected()
        if kind == "pipelined":
            await self._talk_ahead(client)
            return
        leaves = kind == "leave"
        ask = self.ask(self._random.choice(list(FAULTS_OF)) if leaves else kind)
        started = asyncio.get_running_loop().time()
        if leaves:
            outcome, keep = await self._leave(client, ask), False
        elif ask.kind == "websocket":
            outcome, keep = await self._chat(client, ask), False
        else:
            outcome, keep = await self._exchange(client, ask)
        self._judge(ask, outcome, started)
        if not keep:
            self._hang_up()

    def _judge(self, ask: Ask, outcome: str, started: float) -> None:
        seconds = asyncio.get_running_loop().time() - started
        troubled = self._troubled(ask.box, started)
        self._ledger.judge(ask, outcome, troubled=troubled, seconds=seconds)

    async def _connected(self) -> Client:
        if self._client is not None and self._random.random() < 0.2:
            self._hang_up()
        if self._client is None:
            self._client = Client(*await asyncio.open_connection(*self._address, limit=2**20))
        return self._client

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    async def _exchange(self, client: Client, ask: Ask) -> tuple[str, bool]:
        sending = asyncio.create_task(self._send(client, ask))
        try:
            outcome, keep = await read_reply(client.reader, ask)
            # What came before its request was whole may be the connection's last answer, said or not.
            sent = sending.done() and sending.result() and ask.fault != "early"
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        return outcome, keep and sent

    async def _send(self, client: Client, ask: Ask) -> bool:
        with contextlib.suppress(ConnectionError):
            for piece in ask.pieces(self._boxes[ask.box]):
                await client.send(piece)
            return True
        return False  # the answer tells what happened

    async def _talk_ahead(self, client: Client) -> None:
        """Send several requests at once, to any sandboxes; the answers come in order."""
        kinds = ("execute", "download", "download-chunked")
        asks = [self.ask(self._random.choice(kinds)) for _ in range(self._random.randrange(2, 6))]
        started = asyncio.get_running_loop().time()
        sending = asyncio.create_task(self._send_all(client, asks))
        keep = True
        for place, ask in enumerate(asks, start=1):
            outcome = "not reached"
            if keep:
                outcome, keep = await read_reply(client.reader, ask)
            # The cut that ends a later answer is RST, and takes along what was not yet read of this one.
            cut_off = outcome == "truncated" and any(self._may_be_cut(each, started) for each in asks[place:])
            self._judge(ask, "not reached" if cut_off else outcome, started)
        await sending
        if not keep:
            self._hang_up()

    def _may_be_cut(self, ask: Ask, started: float) -> bool:
        return "truncated" in FAULTS[ask.fault] or self._troubled(ask.box, started)

    async def _send_all(self, client: Client, asks: Sequence[Ask]) -> None:
        with contextlib.suppress(ConnectionError):
            await client.send(b"".join(piece for ask in asks for piece in ask.pieces(self._boxes[ask.box])))

    async def _leave(self, client: Client, ask: Ask) -> str:
        """Begin an exchange and be gone, before the request is whole, or before the answer is."""
        whole = b"".join(ask.pieces(self._boxes[ask.box]))
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if self._random.random() < 0.5:
                await client.send(whole[: self._random.randrange(len(whole))])
            else:
                await client.send(whole)
                await client.reader.read(self._random.choice((0, 1, 50, 3000)))
        if self._random.random() < 0.5:
            client.reset()
        return "left"

    async def _chat(self, client: Client, ask: Ask) -> str:
        """Switch to a WebSocket, exchange some messages, and say good-bye."""
        await self._send(client, ask)
        try:
            status, fields = await _final_head(client.reader, ask)
            if status != 101:
                return fields.get("x-sandbox-router-error", f"wrong: status {status}")
            if (fields["x-box"], fields["x-nonce"]) != (ask.box, ask.nonce):
                return "wrong: cross-talk"
            return await self._echoes(client, ask)
        except (ConnectionError, asyncio.IncompleteReadError):
            return "truncated"

    async def _echoes(self, client: Client, ask: Ask) -> str:
        for _ in range(self._random.randrange(1, 8)):
            message = self._random.randbytes(self._random.choice((5, 500, 20_000)))
            await client.send(frame(OPCODE_BINARY, message, masked=True))
            opcode, got = await read_frame(client.reader)
            if (opcode, got) != (OPCODE_BINARY, f"{ask.box} {ask.nonce} ".encode() + message):
                return f"wrong: another message, opcode {opcode}"
        await client.send(frame(OPCODE_CLOSE, b"\x03\xe8", masked=True))
        return "ok" if await read_frame(client.reader) == (OPCODE_CLOSE, b"\x03\xe8") else "wrong: close"
