"""The network backend: httpcore's seam, on the event loop's own transports.

``Backend`` dials for the router; its streams are full httpcore streams, so httpcore's own client can use it
too. Any other ``httpcore.AsyncNetworkBackend`` (the mock included) can stand in its place: ``attach`` puts a
transport over whatever stream it gives.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import httpcore

from fastrouter.errors import (
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    CONNECT_UNREACHABLE,
    OVERLOADED,
    Cause,
    Source,
)
from fastrouter.net.resolver import NameFailureError, NameNotFoundError, Resolver
from fastrouter.net.stream import StreamTransport, TransportStream

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]

_REFUSED: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})

# No sandbox is to blame. Nothing was sent, and descriptors come back: it is tried again like any dial.
_NO_FILES: Final = replace(OVERLOADED, source=Source.DIAL)


class DialError(httpcore.ConnectError):
    """No connection was made, and no byte was sent; ``cause`` says why."""

    def __init__(self, cause: Cause, note: str) -> None:
        super().__init__(note)
        self.cause = cause


class Backend(httpcore.AsyncNetworkBackend):
    """Resolves with ``Resolver`` and connects with the running loop."""

    def __init__(self, resolver: Resolver, make_room: Callable[[], object] = lambda: None) -> None:
        """Connect; ``make_room`` is called before, to close something where files are running out."""
        self._resolver = resolver
        self._make_room = make_room

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> TransportStream:
        """Connect to the first address of ``host`` that answers; raise ``DialError``."""
        self._make_room()
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._addresses(host)
                resolved = time.monotonic()
                stream = await self._first(addresses, host, port, local_address)
        except TimeoutError as error:
            self._resolver.forget(host)
            raise DialError(CONNECT_TIMEOUT, f"no answer from {host}:{port} in {timeout} s") from error
        stream.resolved = 0.0 if _is_address(host) else resolved
        for option in socket_options or ():
            stream.get_extra_info("socket").setsockopt(*option)
        return stream

    async def _addresses(self, host: str) -> list[str]:
        if _is_address(host):
            return [host]
        try:
            return await self._resolver.resolve(host)
        except (NameNotFoundError, NameFailureError) as error:
            raise DialError(error.cause, str(error)) from error

    async def _first(
        self, addresses: list[str], host: str, port: int, local_address: str | None
    ) -> TransportStream:
        local = (local_address, 0) if local_address else None
        failure: OSError | None = None
        for address in addresses:
            try:
                _, stream = await asyncio.get_running_loop().create_connection(
                    TransportStream, address, port, local_addr=local
                )
            except OSError as error:
                failure = error
            else:
                return stream
        cause = _cause(failure)
        if cause is not _NO_FILES:
            # The sandbox may have moved to another address: the next attempt asks anew.
            self._resolver.forget(host)
        raise DialError(cause, f"{host}:{port} at {', '.join(addresses)}: {failure}") from failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> TransportStream:
        """Connect to a socket in the file system; raise ``DialError``."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                _, stream = await loop.create_unix_connection(TransportStream, path)
        except TimeoutError as error:
            raise DialError(CONNECT_TIMEOUT, f"no answer from {path} in {timeout} s") from error
        except OSError as error:
            raise DialError(_cause(error), f"{path}: {error}") from error
        return stream

    async def sleep(self, seconds: float) -> None:
        """Wait (httpcore's retries use it)."""
        await asyncio.sleep(seconds)


def attach(stream: httpcore.AsyncNetworkStream, protocol: asyncio.Protocol) -> None:
    """Give the bytes of ``stream`` to ``protocol`` from now on, through a transport."""
    if isinstance(stream, TransportStream):
        stream.hand_over(protocol)
    else:
        StreamTransport(stream, protocol)


def _cause(failure: OSError | None) -> Cause:
    number = failure.errno if failure is not None else None
    if number in {errno.EMFILE, errno.ENFILE}:
        return _NO_FILES
    return CONNECT_REFUSED if number in _REFUSED else CONNECT_UNREACHABLE


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
