"""The process: event loop, signals; and with several workers, the parent of them."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, TypeVar

import uvloop

from fastrouter import __version__, cpus, runtime
from fastrouter.admin.local import Local
from fastrouter.admin.serving import serving
from fastrouter.settings import UNCONFIGURED, SettingsError
from fastrouter.telemetry import logs
from fastrouter.telemetry.access_log import AccessLog
from fastrouter.telemetry.relay import Relay
from fastrouter.workers import Fleet, StartError

if TYPE_CHECKING:
    from fastrouter.admin.source import Source
    from fastrouter.server import Server
    from fastrouter.settings import Settings

T = TypeVar("T")

Told = asyncio.Task[signal.Signals]
"""Ends with the signal that ends the router."""

Reload = Callable[[], "Settings"]
"""Reads the configuration again; raises ``SettingsError`` or ``OSError``."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

USAGE_ERROR: Final = 2
"""The exit code for settings that the router cannot start with."""

_log = logging.getLogger(__name__)


def run(main: Coroutine[object, object, T]) -> T:
    """Run ``main`` on uvloop."""
    return uvloop.run(main)


async def until_signal() -> signal.Signals:
    """Wait for SIGTERM or SIGINT and return it; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()

    def receive(number: signal.Signals) -> None:
        if received.done():
            _die(number)
        received.set_result(number)

    for each in _SIGNALS:
        loop.add_signal_handler(each, receive, each)
    return await received


def _die(number: int, _: object = None) -> None:
    """End at once, as the signal would have it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the first process of a container outlives its own signals (pid_namespaces(7))


def _end_at_the_next_signal() -> None:
    """Let the kernel end the process at a second signal, whatever the event loop is doing."""
    loop = asyncio.get_running_loop()
    for each in _SIGNALS:
        loop.remove_signal_handler(each)
        signal.signal(each, _die if os.getpid() == 1 else signal.SIG_DFL)


async def serve(settings: Settings, reload: Reload | None = None) -> int:
    """Run one router until a signal; return the exit code. SIGHUP renews workers by ``reload``."""
    # From now on: a signal that comes before the router serves ends it as soon as it does.
    told = asyncio.create_task(until_signal())
    await asyncio.sleep(0)
    count = settings.workers or cpus.allowed()
    if count > 1:
        return await _serve_fleet(settings, count, reload or (lambda: settings), told)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, _log.info, "SIGHUP: with one worker, there is nobody to take over; restart the router"
    )
    try:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(runtime.router(settings))
            # First up and last down: they tell how the router starts, and that it is about to end.
            if not await _open_admin(stack, settings, Local(server)):
                return 1
            return await _serve_until_signal(server, told)
    except runtime.StartError as error:
        _log.error("cannot start", extra={"error": str(error)})
        return USAGE_ERROR


async def _open_admin(stack: AsyncExitStack, settings: Settings, source: Source) -> bool:
    try:
        await stack.enter_async_context(serving(settings, source))
    except OSError as error:
        _log.error("cannot listen on an admin port", extra={"error": str(error)})
        return False
    return True


async def _serve_until_signal(server: Server, told: Told) -> int:
    settings = server.settings
    try:
        await server.start()
    except OSError as error:
        return _cannot_listen(settings, error)
    _tell_start(settings, server.address, server.secure_address)
    settle_memory()
    await _until_told_to_end(settings, server, told)
    await server.shutdown()
    _log.info("stopped", extra={"requests": server.metrics.requests})
    return 0


async def _until_told_to_end(settings: Settings, server: Server | Fleet, told: Told) -> None:
    received = await told
    _log.info("shutting down", extra={"signal": received.name, "serving_for": settings.shutdown_delay})
    server.leave()
    _end_at_the_next_signal()
    await asyncio.sleep(settings.shutdown_delay)


async def _serve_fleet(settings: Settings, count: int, reload: Reload, told: Told) -> int:
    """Be the parent of ``count`` workers."""
    runtime.raise_file_limit()
    relay = Relay(sys.stdout.fileno())
    output = relay.open()
    writer = AccessLog(output)
    logs.send_through(writer.say, style=settings.log_format, level=settings.log_level)
    try:
        fleet = Fleet(settings, count, relay)
        async with AsyncExitStack() as stack:
            if not await _open_admin(stack, settings, fleet):
                return 1
            return await _serve_by(fleet, settings, reload, told)
    except OSError as error:
        return _cannot_listen(settings, error)
    finally:
        writer.close()
        os.close(output)
        relay.close()
        logs.set_up(sys.stdout, style=settings.log_format, level=settings.log_level)


async def _serve_by(fleet: Fleet, settings: Settings, reload: Reload, told: Told) -> int:
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    try:
        await fleet.start()
    except StartError as error:
        _log.error("cannot start", extra={"error": str(error)})
        return error.code
    except (OSError, RuntimeError) as error:  # no descriptor, process or thread left
        _log.error("cannot start a worker", extra={"error": str(error)})
        return 1
    _tell_start(settings, fleet.address, fleet.secure_address)
    settle_memory()
    renewing = asyncio.create_task(_renew(fleet, asked, reload))
    await _until_told_to_end(settings, fleet, told)
    renewing.cancel()
    await asyncio.wait([renewing])
    await fleet.shutdown()
    _log.info("stopped", extra={"requests": fleet.requests})
    return 0


async def _renew(fleet: Fleet, asked: asyncio.Event, reload: Reload) -> None:
    """Replace the workers each time it is asked for, with the settings as they are by then."""
    while await asked.wait():
        asked.clear()
        try:
            settings = reload()
        except (SettingsError, OSError) as error:
            _log.error("SIGHUP: invalid settings; nothing changes", extra={"error": str(error)})
            continue
        _log.info("SIGHUP: replacing the workers", extra={"settings": settings.shown()})
        try:
            done = await fleet.roll(settings)
        except (OSError, RuntimeError) as error:  # no descriptor, process or thread left: the next one may do
            _log.error("SIGHUP: cannot replace the workers", extra={"error": str(error)})
            continue
        if done:
            _log.info("SIGHUP: all workers are replaced")


def _cannot_listen(settings: Settings, error: OSError) -> int:
    _log.error("cannot listen", extra={"host": settings.host, "port": settings.port, "error": str(error)})
    return 1


def _tell_start(settings: Settings, address: tuple[str, int], secure: tuple[str, int] | None) -> None:
    effective = settings.shown() | {"host": address[0], "port": address[1]}
    if secure is not None:
        effective["https_port"] = secure[1]
    _log.info("listening", extra={"version": __version__, "settings": effective})
    if not settings.honours_pod_ip:
        _log.warning(UNCONFIGURED)


def settle_memory() -> None:
    """Let the collector leave alone what was made until now: it lives as long as the process."""
    gc.collect()
    gc.freeze()
