"""The parent's side of several worker processes: it starts, replaces, asks and ends them.

Why it is so, and what was tried: docs/decisions/0013.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fastrouter import __version__
from fastrouter.control import Order
from fastrouter.launch import Worker, counted, described, launch
from fastrouter.net.ports import Ports
from fastrouter.telemetry.relay import Relay
from fastrouter.telemetry.snapshot import Snapshot, empty, merged

if TYPE_CHECKING:
    from fastrouter.settings import Settings

# What a worker may take beyond the grace time until it is killed.
_SPARE_SECONDS: Final = 5.0

# Between the deaths of a slot's workers; one that lived long enough begins anew.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_LONG_LIFE: Final = 10.0

# For settings that one worker serves with already.
_TRIES: Final = 6

_FIXED: Final = ("host", "port", "https_port", "workers", "health_port", "metrics_port")
"""Settings of the parent, which stays: a change needs a restart."""

_FIXED_WITH_TLS: Final = (*_FIXED, "tls_cert_file", "tls_key_file", "tls_client_ca_file", "mtls_mode")

_log = logging.getLogger(__name__)


class StartError(Exception):
    """A worker ended before it served, at the first start: so would every other one."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a worker ended at its start: {described(code)}")
        self.code = code if code > 0 else 1
        """What the router exits with."""


class Slot:
    """A place for one worker at a time, with its share of the ports."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.settings: Settings | None = None
        """What the worker was started with."""
        self.pause = 0.0
        """How long the last one that died was waited for."""
        self.turn = asyncio.Lock()
        """Held by who puts another worker here."""

    def __repr__(self) -> str:
        return f"<Slot {self.number} {self.worker!r}>"

    @property
    def serves(self) -> bool:
        """Whether somebody accepts connections here."""
        return self.worker is not None and self.worker.listening


class Fleet:
    """All workers of one router; answers for them as a ``Source``."""

    def __init__(self, settings: Settings, count: int, relay: Relay) -> None:
        """Listen for ``count`` workers, which write through ``relay``; ``OSError`` where a port is taken."""
        self._settings = settings
        self._relay = relay
        self._ports = Ports(settings.host, settings.port, count)
        self._tls_ports: Ports | None = None
        if settings.tls_cert_file:
            try:
                self._tls_ports = Ports(settings.host, settings.https_port, count)
            except OSError:
                self._ports.close()
                raise
        self._slots = [Slot(number) for number in range(count)]
        self._workers: set[Worker] = set()
        """All that have not ended: in a slot, or about to leave."""
        self._past = empty(os.getpid(), __version__, time.time())
        """What ended workers counted: it must not be lost with them, or the counters would fall."""
        self._ended = False
        self._keepers: set[asyncio.Task[None]] = set()
        self._leavers: set[asyncio.Task[None]] = set()
        self.leaving = False
        """Set when the router was told to stop, though it may serve on for a while."""

    def __repr__(self) -> str:
        return f"<Fleet {self._slots}>"

    @property
    def address(self) -> tuple[str, int]:
        """The address and port that is listened on."""
        return self._ports.address

    @property
    def secure_address(self) -> tuple[str, int] | None:
        """The same for TLS, where there is a certificate."""
        return self._tls_ports.address if self._tls_ports is not None else None

    @property
    def requests(self) -> int:
        """How many requests the workers that have ended answered."""
        return int(sum(self._past.values["requests"].values()))

    async def start(self) -> None:
        """Start all workers and wait until they serve.

        Raises ``StartError`` where one does not, and ``OSError`` or ``RuntimeError`` where one cannot be
        started; those that had been are ended.
        """
        try:
            workers = [await self._launch(slot, self._settings) for slot in self._slots]
            if not all([await worker.started() for worker in workers]):
                raise StartError(next(worker.code for worker in workers if worker.code is not None))
        except (StartError, OSError, RuntimeError):
            await self.shutdown()
            raise
        for slot, worker in zip(self._slots, workers, strict=True):
            self._put(slot, worker, self._settings)
        self._steer()

    async def snapshots(self) -> list[Snapshot]:
        """Return what each worker tells of itself, and what those before them counted."""
        # Both of one moment: who ends meanwhile must not count twice.
        past, workers = self._past, list(self._workers)
        found = await asyncio.gather(*(worker.snapshot() for worker in workers))
        told = [snapshot for snapshot in found if snapshot is not None]
        return [*told, past] if self._ended else told

    async def unready(self) -> list[str]:
        """Return why no worker should get new clients; one that should is enough."""
        if self.leaving:
            return ["shutting down"]
        reasons = await asyncio.gather(*(self._reasons(slot) for slot in self._slots))
        return [] if [] in reasons else [reason for each in reasons for reason in each]

    async def _reasons(self, slot: Slot) -> list[str]:
        if slot.worker is None or not slot.serves:
            return [f"worker {slot.number} is not running"]
        try:
            told: list[str] = await slot.worker.ask("unready")
        except TimeoutError:
            return [f"worker {slot.number} does not answer"]
        return [f"worker {slot.number}: {reason}" for reason in told]

    async def roll(self, settings: Settings) -> bool:
        """Replace all workers, one after the other, by such with new settings; False: not all could be.

        If the first new one fails, all keep the old settings. If a later one does, the settings are known to
        work, and it is tried again. The next one accepts from the same sockets before the last one stops, and
        in the kernel's queue nobody is lost.
        """
        # A certificate may change; whether there is one decides about a port.
        same = bool(settings.tls_cert_file) == bool(self._settings.tls_cert_file)
        names = _FIXED if same else _FIXED_WITH_TLS
        fixed = {name: getattr(self._settings, name) for name in names}
        changed = [name for name, value in fixed.items() if getattr(settings, name) != value]
        if changed:
            _log.warning("settings that need a restart stay as they are", extra={"settings": changed})
        settings = replace(settings, **fixed)
        for slot in self._slots:
            async with slot.turn:
                worker = await self._successor(slot, settings, tries=_TRIES if slot.number else 1)
                if worker is None:
                    self._tell_failure(settings)
                    return False
                old = slot.worker
                self._put(slot, worker, settings)
                # From now on, one that is replaced gets the new ones too.
                self._settings = settings
                self._steer()
            if old is not None:
                await self._end(old, "retire")
        return True

    async def _successor(self, slot: Slot, settings: Settings, tries: int) -> Worker | None:
        """Return a worker that serves beside the one in the slot; None where none does."""
        for left in reversed(range(tries)):
            try:
                worker = await self._launch(slot, settings)
            except (OSError, RuntimeError) as error:
                why: dict[str, object] = {"worker": slot.number, "error": str(error)}
            else:
                if await worker.started():
                    return worker
                why = _end(worker)
            _log.error("a new worker does not start", extra=why | {"tries_left": left})
            if left:
                await asyncio.sleep(min(_FIRST_PAUSE * 2 ** (tries - 1 - left), _LONGEST_PAUSE))
        return None

    def _tell_failure(self, settings: Settings) -> None:
        new = sum(slot.settings is settings for slot in self._slots)
        if new:
            _log.error("workers differ: %d of %d have the new settings", new, len(self._slots))
        else:
            _log.error("no worker starts with the new settings: all keep the old ones")

    def leave(self) -> None:
        """Note that the router was told to stop; from now on no worker outlives this process."""
        self.leaving = True
        for worker in self._workers:
            worker.tell_leaving()

    async def shutdown(self) -> None:
        """End all workers: what they have begun has the grace time."""
        self.leaving = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        # The workers hold the sockets as well, and empty the queues before they close them.
        for ports in self._all_ports:
            ports.close()
        await asyncio.gather(*(self._end(worker, "shutdown") for worker in list(self._workers)))
        await asyncio.gather(*self._leavers)

    async def _launch(self, slot: Slot, settings: Settings) -> Worker:
        output = self._relay.open()
        try:
            tls = self._tls_ports.of(slot.number) if self._tls_ports is not None else []
            sockets = [self._ports.of(slot.number), tls]
            worker = await launch(slot.number, settings, sockets, output)
        finally:
            os.close(output)
        self._workers.add(worker)
        if self.leaving:
            worker.tell_leaving()
        leaver = asyncio.get_running_loop().create_task(self._see_off(worker))
        self._leavers.add(leaver)
        leaver.add_done_callback(self._leavers.discard)
        return worker

    async def _see_off(self, worker: Worker) -> None:
        """Keep what a worker counted when it ends."""
        await worker.ended()
        self._workers.discard(worker)
        if worker.last is not None:
            self._ended = True
            started = self._past.started
            self._past = replace(merged([self._past, counted(worker.last)]), started=started)

    async def _end(self, worker: Worker, order: Order) -> None:
        await worker.end(order, self._settings.shutdown_grace + _SPARE_SECONDS)

    def _put(self, slot: Slot, worker: Worker, settings: Settings) -> None:
        """Give the slot to a worker, and watch it from now on: the one before may still be retiring."""
        slot.worker, slot.settings = worker, settings
        keeper = asyncio.get_running_loop().create_task(self._keep(slot, worker))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)

    async def _keep(self, slot: Slot, worker: Worker) -> None:
        """Put another worker into the slot if this one ends though nobody told it to."""
        await worker.ended()
        self._steer()  # before the turn, for which a worker that starts may have to be waited
        async with slot.turn:
            if slot.worker is not worker:  # it had been replaced before
                return
            anew = time.monotonic() - worker.began >= _LONG_LIFE
            slot.pause = _longer(0.0 if anew else slot.pause)
            _log.error("worker died", extra=_end(worker) | {"again_in": slot.pause})
            settings, successor = await self._refill(slot)
            self._put(slot, successor, settings)
            if await successor.started():
                self._steer()

    async def _refill(self, slot: Slot) -> tuple[Settings, Worker]:
        """Start a worker after the slot's pause, and try until the machine allows it."""
        while True:
            await asyncio.sleep(slot.pause)
            settings = self._settings
            try:
                return settings, await self._launch(slot, settings)
            except (OSError, RuntimeError) as error:  # no descriptor, process or thread left
                slot.pause = _longer(slot.pause)
                told = {"worker": slot.number, "error": str(error), "again_in": slot.pause}
                _log.error("cannot start a worker", extra=told)

    def _steer(self) -> None:
        """Leave slots out where nobody accepts; where all are, whoever comes waits for the first."""
        live = [slot.number for slot in self._slots if slot.serves]
        if live and not self.leaving:
            for ports in self._all_ports:
                ports.steer(live)

    @property
    def _all_ports(self) -> list[Ports]:
        return [self._ports] if self._tls_ports is None else [self._ports, self._tls_ports]


def _longer(pause: float) -> float:
    return min(2 * pause, _LONGEST_PAUSE) if pause else _FIRST_PAUSE


def _end(worker: Worker) -> dict[str, object]:
    assert worker.code is not None  # noqa: S101 - called for those that have ended
    return {"worker": worker.slot, "pid": worker.pid, "ended": described(worker.code)}
