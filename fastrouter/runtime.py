"""What a router process needs around its server: limits, the log, traces, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import resource
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from fastrouter import __version__
from fastrouter.server import Server
from fastrouter.telemetry import logs
from fastrouter.telemetry.access_log import AccessLog
from fastrouter.telemetry.console import access_line
from fastrouter.tls import CertificateError, certificates_of

if TYPE_CHECKING:
    from fastrouter.settings import Settings
    from fastrouter.telemetry.tracing import Tracer

# From glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

# How long the last spans may take to be sent: nobody waits for a router that ends because of its traces.
_LAST_SPANS_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class StartError(Exception):
    """The router cannot start with these settings; the text says why."""


@asynccontextmanager
async def router(settings: Settings, **more: Any) -> AsyncIterator[Server]:
    """Make a server that does not listen yet, with all that its process needs; ``more`` is for the server.

    Raises ``StartError``. Lines of the log go through the writer of the access log until the end.
    """
    file_limit = raise_file_limit()
    keep_freed_memory()
    try:
        certificates = certificates_of(settings)
        tracer = _tracer_of(settings)
    except CertificateError as error:
        raise StartError(f"cannot use the TLS files: {error}") from error
    writer = AccessLog(
        sys.stdout.fileno(),
        share=settings.access_log_sample,
        shape=access_line if settings.log_format == "console" else None,
    )
    logs.send_through(writer.say, style=settings.log_format, level=settings.log_level)
    try:
        access_log = writer if settings.access_log else None
        told = {"access_log": access_log, "file_limit": file_limit, **more}
        yield Server(settings, certificates=certificates, tracer=tracer, **told)
    finally:
        if tracer is not None:
            await _send_the_last(tracer)
        writer.close()
        logs.set_up(sys.stdout, style=settings.log_format, level=settings.log_level)


def _tracer_of(settings: Settings) -> Tracer | None:
    if not settings.otel_endpoint:
        return None
    try:
        from fastrouter.telemetry.tracing import Tracer  # noqa: PLC0415 - an extra: a router does without
    except ModuleNotFoundError as error:
        raise StartError(f"traces need {error.name}: pip install 'fastrouter[otel]'") from error
    tracer = Tracer(settings.otel_endpoint, __version__)
    if tracer.is_on:
        return tracer
    tracer.close()
    return None


async def _send_the_last(tracer: Tracer) -> None:
    loop = asyncio.get_running_loop()
    sent: asyncio.Future[None] = loop.create_future()

    def send() -> None:
        tracer.close()
        with contextlib.suppress(RuntimeError):  # the loop did not wait
            loop.call_soon_threadsafe(sent.cancel)

    # A thread of the loop's executor would have to end before the process may.
    threading.Thread(target=send, name="last-spans", daemon=True).start()
    await asyncio.wait([sent], timeout=_LAST_SPANS_SECONDS)
    if not sent.done():
        _log.warning("the last traces could not be sent in time")


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
