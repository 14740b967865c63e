"""The demo: in this process with an end of its own, and as a user starts it."""

import asyncio
import io
import json
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing

import httpx
import pytest

from fastrouter.demo import run
from fastrouter.demo.listener import bind
from fastrouter.demo.run import run_demo
from fastrouter.settings import Settings

LAST_LINE = "Ctrl-C stops all of it."
SETTINGS = Settings(port=0, access_log=False)


class Page(io.StringIO):
    """What the demo prints; tells when a text has been printed."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal
        self.awaited = LAST_LINE
        self.printed = asyncio.Event()

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.awaited in self.getvalue():
            self.printed.set()
        return written

    async def shows(self, text: str) -> None:
        self.awaited = text
        self.printed.clear()
        self.write("")
        async with asyncio.timeout(10):
            await self.printed.wait()


@pytest.fixture
def sandbox_port() -> int:
    """Return a port that is free on the addresses of two sandboxes."""
    while True:
        with ExitStack() as stack:
            first = stack.enter_context(closing(bind(socket.SOCK_STREAM, "127.0.0.11", 0)))
            port: int = first.getsockname()[1]
            try:
                stack.enter_context(closing(bind(socket.SOCK_STREAM, "127.0.0.12", port)))
            except OSError:
                continue
            return port


@asynccontextmanager
async def demo(page: Page, port: int, settings: Settings = SETTINGS) -> AsyncIterator[asyncio.Task[int]]:
    stop = asyncio.Event()
    task = asyncio.create_task(
        run_demo(settings, sandboxes=2, sandbox_port=port, out=page, until=stop.wait()), name="demo"
    )
    waiting = asyncio.create_task(page.shows(LAST_LINE))
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield task
    finally:
        stop.set()
        async with asyncio.timeout(10):
            assert await task == 0


def commands(page: str) -> list[list[str]]:
    return [shlex.split(line) for line in page.splitlines() if line.startswith("  curl ")]


async def perform(command: list[str]) -> str:
    """Run a printed command: with curl where there is one, else by what its options mean."""
    if shutil.which("curl"):
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        stdout, _ = await process.communicate()
        assert process.returncode == 0
        return stdout.decode()
    words = iter(command[1:])
    options = dict(_options(words))
    headers = dict(value.split(": ", 1) for key, value in options.items() if key.startswith("-H"))
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        method = "POST" if "-d" in options else "GET"
        reply = await client.request(method, options["url"], headers=headers, content=options.get("-d", ""))
    if "-w" in options:
        return options["-w"].replace("%{size_download}", str(len(reply.content))).replace("\\n", "\n")
    return reply.text


def _options(words: Iterator[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        if word in {"-H", "-d", "-o", "-w"}:
            value = next(words)
            yield (word + value if word == "-H" else word), value
        elif not word.startswith("-"):
            yield "url", word


async def test_a_first_request_is_made_and_its_curl_works(sandbox_port: int) -> None:
    page = Page()
    async with demo(page, sandbox_port):
        text = page.getvalue()
        first, clock, big, upload, download = commands(text)
        expected = {"stdout": "hello from sandbox-1\n", "stderr": "", "exit_code": 0}
        assert "\n  HTTP/1.1 200 OK\n" in text
        assert f"\n  {json.dumps(expected)}\n" in text
        assert json.loads(await perform(first)) == expected
        assert (await perform(big)) == "67108864\n"
        assert json.loads(await perform(upload))["path"] == "note.txt"
        assert await perform(download) == "a note"
        url = clock[-1].replace("interval=0.5&count=10", "interval=0.01&count=3")
        assert (await perform([*clock[:-1], url])).count("event: tick\n") == 3
    assert page.getvalue().endswith("Stopped: 6 requests, 0 errors, 1 of 2 sandboxes seen.\n")
    assert "\r" not in page.getvalue()


async def test_the_end_frees_every_address(sandbox_port: int) -> None:
    for _ in range(2):
        page = Page()
        async with demo(page, sandbox_port):
            assert LAST_LINE in page.getvalue()
    bind(socket.SOCK_STREAM, "127.0.0.11", sandbox_port).close()


async def test_an_open_clock_does_not_hold_up_the_end(
    sandbox_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LONGEST_GRACE", 0.1)
    page = Page()
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        async with demo(page, sandbox_port):
            options = dict(_options(iter(commands(page.getvalue())[1][1:])))
            headers = dict(value.split(": ", 1) for key, value in options.items() if key.startswith("-H"))
            request = client.build_request("GET", options["url"].split("?")[0], headers=headers)
            reply = await client.send(request, stream=True)
            assert reply.status_code == 200
        with pytest.raises(httpx.TransportError):
            await reply.aread()


async def test_a_terminal_has_a_status_line_and_no_access_log(
    sandbox_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "REFRESH_INTERVAL", 0.01)
    page = Page(terminal=True)
    async with demo(page, sandbox_port, Settings(port=0)):
        await page.shows("requests/s, 1 requests, 0 errors, 1 of 2 sandboxes seen")
    assert "/execute" not in capsys.readouterr().out
    lines = page.getvalue().rpartition("\r")
    assert lines[2] == "Stopped: 1 requests, 0 errors, 1 of 2 sandboxes seen.\n"


async def test_a_taken_sandbox_port_is_a_clear_error(
    sandbox_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with bind(socket.SOCK_STREAM, "127.0.0.12", sandbox_port) as taken:
        taken.listen()
        code = await run_demo(
            SETTINGS, sandboxes=2, sandbox_port=sandbox_port, out=Page(), until=asyncio.sleep(60)
        )
    assert code == 1
    assert f"the sandbox sandbox-2 cannot listen on 127.0.0.12:{sandbox_port}: " in capsys.readouterr().err


async def test_a_taken_router_port_is_a_clear_error(
    sandbox_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with bind(socket.SOCK_STREAM, "127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        settings = Settings(port=port, access_log=False)
        code = await run_demo(
            settings, sandboxes=1, sandbox_port=sandbox_port, out=Page(), until=asyncio.sleep(60)
        )
    assert code == 1
    assert f"the router cannot listen on 127.0.0.1:{port}: the address is in use" in capsys.readouterr().err


@pytest.mark.parametrize("number", [0, 201])
async def test_the_number_of_sandboxes_is_bounded(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run_demo(SETTINGS, sandboxes=number, out=Page(), until=asyncio.sleep(60)) == 1
    assert "the number of sandboxes must be 1 to 200" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_runs_until_a_signal(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fastrouter", "demo", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(20):
            page = (await process.stdout.readuntil(LAST_LINE.encode())).decode()
            (first, *_) = commands(page)
            assert json.loads(await perform(first))["stdout"] == "hello from sandbox-1\n"
            process.send_signal(number)
            rest, errors = await process.stdout.read(), await process.stderr.read()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    *log, last = rest.decode().split("\n", 1)[1].splitlines()
    assert last == "Stopped: 2 requests, 0 errors, 1 of 5 sandboxes seen."
    # Without a terminal the access log is on, as it is set, and complete before the last line.
    assert [json.loads(line)["path"] for line in log] == ["/execute", "/execute"]
    assert b"Traceback" not in errors
