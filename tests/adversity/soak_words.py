"""What the soak's clients and its sandboxes agree on: bodies that tell whose they are, and frames."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Mapping

END = b"\r\n\r\n"
PIECE = 64 * 1024
OPCODE_BINARY, OPCODE_CLOSE = 2, 8

# What a request may ask its sandbox to do wrong (`X-Fault`), and what its client may see of it then. "ok":
# the whole answer; "truncated": an answer that visibly breaks off; else the router's reason word.
FAULTS: Mapping[str, frozenset[str]] = {
    "": frozenset({"ok"}),
    # Odd, but no excuse for a failure.
    "trickle": frozenset({"ok"}),
    "early": frozenset({"ok"}),
    "excess": frozenset({"ok"}),
    "interim": frozenset({"ok"}),
    # No answer can come of these.
    "stall": frozenset({"upstream_timeout"}),
    "reset": frozenset({"upstream_closed"}),
    "reset-head": frozenset({"upstream_closed"}),
    "garbage": frozenset({"upstream_protocol_error"}),
    "long-head": frozenset({"upstream_protocol_error"}),
    "endless-head": frozenset({"upstream_protocol_error"}),
    "flood-interim": frozenset({"upstream_protocol_error"}),
    "switch": frozenset({"upstream_protocol_error"}),
    # It begins: what the RST overtakes is lost, the head too where it was quick.
    "reset-body": frozenset({"truncated", "upstream_closed"}),
    "reset-chunk": frozenset({"truncated", "upstream_closed"}),
    "close-body": frozenset({"truncated"}),
    "stall-body": frozenset({"truncated"}),
}

# What may come of an exchange with a sandbox that is killed, stopped, or closes its connections meanwhile.
TROUBLED = frozenset(
    {"ok", "truncated", "upstream_closed", "upstream_timeout", "connect_refused", "connect_timeout"}
)


def pattern(box: str, nonce: str, size: int) -> bytes:
    """Return the body that only this sandbox sends, and only for this request."""
    once = hashlib.sha256(f"{box} {nonce}".encode()).digest()
    return (once * (size // len(once) + 1))[:size]


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as ``tests.support`` does: a process that is started again and again imports little."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def event(box: str, nonce: str, number: int) -> bytes:
    """Return one server-sent event."""
    return f"id: {number}\ndata: {box} {nonce}\n\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def read_fields(head: bytes) -> dict[str, str]:
    """Return the fields of a head by lower-case name."""
    lines = head.decode("latin-1").split("\r\n")[1:-2]
    pairs = (line.partition(":") for line in lines)
    return {name.lower(): value.strip() for name, _, value in pairs}


async def read_body(reader: asyncio.StreamReader, fields: Mapping[str, str]) -> AsyncIterator[bytes]:
    """Yield a body of known length or in chunks as it comes; ``IncompleteReadError`` where it breaks off."""
    if fields.get("transfer-encoding") != "chunked":
        async for piece in _exactly(reader, int(fields.get("content-length", "0"))):
            yield piece
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        async for piece in _exactly(reader, size):
            yield piece
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # a trailer


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size:
        piece = await reader.read(min(size, PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(piece)
        yield piece


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """Return a whole WebSocket frame; the mask is zero, so that the payload stays readable."""
    size = len(payload)
    mask = 128 if masked else 0
    start = bytes([128 | opcode, mask | size]) if size < 126 else b""
    start = start or bytes([128 | opcode, mask | 126]) + size.to_bytes(2)
    return start + bytes(4 if masked else 0) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return opcode and payload of a frame of up to 64 KiB."""
    first, second = await reader.readexactly(2)
    size = second & 127
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2))
    if second & 128:
        await reader.readexactly(4)
    return first & 15, await reader.readexactly(size)
