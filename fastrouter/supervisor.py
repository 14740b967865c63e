"""The process: event loop, limits, signals."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import resource
import signal
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Final, TypeVar

import uvloop

from fastrouter import __version__
from fastrouter.server import Server
from fastrouter.settings import UNCONFIGURED
from fastrouter.telemetry import logs
from fastrouter.telemetry.access_log import AccessLog

if TYPE_CHECKING:
    from fastrouter.settings import Settings

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

# From glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

_log = logging.getLogger(__name__)


def run(main: Coroutine[object, object, T]) -> T:
    """Run ``main`` on uvloop."""
    return uvloop.run(main)


async def until_signal() -> signal.Signals:
    """Wait for SIGTERM or SIGINT and return it; afterwards a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()

    def receive(number: signal.Signals) -> None:
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        received.set_result(number)

    for each in _SIGNALS:
        loop.add_signal_handler(each, receive, each)
    return await received


async def serve(settings: Settings) -> int:
    """Run one router until a signal; return the exit code."""
    file_limit = raise_file_limit()
    keep_freed_memory()
    writer = AccessLog(sys.stdout.fileno())
    logs.send_through(writer.say)
    try:
        return await _serve(settings, writer, file_limit)
    finally:
        writer.close()
        logs.set_up(sys.stdout)


async def _serve(settings: Settings, writer: AccessLog, file_limit: int) -> int:
    access_log = writer if settings.access_log else None
    server = Server(settings, access_log=access_log, file_limit=file_limit)
    try:
        await server.start()
    except OSError as error:
        _log.error("cannot listen", extra={"host": settings.host, "port": settings.port, "error": str(error)})
        return 1
    host, port = server.address
    effective = settings.shown() | {"host": host, "port": port}
    _log.info("listening", extra={"version": __version__, "settings": effective})
    if not settings.honours_pod_ip:
        _log.warning(UNCONFIGURED)
    # What was made until now lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    received = await until_signal()
    _log.info("shutting down", extra={"signal": received.name})
    await server.shutdown()
    _log.info("stopped", extra={"requests": server.requests})
    return 0


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed buffers (mallopt(3)); other C libraries are left as they are.

    Every read of a body allocates up to 256 KB. By default glibc gives such a buffer back to the kernel when
    it is freed, and the next read pays for fresh pages: docs/decisions/0007.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 4 * 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 64 * 1024 * 1024)


def raise_file_limit() -> int:
    """Raise the limit of open files to the hard limit, and return it: each exchange holds two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
