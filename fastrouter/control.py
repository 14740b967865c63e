"""What the parent and its workers say to each other: JSON lines over a socket pair, and settings as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import json
import signal
import socket
from collections.abc import Mapping
from typing import Any, Final, Literal

from fastrouter.settings import Settings

Ask = Literal["snapshot", "unready"]
"""What is answered."""

Order = Literal["shutdown", "retire"]
"""How a worker ends: with the router, or because another one takes over."""

PARENTS_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Nothing to a worker: the parent does what they ask for."""

# A snapshot may have a row for each of many namespaces.
_LONGEST_LINE: Final = 16 * 1024 * 1024

Message = dict[str, Any]


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        """Take over a connected socket."""
        return cls(*await asyncio.open_connection(sock=sock, limit=_LONGEST_LINE))

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message without waiting; to a process that has ended, it is lost."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode("ascii") + b"\n")

    async def receive(self) -> Message | None:
        """Return the next message, or None when the other process has ended: half a line is none."""
        try:
            line = await self._reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        message: Message = json.loads(line)
        return message

    async def close(self) -> None:
        """Send what is to be sent, and close."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):  # the other process was first
            await self._writer.wait_closed()


def packed(settings: Settings) -> Message:
    """Return the settings, the token included, as what JSON can say."""
    values = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
    return values | {"trusted_proxies": [str(network) for network in settings.trusted_proxies]}


def unpacked(values: Message) -> Settings:
    """Return what was ``packed``."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    networks = tuple(ipaddress.ip_network(text) for text in values["trusted_proxies"])
    return Settings(**values | {"trusted_proxies": networks})
