"""Names -> addresses, on aiodns (c-ares).

``getaddrinfo`` runs in four threads and walks the search list: at high fan-out that is a queue in front of
every fresh sandbox. Here a question carries a trailing dot, answers live as long as their TTL says, and many
who ask for one name share one question.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import aiodns
import pycares

from fastrouter.errors import DNS_FAILURE, DNS_NOT_FOUND, Cause

# A sandbox's name appears moments after the sandbox: "no such name" must not outlive it, whatever the SOA
# record allows (RFC 2308 would let CoreDNS' answer live for 5 to 30 s).
NEGATIVE_SECONDS: Final = 1.0
# While the DNS server fails, the last good answer is better than none; after this long it is a guess.
STALE_SECONDS: Final = 600.0
_MAX_NAMES: Final = 65536
# One question: two tries of one second each, inside the 5 s of a connect attempt.
_TIMEOUT_SECONDS: Final = 1.0
_TRIES: Final = 2
# All questions share one UDP socket: at the system's default, three of four answers to 1,000 questions asked
# at once were lost and came with the second try (the kernel caps the size at net.core.rmem_max).
_RECEIVE_BUFFER: Final = 4 * 1024 * 1024
# A probe's limit, and how long its result is kept: however many probe, DNS sees one question in two seconds.
PROBE_SECONDS: Final = 2.0
_NOT_FOUND: Final = frozenset({aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENONAME})


class NameNotFoundError(Exception):
    """The DNS server says that the name does not exist, or has no address."""

    cause: Cause = DNS_NOT_FOUND


class NameFailureError(Exception):
    """The DNS server gave no answer, or said that it failed."""

    cause: Cause = DNS_FAILURE


class Answer(NamedTuple):
    """What is known of a name; no addresses: that it does not exist. Times are monotonic seconds."""

    addresses: list[str]
    fresh_until: float
    stale_until: float
    """How long it may be served while the DNS server fails; serving it does not prolong that."""
    generation: int
    """Which of the resolver's channels said so."""


class Channel:
    """One c-ares channel. c-ares keeps answers of its own, negative ones for as long as the SOA says.

    It has no switch for that (in aiodns), but its memory goes with the channel: to ask a name anew, the
    resolver retires the channel that answered before.
    """

    def __init__(self, servers: Sequence[str]) -> None:
        self._resolver = aiodns.DNSResolver(
            nameservers=list(servers) or None,
            timeout=_TIMEOUT_SECONDS,
            tries=_TRIES,
            socket_receive_buffer_size=_RECEIVE_BUFFER,
        )
        self._asking = 0
        self._retired = False

    async def ask(self, name: str) -> list[tuple[str, float]]:
        """Return addresses with their TTL in seconds, none where the name has none.

        Raises ``aiodns.error.DNSError`` for everything else that is no answer.
        """
        self._asking += 1  # for both questions: between them the channel must not close
        try:
            # A cluster of one family costs one question: IPv6 only where there is no IPv4.
            return await self._question(name, "A") or await self._question(name, "AAAA")
        finally:
            self._asking -= 1
            if self._retired and not self._asking:
                await self._resolver.close()

    async def check(self, name: str) -> None:
        """Ask for IPv4 addresses only; raises ``aiodns.error.DNSError`` where nothing usable comes back.

        That a name does not exist, or has no address, is an answer.
        """
        try:
            await self._question(name, "A")
        except aiodns.error.DNSError as error:
            if error.args[0] not in _NOT_FOUND:
                raise

    async def _question(self, name: str, record: str) -> list[tuple[str, float]]:
        try:
            result = await self._resolver.query_dns(name, record)
        except aiodns.error.DNSError as error:
            if error.args[0] == aiodns.error.ARES_ENODATA:
                return []
            raise
        return [
            (entry.data.addr, float(entry.ttl))
            for entry in result.answer
            if isinstance(entry.data, pycares.ARecordData | pycares.AAAARecordData)
        ]

    async def retire(self) -> None:
        """Close the channel once its questions are answered."""
        self._retired = True
        if not self._asking:
            await self._resolver.close()


class Resolver:
    """A cache in front of c-ares channels.

    ``servers`` (``127.0.0.1:5353``) stand in for those of ``/etc/resolv.conf``. With ``keep`` off every
    ``resolve`` asks, as the reference router does.
    """

    def __init__(
        self,
        servers: Sequence[str] = (),
        *,
        keep: bool = True,
        told: Callable[[str, float], None] = lambda _outcome, _seconds: None,
    ) -> None:
        """Ask ``servers``; ``told`` hears of each answer: its outcome, and the seconds that it took."""
        self._told = told
        self._servers = servers
        self._keep = keep
        self._channel: Channel | None = None
        self._generation = 0
        self._trusted_until = 0.0
        self._answers: dict[str, Answer] = {}
        self._asking: dict[str, asyncio.Task[list[str]]] = {}
        self._probing: asyncio.Task[str] | None = None
        self._probed_until = 0.0
        self.questions = 0

    def __repr__(self) -> str:
        return f"<Resolver names={len(self._answers)} asking={len(self._asking)} questions={self.questions}>"

    async def resolve(self, name: str) -> list[str]:
        """Return the addresses of ``name`` (no trailing dot).

        Raises ``NameNotFoundError``, or ``NameFailureError`` when the server fails and no answer is left.
        """
        known = self._answers.get(name)
        if known is not None and time.monotonic() < known.fresh_until:
            if not known.addresses:
                raise NameNotFoundError(f"{name}: no such name")
            return known.addresses
        task = self._asking.get(name)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(name, known))
            self._asking[name] = task
            task.add_done_callback(lambda done: self._asked(name, done))
        # Shielded: the question is shared, and one client that leaves must not take it from the others.
        return await asyncio.shield(task)

    def forget(self, name: str) -> None:
        """Ask anew next time: the address did not answer. It stays the last resort while DNS fails."""
        known = self._answers.get(name)
        if known is not None:
            self._answers[name] = known._replace(fresh_until=min(known.fresh_until, time.monotonic()))

    async def probe(self, name: str) -> str:
        """Return why the DNS servers do not answer, nothing where they do.

        Asks them, whatever is remembered of ``name``. Who probes within ``PROBE_SECONDS`` shares one result.
        """
        task = self._probing
        if task is None or (task.done() and time.monotonic() >= self._probed_until):
            task = self._probing = asyncio.get_running_loop().create_task(self._probe(name))
        await asyncio.wait([task])  # which leaves the question to the others when one of them leaves
        return "the router has stopped asking" if task.cancelled() else task.result()

    async def close(self) -> None:
        """Give up open questions and close the channel."""
        for task in self._asking.values():
            task.cancel()
        if self._probing is not None:
            self._probing.cancel()
        if self._channel is not None:
            await self._channel.retire()

    def _asked(self, name: str, task: asyncio.Task[list[str]]) -> None:
        del self._asking[name]
        if not task.cancelled():
            task.exception()  # whoever still waits raises it; if all have left, it is nobody's

    async def _probe(self, name: str) -> str:
        channel = Channel(self._servers)  # a new one remembers nothing
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await channel.check(f"{name}.")
        except TimeoutError:
            return f"no answer within {PROBE_SECONDS:g} s"
        except aiodns.error.DNSError as error:
            return str(error.args[-1])
        else:
            return ""
        finally:
            self._probed_until = time.monotonic() + PROBE_SECONDS
            await channel.retire()

    async def _ask(self, name: str, known: Answer | None) -> list[str]:
        channel = await self._channel_for(known)
        generation = self._generation
        self.questions += 1
        began = time.monotonic()
        try:
            found = await channel.ask(f"{name}.")
        except aiodns.error.DNSError as error:
            if error.args[0] not in _NOT_FOUND:
                self._told("failed", time.monotonic() - began)
                await self._distrust(channel)
                return self._stale(name, known, error)
            found = []
        now = time.monotonic()
        self._told("found" if found else "not_found", now - began)
        if not found:
            self._remember(name, Answer([], now + NEGATIVE_SECONDS, now, generation))
            raise NameNotFoundError(f"{name}: no such name")
        addresses = [address for address, _ in found]
        ttl = min(ttl for _, ttl in found) if self._keep else 0.0
        self._remember(name, Answer(addresses, now + ttl, now + ttl + STALE_SECONDS, generation))
        return addresses

    async def _channel_for(self, known: Answer | None) -> Channel:
        """Return a channel whose own memory has no answer for this question."""
        current = self._channel
        if current is not None and known is not None and known.generation == self._generation:
            self._channel = None
            await current.retire()
        if self._channel is None:
            self._channel = Channel(self._servers)
            self._generation += 1
        return self._channel

    async def _distrust(self, channel: Channel) -> None:
        """Use another channel from now on, at most once a second.

        One that was made while files were out found no ``resolv.conf``, and asks 127.0.0.1 for good.
        """
        now = time.monotonic()
        if channel is self._channel and now >= self._trusted_until:
            self._trusted_until = now + NEGATIVE_SECONDS
            self._channel = None
            await channel.retire()

    def _remember(self, name: str, answer: Answer) -> None:
        self._answers.pop(name, None)
        if len(self._answers) >= _MAX_NAMES:
            del self._answers[next(iter(self._answers))]  # the one asked longest ago
        self._answers[name] = answer

    def _stale(self, name: str, known: Answer | None, error: aiodns.error.DNSError) -> list[str]:
        """Return the last good answer while the DNS server fails."""
        if known is None or not known.addresses or time.monotonic() > known.stale_until:
            raise NameFailureError(f"{name}: {error.args[-1]}") from error
        # Serve it for a second before the next question: a failing server is not to be pressed.
        self._remember(name, known._replace(fresh_until=time.monotonic() + NEGATIVE_SECONDS))
        return known.addresses
