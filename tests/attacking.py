"""An attacker's means: bytes as they are, and what they bring about."""

from __future__ import annotations

from dataclasses import replace

from fastrouter.settings import Settings
from tests.shim import OK, SETTINGS, MockBackend, Shim

TOKEN = replace(SETTINGS, auth_token="secret")
OPEN = replace(SETTINGS, allow_unauthenticated=True)
ALLOWED = b"Authorization: Bearer secret"
UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")


def raw(*lines: bytes, target: bytes = b"/", behind: bytes = b"") -> bytes:
    """Return a request for `box` with these field lines, exactly as they are."""
    head = (b"GET %b HTTP/1.1" % target, b"Host: router", b"X-Sandbox-ID: box", *lines, b"", behind)
    return b"\r\n".join(head)


async def status_and_sent(data: bytes, settings: Settings) -> tuple[int, bytes]:
    backend = MockBackend(OK)
    async with Shim(settings=settings, backend=backend) as shim:
        client = shim.connect()
        client.send(data)
        return (await client.response()).status, backend.sent
