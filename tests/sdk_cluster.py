"""What the SDK talks to: a router, its DNS server and sandboxes, on an event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import uvloop

from fastrouter.demo.dns import DnsServer
from fastrouter.demo.sandbox import Sandbox
from fastrouter.server import Server
from fastrouter.settings import Settings
from tests.support import LIMIT, ScriptedSandbox, always, ok

SETTINGS = Settings(host="127.0.0.1", port=0, dial_retry=0.0, shutdown_grace=1.0)
PLACE = "http://elsewhere:1/a%2Fb/../%2E%2e//c?d=%41#e"
MOVED = ok(b"", b"Location: " + PLACE.encode(), b"Set-Cookie: owner=three; Path=/").replace(
    b"200 OK", b"302 Found"
)
ONE, TWO, THREE = "one", "two", "three"


class Cluster:
    """Sandboxes `one` and `two` of the demo, and `three`, which redirects and sets a cookie.

    In a thread of its own, since `requests` blocks.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = threading.Event()
        self._stop: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))
        self.sandboxes = {name: Sandbox(name, "127.0.0.1") for name in (ONE, TWO)}
        self.moved = ScriptedSandbox(always(MOVED))
        self.router: Server

    async def _main(self) -> None:
        await self.moved.start()
        for sandbox in self.sandboxes.values():
            await sandbox.start()
        zone = {f"{name}.default.svc.cluster.local": ["127.0.0.1"] for name in (ONE, TWO, THREE)}
        async with DnsServer(zone) as dns:
            self.router = Server(replace(self._settings, dns_servers=(dns.address,)))
            await self.router.start()
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            self._stop = lambda: loop.call_soon_threadsafe(stop.set)
            self._ready.set()
            await stop.wait()
            await self.router.shutdown()
        await self.moved.close()
        for sandbox in self.sandboxes.values():
            await sandbox.close()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(LIMIT)

    def stop(self) -> None:
        self._stop()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.router.address)

    def headers(self, name: str = ONE) -> dict[str, str]:
        """Return what the SDK sends with every request to a sandbox."""
        port = self.moved.port if name == THREE else self.sandboxes[name].port
        return {
            "X-Sandbox-ID": name,
            "X-Sandbox-Namespace": "default",
            "X-Sandbox-Port": str(port),
            "X-Sandbox-Timeout": "59.999",
        }

    def seen(self, name: str = ONE) -> dict[bytes, bytes]:
        """Return the headers of a sandbox's last request."""
        return {field.lower(): value for field, value in self.sandboxes[name].requests[-1].headers}


@contextmanager
def cluster(settings: Settings = SETTINGS) -> Iterator[Cluster]:
    running = Cluster(settings)
    running.start()
    try:
        yield running
    finally:
        running.stop()
