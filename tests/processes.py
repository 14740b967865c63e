"""The router as a process of its own: for its memory, its signals and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tests.support import Client, eventually


@dataclass
class RouterProcess:
    """``fastrouter serve`` as a process of its own."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Its log and access lines so far."""

    async def follow(self) -> None:
        """Collect lines until the process closes its output."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def line(self, message: str) -> dict[str, Any] | None:
        """Return the log line with this message, once it is there."""
        return next((line for line in self.lines if line.get("message") == message), None)

    @property
    def address(self) -> tuple[str, int]:
        line = self.line("listening")
        assert line is not None
        return line["settings"]["host"], line["settings"]["port"]

    @property
    def resident(self) -> int:
        """Bytes of memory that the process holds now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    async def client(self) -> Client:
        """Connect to the router; the caller closes."""
        return Client(*await asyncio.open_connection(*self.address, limit=2**20))


R = TypeVar("R", bound=RouterProcess)


@asynccontextmanager
async def followed(router: R) -> AsyncIterator[R]:
    """Collect a router's lines, wait until it listens, and end it afterwards."""
    process = router.process
    follower = asyncio.create_task(router.follow())
    try:
        await eventually(lambda: router.line("listening") is not None or follower.done())
        yield router
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await follower


@asynccontextmanager
async def router_process(files: int = 0, **environ: str) -> AsyncIterator[RouterProcess]:
    """Run ``fastrouter serve`` on a free loopback port with variables of its own; end it afterwards.

    ``files`` limits how many it may have open.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "fastrouter", "serve", "--host", "127.0.0.1", "--port", "0"),
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files)) if files else None,
    )
    async with followed(RouterProcess(process)) as router:
        yield router
