"""The listener, the registry of connections, and shutdown."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from fastrouter.net.backend import Backend
from fastrouter.net.bulkhead import Bulkhead
from fastrouter.net.connection import readable
from fastrouter.net.deadlines import Sweep
from fastrouter.net.dialer import Dialer
from fastrouter.net.downstream import Downstream
from fastrouter.net.listener import DRAIN_SECONDS, SHED, Listener, Room
from fastrouter.net.pool import Pool
from fastrouter.net.resolver import Resolver
from fastrouter.net.tunnel import Limits, Tunnels
from fastrouter.net.upstream import Upstream
from fastrouter.policy.plan import plan_request, plan_response
from fastrouter.policy.rules import Rules
from fastrouter.policy.templates import RequestTemplates, ResponseTemplates
from fastrouter.wire.head_cache import HeadCache

if TYPE_CHECKING:
    import socket

    import httpcore

    from fastrouter.policy.target import Target
    from fastrouter.settings import Settings
    from fastrouter.telemetry.access_log import AccessLog

_WARNING_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Server:
    """One router: everything that its connections share, and its listening socket.

    ``backend`` stands in for the router's own resolver and sockets: any httpcore backend.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        backend: httpcore.AsyncNetworkBackend | None = None,
        access_log: AccessLog | None = None,
        file_limit: int = 0,
    ) -> None:
        """Serve nobody yet; with ``file_limit``, the process's limit of open files, keep below it."""
        self.settings = settings
        self.access_log = access_log
        self.shutting_down = False
        self._quiet_until = 0.0
        self.requests = 0
        self.errors = 0
        self.connections: set[Downstream] = set()
        rules = rules_of(settings)
        self.request_heads = HeadCache(partial(plan_request, rules=rules), RequestTemplates(rules))
        self.response_heads = HeadCache(plan_response, ResponseTemplates())
        self.resolver: Resolver | None = None
        if backend is None:
            self.resolver = Resolver(settings.dns_servers, keep=settings.max_keepalive > 0)
            backend = Backend(self.resolver)
        self.pool = Pool(max_idle=settings.max_keepalive, expiry=settings.keepalive_expiry)
        self.pool.dialer = Dialer(
            backend,
            self._make_upstream,
            retry_window=settings.dial_retry,
            make_room=lambda: self.pool.shed(SHED),
        )
        self.tunnels = Tunnels(
            Limits(
                idle=settings.websocket_idle_timeout,
                lifetime=settings.websocket_max_lifetime,
                message=settings.websocket_max_message,
                per_client=settings.websocket_max_per_client,
            )
        )
        self.bulkhead = Bulkhead(settings.max_per_sandbox) if settings.max_per_sandbox else None
        self._room = Room(file_limit)
        self._admitted = 0
        self._sweep = Sweep([self._tick, self.pool.expire])
        self._listener = Listener(self.make_downstream, settings.host, settings.port)
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Server {self.settings.host}:{self.settings.port} connections={len(self.connections)}>"

    async def start(self) -> None:
        """Listen; raises ``OSError`` where the address is taken or not ours."""
        await self._listener.start()
        self.start_sweep()

    def start_sweep(self) -> None:
        """Begin to check deadlines; ``start`` does it."""
        self._sweep.start()

    @property
    def address(self) -> tuple[str, int]:
        """The address and port that is listened on."""
        return self._listener.address

    def statistics(self) -> dict[str, object]:
        """Return the numbers that show the router's state."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "downstream_connections": len(self.connections),
            "accepting": not self._listener.paused,
            **self.pool.statistics(),
            "dial_attempts": self.pool.dialer.attempts,
            "request_heads": repr(self.request_heads),
            "response_heads": repr(self.response_heads),
            "resolver": repr(self.resolver),
        }

    def make_downstream(self) -> Downstream:
        """Return the protocol of one accepted connection."""
        return Downstream(asyncio.get_running_loop(), self)

    def _make_room(self) -> None:
        """Close idle connections to sandboxes for want of files; where that is not enough, stop accepting."""
        self.pool.shed(SHED)
        if self._room.is_short(self._open_files()) and not self._listener.paused:
            self._listener.pause()
            _log.warning("out of file descriptors: accepting no connections", extra=self._numbers())

    def _open_files(self) -> int:
        return len(self.connections) + self.pool.open + self.pool.dialer.under_way

    def _numbers(self) -> dict[str, int]:
        return {"clients": len(self.connections), "sandboxes": self.pool.open, "limit": self._room.limit}

    def _make_upstream(self, target: Target) -> Upstream:
        return Upstream(asyncio.get_running_loop(), target, self.response_heads, self.pool)

    def warn_of_timeout(self, value: str) -> None:
        """Log an ``X-Sandbox-Timeout`` that is none, once a second at most: no client floods the log."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _WARNING_SECONDS
            _log.warning("invalid X-Sandbox-Timeout: the default is used", extra={"value": value[:100]})

    def opened(self, connection: Downstream) -> bool:
        """Register a connection; tell whether it is one of ``MAX_CONNECTIONS``."""
        self.connections.add(connection)
        if self._room.is_short(self._open_files()):
            self._make_room()
        if 0 < self.settings.max_connections <= self._admitted:
            return False
        self._admitted += 1
        return True

    def closed(self, connection: Downstream) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self._admitted -= connection.admitted
        self._closed.set()

    def _tick(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.tick(now)
        if self._listener.paused and self._room.is_back(self._open_files()) and not self.shutting_down:
            self._listener.resume()
            _log.info("accepting connections again", extra=self._numbers())
        if self.shutting_down:
            self._closed.set()  # a connection is idle or flushed without closing, too: look again
        if self.access_log is not None:
            self.access_log.flush()

    async def shutdown(self) -> None:
        """Stop: no new connections, 503 for new requests, then wait for exchanges up to the grace time."""
        self.shutting_down = True
        await self._listener.drain()
        self._listener.close()
        for connection in self.connections:
            connection.finish()
        try:
            async with asyncio.timeout(self.settings.shutdown_grace):
                await self._until_idle()
        except TimeoutError:
            _log.warning("shutdown: grace time is over", extra={"unfinished": self._busy()})
        for connection in list(self.connections):
            connection.leave()
        await self._until_closed()
        self._sweep.stop()
        self.pool.close()
        if self.resolver is not None:
            await self.resolver.close()

    def _busy(self) -> int:
        return sum(connection.busy for connection in self.connections)

    async def _until_idle(self) -> None:
        """Wait for exchanges, and for requests that the kernel holds already."""
        end = time.monotonic() + DRAIN_SECONDS
        while True:
            while self._busy():
                self._closed.clear()
                await self._closed.wait()
            if time.monotonic() >= end or not readable(self._sockets()):
                return
            await asyncio.sleep(0)

    def _sockets(self) -> list[socket.socket]:
        found = (connection.transport.get_extra_info("socket") for connection in self.connections)
        return [each for each in found if each is not None]

    async def _until_closed(self) -> None:
        while self.connections:
            self._closed.clear()
            await self._closed.wait()


def rules_of(settings: Settings) -> Rules:
    """Return what the settings decide about every request."""
    credentials = settings.auth_header.lower().encode("ascii")
    drops = {credentials} if settings.auth_token else set()
    # With a token in another header, and where it is asked for, Authorization is the sandbox's.
    if not (settings.forward_authorization or drops - {b"authorization"}):
        drops.add(b"authorization")
    return Rules(
        cluster_domain=settings.cluster_domain,
        longest_timeout=settings.proxy_timeout,
        longest_body=settings.max_body,
        credentials=credentials if settings.auth_token else b"",
        drops=frozenset(drops),
        honour_pod_ip=settings.honours_pod_ip,
        trusts_proxies=bool(settings.trusted_proxies),
        # h2c would carry requests past every check of the router, listed or not.
        upgrades=frozenset(name.encode("ascii") for name in settings.upgrade_protocols) - {b"h2c"},
        forward_origin=settings.forward_websocket_origin,
    )
