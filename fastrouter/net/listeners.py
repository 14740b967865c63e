"""The listeners of a router, plain and TLS, as one."""

from __future__ import annotations

from fastrouter.net.listener import Listener


class Listeners:
    """What one listener can do, done with all."""

    def __init__(self, *listeners: Listener) -> None:
        self._all = listeners

    async def start(self) -> None:
        """Listen; where one cannot, none does, and its ``OSError`` is raised."""
        try:
            for each in self._all:
                await each.start()
        except OSError:
            self.close()
            raise

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The address and port of each."""
        return [each.address for each in self._all]

    @property
    def paused(self) -> bool:
        """True while nobody accepts: one that could not go on is paused still."""
        return any(each.paused for each in self._all)

    @property
    def listening(self) -> bool:
        """True from start to close."""
        return all(each.listening for each in self._all)

    def pause(self) -> None:
        """Accept no more."""
        for each in self._all:
            each.pause()

    def resume(self) -> None:
        """Accept again."""
        for each in self._all:
            each.resume()

    async def drain(self) -> None:
        """Accept who waits in the kernel's queues."""
        for each in self._all:
            await each.drain()

    def close(self) -> None:
        """Stop listening."""
        for each in self._all:
            each.close()
