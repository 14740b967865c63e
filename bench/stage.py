"""The stage: what every contender needs around it, and the processes of the run, started and pinned."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import nginx
from bench.processes import Child, accepts, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.serving import Address


@dataclass(frozen=True)
class Cores:
    """Which core runs what; None where there is only one, and nothing can be pinned apart."""

    tested: int | None
    other: int | None

    @classmethod
    def choose(cls) -> Cores:
        """Take the first two cores that this process may use."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(tested=cores[1], other=cores[0]) if len(cores) > 1 else cls(None, None)


class Stage:
    """The sandboxes, the DNS server and a folder for everybody; contenders enter it."""

    def __init__(self, stack: ExitStack, cores: Cores, sandbox: str, dns_port: int = 0) -> None:
        """Start what all share; `stack` ends it."""
        self._cores = cores
        self._nginx = nginx.find() if sandbox == "nginx" else None
        self._folders = 0
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastrouter-bench-")))
        self.files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.own_port = self._module(stack, "sandbox", "0.0.0.0:0")[1]
        self.dns = self._module(stack, "dns", f"127.0.0.1:{dns_port}")

    @property
    def sandbox(self) -> str:
        """What answers, in words."""
        return "nginx for /execute, own for the rest" if self._nginx else "own"

    def small_sandbox(self, stack: ExitStack) -> int:
        """The port of a sandbox for /execute: an nginx of one's own, where there is nginx.

        One for each contender: 10,000 idle connections of two of them are all that a process may have open.
        """
        if self._nginx is None:
            return self.own_port
        port = free_port()
        command = nginx.command(self._nginx, self.new_folder("sandbox"), port, self.files)
        child = stack.enter_context(Child("nginx", command, core=self._cores.other))
        child.wait_until(lambda: accepts(("127.0.0.1", port)))
        return port

    def start(
        self,
        stack: ExitStack,
        name: str,
        command: Sequence[str],
        *,
        merged: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a contender on the core under test."""
        core = self._cores.tested
        child = Child(
            name, command, core=core, environment={**os.environ, **(environment or {})}, merged=merged
        )
        return stack.enter_context(child)

    def new_folder(self, name: str) -> Path:
        """A folder that nobody else uses."""
        self._folders += 1
        path = self.folder / f"{self._folders}-{name}"
        path.mkdir()
        return path

    def _module(self, stack: ExitStack, name: str, listen: str) -> Address:
        command = [sys.executable, "-m", f"bench.{name}", "--listen", listen]
        return stack.enter_context(Child(name, command, core=self._cores.other)).listening_on()
