"""The life of connections under every order of events: accounts add up, answers are whole and one's own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import count
from typing import Any, Final

import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastrouter.server import Server
from tests.fuzz.reading import DoubtfulError, client_understands, requests_of
from tests.fuzz.stage import errors_in_the_log
from tests.properties.life import QUIET_TURNS, SETTINGS, Client, Clock, Sandboxes, SandboxStream, turns

# `%t` is a tag that no other request has: sandboxes answer with it, so each answer tells whose it is. It is
# in a field, not in the target: heads that differ in fields which the router does not read count as known.
_TAG: Final = b"Host: router\r\nX-Tag: %t\r\n"
_TO_BOX: Final = _TAG + b"X-Sandbox-ID: box\r\n"
REQUESTS: Final = {
    "get": b"GET / HTTP/1.1\r\n" + _TO_BOX + b"\r\n",
    "get elsewhere": b"GET / HTTP/1.1\r\n" + _TAG + b"X-Sandbox-ID: crate\r\n\r\n",
    "head": b"HEAD / HTTP/1.1\r\n" + _TO_BOX + b"\r\n",
    "last": b"GET / HTTP/1.1\r\n" + _TO_BOX + b"Connection: close\r\n\r\n",
    "old": b"GET / HTTP/1.0\r\n" + _TO_BOX + b"\r\n",
    "post": b"POST / HTTP/1.1\r\n" + _TO_BOX + b"Content-Length: 9\r\n\r\nsome body",
    "large": b"POST / HTTP/1.1\r\n" + _TO_BOX + b"Content-Length: 90000\r\n\r\n" + b"x" * 90000,
    "chunked": b"PUT / HTTP/1.1\r\n" + _TO_BOX + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "bad chunk": b"PUT / HTTP/1.1\r\n" + _TO_BOX + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
    "expects": b"POST / HTTP/1.1\r\n" + _TO_BOX + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\nbody",
    "upgrade": b"GET / HTTP/1.1\r\n" + _TO_BOX + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "frame": b"\x81\x82maskab",
    "close frame": b"\x88\x80mask",
    "health": b"GET /healthz HTTP/1.1\r\nHost: router\r\n\r\n",
    "nowhere": b"GET / HTTP/1.1\r\n" + _TAG + b"\r\n",
    "garbage": b"\0what is this\r\n\r\n",
}
USUAL: Final = ("get", "get elsewhere", "post", "upgrade")
ANSWERS: Final = {
    "plain": b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%t",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n%t\r\n0\r\n\r\n",
    "none": b"HTTP/1.1 204 No Content\r\n\r\n",
    "last": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 8\r\n\r\n%t",
}
ODD_ANSWERS: Final = {
    "until close": b"HTTP/1.1 200 OK\r\n\r\n%t",
    "large": b"HTTP/1.1 200 OK\r\nContent-Length: 90008\r\n\r\n%t" + b"y" * 90000,
    "switch": b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi",
    "close frame": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x88\x00",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n%t0\r\n\r\n",
    "garbage": b"\0no HTTP",
}
HINTS: Final = (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
_UNASKED: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n#unasked"

which = st.integers(0, 1000)
asked = st.lists(st.sampled_from(sorted(REQUESTS)) | st.sampled_from(USUAL), min_size=1, max_size=2)
sizes = st.sampled_from([1, 30, 100, 1_000_000, 1_000_000, 1_000_000])
# Often nothing more happens before the next step, or only a part of what would.
pauses = st.sampled_from([0, 1, 2, QUIET_TURNS, QUIET_TURNS])


class Lives(RuleBasedStateMachine):
    """Drives one router with up to three clients at a time."""

    @initialize()
    def begin(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.end = ExitStack()
        self.end.callback(self.stop_loop)
        self.errors = self.end.enter_context(errors_in_the_log())
        self.clock = Clock()
        self.end.callback(self.clock.stop)
        self.loop.set_exception_handler(lambda _, context: self.errors.append(repr(context)))
        self.sandboxes = Sandboxes()
        self.clients: list[Client] = []
        self.shutdown: asyncio.Task[None] | None = None

        async def make() -> Server:
            server = Server(SETTINGS, backend=self.sandboxes)
            number = count()
            for kind in USUAL * 3:  # known from the beginning: their exchanges need no task
                head, end, _ = REQUESTS[kind].replace(b"%t", b"#%d" % next(number)).partition(b"\r\n\r\n")
                server.request_heads.get(head + end)
            return server

        self.server = self.loop.run_until_complete(make())

    def stop_loop(self) -> None:
        """Close the event loop; after a failure, tasks are left."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(turns(QUIET_TURNS))
        self.loop.close()

    def do(self, action: Callable[[], Any], pause: int = QUIET_TURNS) -> None:
        """Act within the event loop, and let it turn."""

        async def run() -> None:
            action()
            await turns(pause)

        self.loop.run_until_complete(run())

    @property
    def present(self) -> list[Client]:
        return [client for client in self.clients if client.transport.there]

    @rule(number=which, kinds=asked, size=sizes, pause=pauses)
    @precondition(lambda self: self.present or self.shutdown is None)
    def ask(self, number: int, kinds: list[str], size: int, pause: int) -> None:
        """Say one request or two, or begin to; a client comes for it where there are fewer than three."""
        if self.shutdown is None and number % 3 >= len(self.present):
            self.do(lambda: self.clients.append(Client(self.server, len(self.clients))))
        client = self.present[number % len(self.present)]
        for kind in kinds:
            client.outbox += REQUESTS[kind].replace(b"%t", client.next_tag())
        self.do(lambda: client.say(size), pause)

    @rule(number=which, size=sizes, pause=pauses)
    @precondition(lambda self: any(client.outbox for client in self.present))
    def ask_on(self, number: int, size: int, pause: int) -> None:
        clients = [client for client in self.present if client.outbox]
        client = clients[number % len(clients)]
        self.do(lambda: client.say(size), pause)

    @rule(number=which, takes=st.booleans(), pause=pauses)
    @precondition(lambda self: self.present)
    def read_or_not(self, number: int, takes: bool, pause: int) -> None:
        client = self.present[number % len(self.present)]
        client.transport.takes = takes
        self.do(client.transport.flush, pause)

    @rule(number=which, how=st.sampled_from(["leaves", "resets", "is cancelled"]), pause=pauses)
    @precondition(lambda self: self.present)
    def go(self, number: int, how: str, pause: int) -> None:
        client = self.present[number % len(self.present)]
        task = client.side._task
        if how == "is cancelled" and task is not None:
            self.do(task.cancel, pause)
        else:
            self.do(lambda: client.leave(politely=how == "leaves"), pause)

    @rule(mood=st.sampled_from(["connects", "waits", "refuses"]), pause=pauses)
    def dials(self, mood: str, pause: int) -> None:
        """Decide on dials to come, and on those that wait."""
        self.sandboxes.mood = mood
        if mood != "waits":
            self.do(lambda: self.sandboxes.let_dial(connect=mood == "connects"), pause)

    @rule()
    def all_goes_well(self) -> None:
        """Let each request be read, and get its answer: connections become idle, and are used again."""
        self.dials("connects", QUIET_TURNS)
        for client in self.present:
            self.do(lambda client=client: client.say(len(client.outbox)))  # type: ignore[misc]
        for stream in self.sandboxes.talking:
            self.do(lambda stream=stream: stream.stall(takes=True))  # type: ignore[misc]
            if stream.waiting:
                stream.outbox += ANSWERS["plain"].replace(b"%t", stream.next_tag())
            self.do(lambda stream=stream: stream.say(len(stream.outbox)))  # type: ignore[misc]

    @rule(number=which, kind=st.sampled_from(sorted(ANSWERS)), size=sizes, pause=pauses)
    @precondition(lambda self: self.waiting)
    def answer(self, number: int, kind: str, size: int, pause: int) -> None:
        stream = self.waiting[number % len(self.waiting)]
        stream.outbox += ANSWERS[kind].replace(b"%t", stream.next_tag())
        self.do(lambda: stream.say(size), pause)

    @rule(number=which, kind=st.sampled_from(sorted(ODD_ANSWERS)), size=sizes, pause=pauses)
    @precondition(lambda self: self.waiting)
    def answer_oddly(self, number: int, kind: str, size: int, pause: int) -> None:
        stream = self.waiting[number % len(self.waiting)]
        stream.outbox += ODD_ANSWERS[kind].replace(b"%t", stream.next_tag())
        stream.regular = False
        stream.switched = ODD_ANSWERS[kind].startswith(b"HTTP/1.1 101")
        self.do(lambda: stream.say(size), pause)

    @rule(number=which)
    @precondition(lambda self: self.waiting)
    def answer_with_excess(self, number: int) -> None:
        """Say more than was asked for, in one piece: a later one could be taken for the next answer."""
        stream = self.waiting[number % len(self.waiting)]
        stream.outbox += ANSWERS["plain"].replace(b"%t", stream.next_tag()) + _UNASKED
        self.do(lambda: stream.say(len(stream.outbox)))

    @rule(number=which, hint=st.sampled_from(HINTS), pause=pauses)
    @precondition(lambda self: self.waiting)
    def hint(self, number: int, hint: bytes, pause: int) -> None:
        stream = self.waiting[number % len(self.waiting)]
        stream.outbox += hint
        self.do(lambda: stream.say(len(stream.outbox)), pause)

    @rule(number=which, size=sizes, pause=pauses)
    @precondition(lambda self: any(stream.outbox for stream in self.sandboxes.talking))
    def answer_on(self, number: int, size: int, pause: int) -> None:
        streams = [stream for stream in self.sandboxes.talking if stream.outbox]
        stream = streams[number % len(streams)]
        self.do(lambda: stream.say(size), pause)

    @rule(number=which)
    @precondition(lambda self: self.sandboxes.talking)
    def speak_unasked(self, number: int) -> None:
        self.do(lambda: None)
        idle = [stream for stream in self.sandboxes.talking if stream.idle]
        if idle:
            stream = idle[number % len(idle)]
            stream.outbox = _UNASKED
            self.do(lambda: stream.say(len(_UNASKED)))
            assert stream.closed

    @rule(number=which, how=st.sampled_from(["end", "reset", "stall", "go on"]), pause=pauses)
    @precondition(lambda self: self.sandboxes.talking)
    def sandbox(self, number: int, how: str, pause: int) -> None:
        stream = self.sandboxes.talking[number % len(self.sandboxes.talking)]
        does: dict[str, Callable[[], None]] = {
            "end": stream.end,
            "reset": stream.reset,
            "stall": lambda: stream.stall(takes=False),
            "go on": lambda: stream.stall(takes=True),
        }
        self.do(does[how], pause)

    @rule(seconds=st.sampled_from([0.3, 2.5, 11.0, 31.0, 181.0, 700.0]), pause=pauses)
    def time_passes(self, seconds: float, pause: int) -> None:
        def sweep() -> None:
            self.server._tick()
            self.server.pool.expire()

        self.clock.now += seconds
        self.do(sweep, pause)

    @rule(pause=pauses)
    @precondition(lambda self: self.shutdown is None and len(self.clients) > 2)
    def shut_down(self, pause: int) -> None:
        def begin() -> None:
            self.shutdown = self.loop.create_task(self.server.shutdown())

        self.do(begin, pause)

    @property
    def waiting(self) -> list[SandboxStream]:
        return [stream for stream in self.sandboxes.talking if stream.waiting]

    @invariant()
    def leases_and_places_add_up(self) -> None:
        exchanges = [client.side._exchange for client in self.clients]
        statistics = self.server.pool.statistics()
        # A lease that went stale has ended before the exchange has its next one.
        leases = [exchange._lease for exchange in exchanges if exchange._lease is not None]
        active = sum(lease._pool is not None for lease in leases)
        assert statistics["acquired"] == statistics["released"] + statistics["discarded"] + active
        assert statistics["upstream_active"] == active
        entered = sum(exchange._entered is not None for exchange in exchanges)
        assert repr(self.server.bulkhead).startswith(f"<Bulkhead {entered} requests")
        assert sum(exchange.tunnel is not None for exchange in exchanges) <= active <= entered

    @invariant()
    def answers_are_whole_in_order_and_ones_own(self) -> None:
        for client in self.clients:
            with suppress(DoubtfulError):
                client_understands(client.transport.written, requests_of(client.said)[0])
            told = client.transport.written
            assert b"#unasked" not in told
            tags = re.findall(rb"#c\d+-\d{4}", told)
            assert tags == sorted(set(tags))
            assert all(tag.startswith(b"#c%d-" % client.number) for tag in tags)

    @invariant()
    def nothing_is_logged_as_an_error(self) -> None:
        assert not self.errors, self.errors

    def teardown(self) -> None:
        with self.end:
            self.loop.run_until_complete(self.all_leave())

    async def all_leave(self) -> None:
        """Let all clients go; then nothing is left of them, and nothing at all after the shutdown."""
        for client in self.present:
            client.leave(politely=False)
        self.sandboxes.let_dial(connect=False)
        await turns(2 * QUIET_TURNS)
        server = self.server
        assert not server.connections
        statistics = server.pool.statistics()
        assert statistics["upstream_active"] == 0
        assert statistics["acquired"] == statistics["released"] + statistics["discarded"]
        assert "gates=0" in repr(server.pool.dialer)
        assert server.pool.dialer.under_way == 0
        assert repr(server.bulkhead) == "<Bulkhead 0 requests, 0 sandboxes>"
        assert repr(server.tunnels) == "<Tunnels 0 of 0 clients>"
        assert len(self.sandboxes.open) == statistics["upstream_idle"]
        async with asyncio.timeout(1):
            await (self.shutdown or server.shutdown())
        await turns(2 * QUIET_TURNS)
        assert server.pool.open == 0
        assert not self.sandboxes.open
        assert asyncio.all_tasks() == {asyncio.current_task()}
        self.answers_are_whole_in_order_and_ones_own()
        self.nothing_is_logged_as_an_error()


TestLives = Lives.TestCase
TestLives.settings = settings(stateful_step_count=40)
