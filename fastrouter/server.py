"""The listener, the registry of connections, and shutdown."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from fastrouter.accounts import Accounts
from fastrouter.net.backend import Backend
from fastrouter.net.bulkhead import Bulkhead
from fastrouter.net.connection import readable
from fastrouter.net.deadlines import Sweep
from fastrouter.net.dialer import Dialer
from fastrouter.net.downstream import Downstream
from fastrouter.net.inbound import IDLE
from fastrouter.net.listener import DRAIN_SECONDS, SHED, Listener, Room
from fastrouter.net.listeners import Listeners
from fastrouter.net.outbox import Outbox
from fastrouter.net.pool import Pool
from fastrouter.net.resolver import Resolver
from fastrouter.net.tls import HANDSHAKING, TlsTransport
from fastrouter.net.tunnel import Limits, Tunnels
from fastrouter.net.upstream import Upstream
from fastrouter.observe import snapshot_of
from fastrouter.policy.plan import plan_request, plan_response
from fastrouter.policy.templates import RequestTemplates, ResponseTemplates
from fastrouter.rulebook import rules_of
from fastrouter.telemetry.logs import Seldom
from fastrouter.telemetry.metrics import Metrics
from fastrouter.wire.head_cache import HeadCache

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Sequence

    import httpcore

    from fastrouter.policy.target import Target
    from fastrouter.settings import Settings
    from fastrouter.telemetry.access_log import AccessLog
    from fastrouter.telemetry.snapshot import Snapshot
    from fastrouter.telemetry.tracing import Tracer
    from fastrouter.tls import Certificates

_WARNING_SECONDS = 1.0
# At the limit of files, pauses may come several times a second: one in a minute is told.
_PAUSE_SECONDS = 60.0
# Short of files, who has been idle for so long makes room; below that, the next request may be on its way.
_SPARE_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Server:
    """One router: everything that its connections share, and its listening socket.

    ``backend`` stands in for the router's own resolver and sockets: any httpcore backend.
    """

    def __init__(  # noqa: PLR0913 - what a process hands in
        self,
        settings: Settings,
        *,
        backend: httpcore.AsyncNetworkBackend | None = None,
        access_log: AccessLog | None = None,
        file_limit: int = 0,
        tracer: Tracer | None = None,
        certificates: Certificates | None = None,
        sockets: Sequence[Sequence[socket.socket]] = ((), ()),
    ) -> None:
        """Serve nobody yet; with ``file_limit``, the process's limit of open files, keep below it.

        With ``certificates``, TLS is served too. ``sockets``, plain and TLS, stand in for the ports.
        """
        self.settings = settings
        self.access_log = access_log
        self.leaving = False
        """Set when the router was told to stop: not ready, though it may serve on for a while."""
        self.shutting_down = False
        self._invalid_timeouts = Seldom(_WARNING_SECONDS)
        self._pauses = Seldom(_PAUSE_SECONDS)
        self._pause_is_told = False
        self.metrics = Metrics()
        self.accounts = Accounts(self.metrics, access_log, gives_ids=settings.request_id, tracer=tracer)
        self._started = time.time()
        self.connections: set[Downstream] = set()
        self.outbox = Outbox()
        rules = rules_of(settings, traces=tracer is not None)
        self.request_heads = HeadCache(partial(plan_request, rules=rules), RequestTemplates(rules))
        self.response_heads = HeadCache(plan_response, ResponseTemplates())
        secure = rules._replace(scheme=b"https")
        self.secure_heads = HeadCache(partial(plan_request, rules=secure), RequestTemplates(secure))
        self.certificates = certificates
        self.failed_handshakes = 0
        self.resolver: Resolver | None = None
        if backend is None:
            keep = settings.max_keepalive > 0
            self.resolver = Resolver(settings.dns_servers, keep=keep, told=self.metrics.looked_up)
            backend = Backend(self.resolver, self._make_room)
        self.pool = self._make_pool(backend)
        self.tunnels = Tunnels(_limits_of(settings))
        self.bulkhead = Bulkhead(settings.max_per_sandbox) if settings.max_per_sandbox else None
        self._room = Room(file_limit)
        self._admitted = 0
        self._sweep = Sweep([self._tick, self.pool.expire], late=self.metrics.lag.add)
        self._listeners = self._make_listeners(*sockets)
        self._closed = asyncio.Event()

    def _make_listeners(self, plain: Sequence[socket.socket], tls: Sequence[socket.socket]) -> Listeners:
        settings = self.settings
        doors = [Listener(self.make_downstream, settings.host, settings.port, plain)]
        if self.certificates is not None:
            doors.append(Listener(self._make_secure, settings.host, settings.https_port, tls))
        return Listeners(*doors)

    def _make_pool(self, backend: httpcore.AsyncNetworkBackend) -> Pool:
        settings = self.settings
        pool = Pool(max_idle=settings.max_keepalive, expiry=settings.keepalive_expiry)
        pool.dialer = Dialer(
            backend,
            self._make_upstream,
            retry_window=settings.dial_retry,
            make_room=lambda: pool.shed(SHED),
            timed=self.metrics.dials.add,
        )
        return pool

    def __repr__(self) -> str:
        return f"<Server {self.settings.host}:{self.settings.port} connections={len(self.connections)}>"

    async def start(self) -> None:
        """Listen; raises ``OSError`` where the address is taken or not ours."""
        await self._listeners.start()
        self.start_sweep()

    def start_sweep(self) -> None:
        """Begin to check deadlines; ``start`` does it."""
        self._sweep.start()

    @property
    def address(self) -> tuple[str, int]:
        """The address and port that is listened on."""
        return self._listeners.addresses[0]

    @property
    def secure_address(self) -> tuple[str, int] | None:
        """The address and port of TLS, where it is served."""
        return self._listeners.addresses[1] if self.certificates is not None else None

    @property
    def listening(self) -> bool:
        """True from the start to the end of listening, a pause for want of files included."""
        return self._listeners.listening

    async def dns_fault(self) -> str:
        """Return why DNS does not answer; nothing where it does, or where there is nobody to ask."""
        if self.resolver is None:
            return ""
        return await self.resolver.probe(f"kubernetes.default.svc.{self.settings.cluster_domain}")

    def statistics(self) -> dict[str, object]:
        """Return the numbers that show the router's state."""
        return {
            "requests": self.metrics.requests,
            "errors": self.metrics.faults,
            "downstream_connections": len(self.connections),
            "accepting": not self._listeners.paused,
            "failed_handshakes": self.failed_handshakes,
            **self.pool.statistics(),
            "dial_attempts": self.pool.dialer.attempts,
            "request_heads": repr(self.request_heads),
            "response_heads": repr(self.response_heads),
            "resolver": repr(self.resolver),
        }

    def snapshot(self) -> Snapshot:
        """Return all metrics of this process."""
        return snapshot_of(self, self._started)

    @property
    def accepting(self) -> bool:
        """True while connections are accepted: not in a pause, and not in a shutdown."""
        return not (self.shutting_down or self._listeners.paused)

    def make_downstream(self) -> Downstream:
        """Return the protocol of one accepted connection."""
        return Downstream(asyncio.get_running_loop(), self, self.request_heads)

    def _make_secure(self) -> TlsTransport:
        """Return the same under TLS, with the certificate that is valid now."""
        assert self.certificates is not None  # noqa: S101 - else nobody listens
        connection = Downstream(asyncio.get_running_loop(), self, self.secure_heads)
        return TlsTransport(connection, self.certificates.context, self._handshake_failed, self.outbox.send)

    def _handshake_failed(self, error: ssl.SSLError) -> None:
        """Count it; scanners and clients without a certificate come every second, so the log is spared."""
        self.failed_handshakes += 1
        _log.debug("TLS handshake failed", extra={"error": error.reason or str(error)})

    def _make_room(self) -> None:
        """Close idle connections to sandboxes for want of files; with too many clients, stop accepting."""
        if self._room.is_short(len(self.connections) + self.pool.open + self.pool.dialer.under_way):
            self.pool.shed(SHED)
        short = self._room.is_short(self._promised())
        if short and not (self._listeners.paused or self.shutting_down):
            self._listeners.pause()
            self._pause_is_told = False
            self._tell_pause(time.monotonic())

    def _tell_pause(self, now: float) -> None:
        """Log a pause, once a minute at most."""
        if not self._pause_is_told and self._pauses.may(now):
            self._pause_is_told = True
            _log.warning("out of file descriptors: accepting no connections", extra=self._numbers())

    def _promised(self) -> int:
        """Return how many files the clients may need: each its own, and one for a sandbox (as HAProxy does).

        Counted when they are needed, they would be missing: idle clients send their requests when they like.
        """
        return 2 * len(self.connections)

    def _numbers(self) -> dict[str, int]:
        return {"clients": len(self.connections), "sandboxes": self.pool.open, "limit": self._room.limit}

    def _spare_idle_clients(self, now: float) -> None:
        """Close the clients that have been idle for longest: others wait to be let in (as nginx does)."""
        idle_end = now + self.settings.client_keepalive - _SPARE_SECONDS
        idle = [each for each in self.connections if each.phase is IDLE and each.deadline <= idle_end]
        for connection in sorted(idle, key=attrgetter("deadline"))[:SHED]:
            connection.expire_idle()

    def _make_upstream(self, target: Target) -> Upstream:
        return Upstream(asyncio.get_running_loop(), self.outbox, target, self.response_heads, self.pool)

    def warn_of_timeout(self, value: str) -> None:
        """Log an ``X-Sandbox-Timeout`` that is none, once a second at most: no client floods the log."""
        if self._invalid_timeouts.may(time.monotonic()):
            _log.warning("invalid X-Sandbox-Timeout: the default is used", extra={"value": value[:100]})

    def opened(self, connection: Downstream) -> bool:
        """Register a connection; tell whether it is one of ``MAX_CONNECTIONS``."""
        self.connections.add(connection)
        self.metrics.connections += 1
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
        if self.certificates is not None:
            self.certificates.reload_if_changed()
        if self._listeners.paused and self._room.is_back(self._promised()) and not self.shutting_down:
            self._listeners.resume()
            if self._pause_is_told:
                _log.info("accepting connections again", extra=self._numbers())
        elif self._listeners.paused:
            self._tell_pause(now)
            self._spare_idle_clients(now)
        if self.shutting_down:
            self._closed.set()  # a connection is idle or flushed without closing, too: look again
        if self.access_log is not None:
            self.access_log.flush()

    def stop_listening(self) -> None:
        """Leave the sockets to whoever else has them."""
        self._listeners.close()

    def leave(self) -> None:
        """Note that the router was told to stop, though it may serve on for a while."""
        self.leaving = True

    async def shutdown(self, grace: float | None = None) -> None:
        """Stop: no new connections, 503 for new requests, then wait for exchanges up to the grace time."""
        self.leaving = self.shutting_down = True
        self._finish()
        await self._listeners.drain()
        self._listeners.close()
        self._finish()  # who has been accepted meanwhile, too
        try:
            async with asyncio.timeout(self.settings.shutdown_grace if grace is None else grace):
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

    def _finish(self) -> None:
        for connection in self.connections:
            connection.finish()

    def _busy(self) -> int:
        return sum(connection.busy for connection in self.connections)

    async def _until_idle(self) -> None:
        """Wait for exchanges, and for requests that the kernel holds already."""
        end = time.monotonic() + DRAIN_SECONDS
        while True:
            while self._busy():
                self._closed.clear()
                await self._closed.wait()
            if time.monotonic() >= end or not (readable(self._sockets()) or self._shaking_hands()):
                return
            await asyncio.sleep(0)

    def _shaking_hands(self) -> bool:
        return any(each.transport.get_extra_info(HANDSHAKING) for each in self.connections)

    def _sockets(self) -> list[socket.socket]:
        found = (connection.transport.get_extra_info("socket") for connection in self.connections)
        return [each for each in found if each is not None]

    async def _until_closed(self) -> None:
        while self.connections:
            self._closed.clear()
            await self._closed.wait()


def _limits_of(settings: Settings) -> Limits:
    return Limits(
        idle=settings.websocket_idle_timeout,
        lifetime=settings.websocket_max_lifetime,
        message=settings.websocket_max_message,
        per_client=settings.websocket_max_per_client,
    )
