"""One worker process: ``python -m fastrouter.worker FD``; only ``fastrouter.launch`` starts it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from typing import Any, Final

from fastrouter import control, runtime, supervisor
from fastrouter.admin.local import Local
from fastrouter.control import Channel, Message, Order
from fastrouter.server import Server
from fastrouter.telemetry import logs

RETIRE_SECONDS: Final = 5.0
"""How long idle clients are served on by a worker whose place another one has taken."""
_LOOK_SECONDS: Final = 0.1

_log = logging.getLogger(__name__)


class Obedience:
    """Answers the parent, and learns from it when to end."""

    def __init__(self, channel: Channel, server: Server) -> None:
        self.order: asyncio.Future[Order] = asyncio.get_running_loop().create_future()
        """How to end."""
        self._channel = channel
        self._leaving = False
        self._server = server
        self._local = Local(server)
        self._answering: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Obedience {self.order!r}>"

    async def obey(self) -> None:
        """Do what the parent says, until there is no parent."""
        loop = asyncio.get_running_loop()
        while (message := await self._channel.receive()) is not None:
            if "leaving" in message:
                self._leaving = True
            elif "order" in message:
                self.end(message["order"])
            else:  # in a task: what asks the DNS may wait, and counters must not wait for it
                task = loop.create_task(self._answer(message))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
        if self._leaving or self.order.done():
            os._exit(1)  # told to end, and then left alone: the parent was ended by a second signal
        _log.warning("the parent is gone: shutting down")
        self.end("shutdown")

    def end(self, order: Order) -> None:
        """Begin to end, if it has not begun."""
        if not self.order.done():
            self.order.set_result(order)

    async def _answer(self, message: Message) -> None:
        unready = message["ask"] == "unready"
        answer = await self._local.unready() if unready else self._server.snapshot().to_json()
        self._channel.send({"number": message["number"], "answer": answer})


async def work(channel: Channel, server: Server) -> None:
    """Serve until told to end."""
    obedience = Obedience(channel, server)
    loop = asyncio.get_running_loop()
    # The parent's signals: whoever sends them to all processes of the router (systemd does) means the parent,
    # which may have to serve on for a while. Until here they were blocked (fastrouter.launch); ignored, what
    # waits is dropped.
    for each in control.PARENTS_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    await server.start()
    obeying = loop.create_task(obedience.obey())
    channel.send({"listening": True})
    _log.info("worker started", extra={"pid": os.getpid()})
    supervisor.settle_memory()
    order = await obedience.order
    await (retire(server) if order == "retire" else server.shutdown())
    channel.send({"last": server.snapshot().to_json()})
    _log.info("worker stopped", extra={"pid": os.getpid(), "order": order})
    obeying.cancel()


async def retire(server: Server) -> None:
    """Leave the sockets to another process, serve on who is connected, and stop.

    Who waits in the kernel's queue is the other one's. Each connection gets one more answer, with
    ``Connection: close``; it may take its time to ask for it, so that it is not closed while it asks.
    """
    server.stop_listening()
    began = now = time.monotonic()
    end = began + server.settings.shutdown_grace
    while now < end and (_busy(server) or now < began + RETIRE_SECONDS):
        for connection in server.connections:
            connection.finish()
        # Before the first look: a connection that was just accepted is in the server's set only then.
        await asyncio.sleep(_LOOK_SECONDS)
        if not server.connections:
            break
        now = time.monotonic()
    await server.shutdown(max(0.0, end - now))


def _busy(server: Server) -> bool:
    return any(connection.busy for connection in server.connections)


async def main(fd: int) -> int:
    """Take the first message, which says what to do, and do it."""
    channel = await Channel.over(socket.socket(fileno=fd))
    told = await channel.receive()
    if told is None:
        return 1
    settings = control.unpacked(told["settings"])
    sockets = [[socket.socket(fileno=number) for number in group] for group in told["sockets"]]
    name_records(told["slot"])
    logs.set_up(sys.stdout, style=settings.log_format, level=settings.log_level)
    try:
        async with runtime.router(settings, sockets=sockets) as server:
            await work(channel, server)
    except runtime.StartError as error:
        _log.error("cannot start", extra={"error": str(error)})
        return supervisor.USAGE_ERROR
    await channel.close()
    return 0


def name_records(slot: int) -> None:
    """Let every line of the log say which worker wrote it."""
    make = logging.getLogRecordFactory()

    def make_named(*args: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*args, **keywords)
        record.worker = slot
        return record

    logging.setLogRecordFactory(make_named)


if __name__ == "__main__":
    sys.exit(supervisor.run(main(int(sys.argv[1]))))
