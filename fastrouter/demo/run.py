"""`fastrouter demo`: sandboxes, their DNS server and the router in one process, with a first request made."""

import asyncio
import errno
import json
import shlex
import sys
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import NamedTuple, TextIO

from fastrouter.demo.dns import DnsServer
from fastrouter.demo.listener import authority
from fastrouter.demo.sandbox import Sandbox
from fastrouter.demo.status import StatusLine
from fastrouter.runtime import raise_file_limit
from fastrouter.server import Server
from fastrouter.settings import Settings
from fastrouter.supervisor import until_signal
from fastrouter.telemetry.access_log import AccessLog

HOST = "127.0.0.1"
SANDBOX_PORT = 8888  # the router's default: no X-Sandbox-Port in the printed commands
MOST_SANDBOXES = 200
FIRST_REPLY_TIMEOUT = 15.0
LONGEST_GRACE = 2.0  # Ctrl-C must not wait for an open SSE clock
REFRESH_INTERVAL = 1.0

Fields = dict[str, str]

PAGE = """\
Router on {router}, sandboxes {sandboxes}.

A first request went through the router:
  {execute}
  {status}
  {reply}

More to try in another shell (a clock, a big file, an upload and its download):
  {clock}
  {big}
  {upload}
  {download}

Ctrl-C stops all of it."""


class DemoError(Exception):
    """The demo cannot start; the text is for the user."""


class Demo(NamedTuple):
    """Everything that runs."""

    dns: DnsServer
    sandboxes: list[Sandbox]
    router: Server

    @property
    def url(self) -> str:
        """Where the router listens."""
        return "http://" + authority(*self.router.address)

    def seen(self) -> str:
        """How many sandboxes have been asked something, and of how many."""
        return f"{sum(1 for sandbox in self.sandboxes if sandbox.served)} of {len(self.sandboxes)}"


async def run_demo(
    settings: Settings,
    *,
    sandboxes: int = 5,
    sandbox_port: int = SANDBOX_PORT,
    out: TextIO | None = None,
    until: Awaitable[object] | None = None,
) -> int:
    """Run the demo until a signal (or until `until` is done); return the exit code."""
    out = out or sys.stdout
    raise_file_limit()
    # From here on a signal ends the demo in order, also while it is still starting.
    stop = asyncio.ensure_future(until_signal() if until is None else until)
    try:
        async with AsyncExitStack() as stack:
            demo = await _start(stack, settings, sandboxes, sandbox_port, out)
            port = {} if sandbox_port == SANDBOX_PORT else {"X-Sandbox-Port": str(sandbox_port)}
            await _introduce(demo, {"X-Sandbox-ID": demo.sandboxes[0].name, **port}, out)
            status = StatusLine(out, demo.router.statistics, demo.seen)
            while not (await asyncio.wait({stop}, timeout=REFRESH_INTERVAL))[0]:
                status.refresh()
            status.close()
        print(f"Stopped: {status.totals()}.", file=out, flush=True)
    except DemoError as error:
        print(f"fastrouter demo: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        stop.cancel()
    return 0


async def _start(stack: AsyncExitStack, settings: Settings, sandboxes: int, port: int, out: TextIO) -> Demo:
    if not 1 <= sandboxes <= MOST_SANDBOXES:
        text = f"the number of sandboxes must be 1 to {MOST_SANDBOXES}"
        raise DemoError(text)
    boxes = [Sandbox(f"sandbox-{i}", f"127.0.0.{10 + i}", port) for i in range(1, sandboxes + 1)]
    for box in boxes:
        stack.push_async_callback(box.close)
        await _listen(box.start(), f"sandbox {box.name}", box.host, box.port)
    zone = {f"{box.name}.default.svc.{settings.cluster_domain}": [box.host] for box in boxes}
    dns = await stack.enter_async_context(DnsServer(zone, record=False))
    settings = replace(
        settings,
        host=HOST,
        dns_servers=(dns.address,),
        shutdown_grace=min(settings.shutdown_grace, LONGEST_GRACE),
    )
    access_log = None
    # On a terminal the log would tear the status line apart.
    if settings.access_log and not out.isatty():
        access_log = AccessLog(out.fileno())
        stack.callback(access_log.close)
    router = Server(settings, access_log=access_log)
    await _listen(router.start(), "router", settings.host, settings.port)
    stack.push_async_callback(router.shutdown)
    return Demo(dns, boxes, router)


async def _listen(start: Awaitable[object], what: str, host: str, port: int) -> None:
    try:
        await start
    except OSError as error:
        # The text of the loop (uvloop, asyncio) differs; the number does not.
        reasons = {
            errno.EADDRINUSE: "the address is in use: stop what listens there, or choose another port",
            errno.EADDRNOTAVAIL: f"no such address here (macOS: sudo ifconfig lo0 alias {host} up)",
        }
        reason = reasons.get(error.errno or 0, str(error))
        text = f"the {what} cannot listen on {authority(host, port)}: {reason}"
        raise DemoError(text) from error


async def _introduce(demo: Demo, fields: Fields, out: TextIO) -> None:
    """Make a first request, and print it together with others to try."""
    fields_of_json = {**fields, "Content-Type": "application/json"}
    body = json.dumps({"command": f"echo hello from {fields['X-Sandbox-ID']}"})
    status, reply = await _first_reply(demo, fields_of_json, body)
    first, last = demo.sandboxes[0], demo.sandboxes[-1]
    text = PAGE.format(
        router=demo.url,
        sandboxes=f"{first.name} ({first.address}) to {last.name} ({last.address})",
        execute=_curl(demo.url + "/execute", fields_of_json, "-d", body),
        status=status,
        reply=reply,
        clock=_curl(demo.url + "/clock?interval=0.5&count=10", fields, "-N"),
        big=_curl(demo.url + "/big?bytes=67108864", fields, "-o", "/dev/null", "-w", "%{size_download}\\n"),
        upload=_curl(
            demo.url + "/upload?path=note.txt", {**fields, "Content-Type": "text/plain"}, "-d", "a note"
        ),
        download=_curl(demo.url + "/download/note.txt", fields),
    )
    print(text, file=out, flush=True)


async def _first_reply(demo: Demo, fields: Fields, body: str) -> tuple[str, str]:
    try:
        async with asyncio.timeout(FIRST_REPLY_TIMEOUT):
            status, reply = await _post(demo.router.address, "/execute", fields, body.encode())
    except (OSError, TimeoutError) as error:
        text = f"the first request had no reply: {error!r}"
        raise DemoError(text) from error
    if status.split(" ")[1:2] != ["200"]:
        text = f"the first request failed: {status} {reply}"
        raise DemoError(text)
    return status, reply


def _curl(url: str, fields: Fields, *options: str) -> str:
    headers = [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")]
    return shlex.join(["curl", "-sS", *headers, *options, url])


async def _post(address: tuple[str, int], path: str, fields: Fields, body: bytes) -> tuple[str, str]:
    """Return status line and body of the reply to one POST on a connection of its own."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        lines = [f"POST {path} HTTP/1.1", f"Host: {authority(*address)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        head, _, reply = (await reader.read(-1)).decode().partition("\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    return head.partition("\r\n")[0], reply.strip()
