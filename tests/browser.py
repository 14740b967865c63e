"""A real browser for tests: headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.support import LIMIT

CHROMIUM: Final = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
FLAGS: Final = (
    *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio"),
    *("--disable-extensions", "--remote-debugging-port=0"),
    # Nothing but loopback, whatever the browser has in mind of its own.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    # Root has no sandbox, and a container is one.
    *(("--no-sandbox",) if os.geteuid() == 0 else ()),
)


@dataclass
class Page:
    """One tab, with all that it asked for and complained about."""

    _socket: ClientConnection
    _session: str = ""
    requests: list[str] = field(default_factory=list)
    """Every address that the page asked for."""
    complaints: list[str] = field(default_factory=list)
    """Errors of its scripts and of the browser: exceptions, CSP violations, failed loads."""
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    _ids: count[int] = field(default_factory=lambda: count(1))
    _waiting: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)

    async def listen(self) -> None:
        """Take in what the browser says, until it leaves."""
        with suppress(websockets.ConnectionClosed):
            async for message in self._socket:
                self._take(json.loads(message))

    def _take(self, told: dict[str, Any]) -> None:
        if "id" in told:
            waiting = self._waiting.pop(told["id"])
            if not waiting.done():  # who asked may have given up
                waiting.set_result(told)
            return
        params = told["params"]
        match told["method"]:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Page.loadEventFired":
                self.loaded.set()
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self.complaints.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.complaints.append(params["entry"]["text"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._ids)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        command = {"id": number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        await self._socket.send(json.dumps(command))
        told = await asyncio.wait_for(self._waiting[number], LIMIT)
        assert "error" not in told, told
        result: dict[str, Any] = told["result"]
        return result

    async def attach(self) -> None:
        """Open the tab."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def go(self, url: str, *, haste: float = 1.0) -> None:
        """Load a page; with ``haste``, its timers run so many times faster."""
        if haste > 1:
            faster = f"const late = setTimeout; window.setTimeout = (f, ms) => late(f, ms / {haste})"
            await self.call("Page.addScriptToEvaluateOnNewDocument", source=faster)
        self.loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self.loaded.wait(), LIMIT)

    async def ask(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        told = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def text(self, selector: str) -> str:
        """Return the text that a reader sees in an element; nothing where it is not there yet."""
        found = await self.ask(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return " ".join(str(found).split())

    async def holds(self, script: str, limit: float = LIMIT) -> None:
        """Wait until an expression in the page is true."""
        async with asyncio.timeout(limit):
            while not await self.ask(script):  # noqa: ASYNC110 - the page's state is no event of ours
                await asyncio.sleep(0.02)

    async def until(self, selector: str, text: str) -> None:
        """Wait until an element shows ``text`` among others."""
        seen = ""
        try:
            async with asyncio.timeout(LIMIT):
                while text not in (seen := await self.text(selector)):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{selector} shows {seen!r}, not {text!r}; {self.complaints}") from None

    async def look(self, width: int, height: int = 800, *, dark: bool = False) -> None:
        """Give the page a size and a colour scheme."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self) -> bytes:
        """Return the whole page as PNG."""
        told = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(told["data"])


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """Run a browser with one tab; ends it and its children afterwards."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            *(CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": folder, "TMPDIR": folder},
        )
        try:
            async with asyncio.timeout(2 * LIMIT):
                address = await _address(process)
            async with connect(address, max_size=None, proxy=None) as socket:
                page = Page(socket)
                listener = asyncio.create_task(page.listen())
                try:
                    await page.attach()
                    yield page
                finally:
                    # Listened to until the end: a connection that nobody reads takes its time to close.
                    _kill(process)
                    await asyncio.wait_for(listener, LIMIT)
        finally:
            _kill(process)
            await process.communicate()


def _kill(process: asyncio.subprocess.Process) -> None:
    """End the browser; its children follow.

    It is in the tests' process group, so that whoever stops them stops it too.
    """
    with suppress(ProcessLookupError):
        process.kill()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = b""
    async for line in process.stderr:
        said += line
        if line.startswith(b"DevTools listening on "):
            return line.split()[-1].decode()
    raise AssertionError(f"the browser has ended: {said.decode(errors='replace')}")
