"""What one connection costs the router in each of its states, in resident memory.

``python -m bench.memory`` starts a router for each state, brings many connections into it, and prints what
each costs beside its bound (docs/memory.md). The exit code is 1 if one costs more.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, cast

import trustme
import uvloop

from bench.processes import free_port
from bench.serving import raise_file_limit
from bench.tunnels import HEADS_END, SWITCHED, child, resident
from fastrouter.demo.dns import DnsServer
from fastrouter.net.outbox import MOST

KIB: Final = 1024
# One read of the event loop, and what may be held when it comes: unread bytes, or the high-water mark.
READ: Final = 256_000
HELD: Final = 64 * KIB
UNREAD: Final = HELD + READ
# What waits for the end of the turn comes before a peer that takes nothing is noticed. A piece that was sent
# in part stays whole in memory: it counts to the mark with its rest only.
UNSENT: Final = HELD + MOST + 2 * READ
# The same for a body of known length, whose pieces may have 1 MiB; of a process, 16 of them.
LONG: Final = HELD + 2 * 1024 * KIB
# The objects of a connection that holds nothing: itself, its transport, its task.
OBJECTS: Final = 12 * KIB
# What OpenSSL keeps of a connection, its buffers included.
TLS: Final = 64 * KIB
NAME: Final = "box-%d.default.svc.cluster.local"
WARM: Final = 20
FILLING: Final = b"x" * (24 * 1024 * KIB)  # more than the kernel's buffers of one connection hold
CHUNKS: Final = (b"10000\r\n" + FILLING[:65536] + b"\r\n") * (len(FILLING) // 65536)
FRAME: Final = b"\x82\x7f" + (2**40).to_bytes(8) + FILLING
MASKED: Final = b"\x82\xff" + (2**40).to_bytes(8) + b"mask" + FILLING
SETTLE_SECONDS: Final = 0.15


def request(line: bytes, *fields: bytes) -> bytes:
    """Return a head for a sandbox whose number and port are not yet known."""
    lines = (
        line + b" HTTP/1.1",
        b"Host: bench",
        b"X-Sandbox-ID: box-%NUMBER%",
        b"X-Sandbox-Port: %PORT%",
        *fields,
    )
    return b"\r\n".join(lines) + HEADS_END


UPGRADE: Final = request(b"GET /", b"Connection: Upgrade", b"Upgrade: websocket")
HEALTH: Final = b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\n"


@dataclass(frozen=True)
class State:
    """Connections in one state: what each client sends, what its sandbox answers, who reads."""

    name: str
    count: int
    head: bytes
    more: bytes = b""
    """What the client sends behind the head."""
    answers: bytes = b""
    """What the sandbox says to a head."""
    bound: int = 0
    """Bytes that one may hold beside its objects."""
    sandboxes: int = 0
    """How many connections to sandboxes there are for each client."""
    reads: bool = False
    """Whether clients read."""
    listens: bool = True
    """Whether the sandbox can be reached."""
    tls: bool = False
    """Whether clients come by TLS."""

    @property
    def limit(self) -> int:
        """Bytes that one may cost."""
        return self.bound + OBJECTS * (1 + self.sandboxes) + TLS * self.tls


STATES: Final = (
    State("idle", 2000, HEALTH, reads=True),
    State("idle, by TLS", 500, HEALTH, reads=True, tls=True),
    State(
        "idle, and its sandbox's connection too",
        1000,
        request(b"GET /"),
        answers=OK + b"Content-Length: 2\r\n\r\nok",
        sandboxes=1,
        reads=True,
    ),
    State("reading a head", 200, HEALTH[:-4], b"\r\nX-A: 1234567" * 4_000, bound=UNREAD),
    State(
        "waiting for a dial",
        50,
        request(b"POST /", b"Content-Length: %d" % len(FILLING)),
        FILLING,
        bound=UNREAD,
        listens=False,
    ),
    State("waiting for an answer", 50, request(b"GET /"), HEALTH * 200_000, bound=UNREAD, sandboxes=1),
    State(
        "a chunked body, and a sandbox that does not read",
        50,
        request(b"POST /", b"Transfer-Encoding: chunked"),
        CHUNKS,
        bound=UNSENT,
        sandboxes=1,
    ),
    State(
        "a long body, and a sandbox that does not read",
        50,
        request(b"POST /", b"Content-Length: %d" % len(FILLING)),
        FILLING,
        bound=LONG,
        sandboxes=1,
    ),
    State(
        "a chunked answer, and a client that does not read",
        50,
        request(b"GET /"),
        answers=OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        bound=UNSENT,
        sandboxes=1,
    ),
    State(
        "a long answer, and a client that does not read",
        50,
        request(b"GET /"),
        answers=OK + b"Content-Length: %d\r\n\r\n" % len(FILLING) + FILLING,
        bound=LONG,
        sandboxes=1,
    ),
    State(
        "bodies both ways, and nobody reads",
        50,
        request(b"POST /", b"Transfer-Encoding: chunked"),
        CHUNKS,
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        bound=2 * UNSENT,
        sandboxes=1,
    ),
    State("a pipelined flood, and answers not read", 50, HEALTH, HEALTH * 300_000, bound=UNREAD + UNSENT),
    State("a tunnel, idle", 1000, UPGRADE, answers=SWITCHED, sandboxes=1, reads=True),
    State("a tunnel, and nobody reads", 50, UPGRADE, MASKED, SWITCHED + FRAME, bound=2 * UNSENT, sandboxes=1),
    State("refused, and sends on", 50, b"GARBAGE" + HEADS_END, FILLING[: 900 * KIB], bound=UNREAD),
)


class Peer(asyncio.Protocol):
    """A client or a sandbox that says one thing, once it may, and reads on or not."""

    def __init__(self, *says: bytes, asked: bool, reads: bool, keep: list[Peer]) -> None:
        """Say it at once, or when a head has come (``asked``)."""
        self._says = says
        self._asked = asked
        self._reads = reads
        self._seen = b""
        self.transport: asyncio.Transport
        keep.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; speak first where nobody has to ask."""
        self.transport = cast(asyncio.Transport, transport)
        if not self._asked:
            self._speak()

    def data_received(self, data: bytes) -> None:
        """Wait for the end of a head."""
        if self._asked:
            self._seen = self._seen[-3:] + data
            if HEADS_END in self._seen:
                self._asked = False
                self._speak()

    def _speak(self) -> None:
        if not self._reads:
            self.transport.pause_reading()
        for each in self._says:
            self.transport.write(each)


async def settled(number: Callable[[], int]) -> int:
    """Return a number that has not changed by more than a page or two for a moment."""
    last, same = number(), 0
    for _ in range(100):
        await asyncio.sleep(SETTLE_SECONDS)
        now = number()
        same = same + 1 if abs(now - last) < 16 * KIB else 0
        last = now
        if same == 3:  # noqa: PLR2004
            break
    return last


@asynccontextmanager
async def sandbox(state: State, keep: list[Peer]) -> AsyncIterator[int]:
    """Listen, or hold a port on which nobody listens; yield the port."""
    loop = asyncio.get_running_loop()

    def made() -> Peer:
        # An idle connection is one whose sandbox reads.
        return Peer(state.answers, asked=True, reads=state.reads, keep=keep)

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        if state.listens:
            server = await loop.create_server(made, sock=bound.dup(), backlog=4096)
            yield port
            server.close()
        else:
            yield port


@contextmanager
def door(state: State, port: int) -> Iterator[tuple[list[str], ssl.SSLContext | None]]:
    """Yield the flags of a router whose clients come to ``port``; by TLS, with what trusts it."""
    if not state.tls:
        yield ["--port", str(port)], None
        return
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with issued.private_key_pem.tempfile() as key, issued.cert_chain_pems[0].tempfile() as chain:
        files = ["--tls-key-file", key, "--tls-cert-file", chain]
        yield ["--port", "0", "--https-port", str(port), *files], trusting


async def cost(state: State) -> float:
    """Return the bytes that one connection costs in a state."""
    keep: list[Peer] = []
    port = free_port()
    names = {NAME % each: ["127.0.0.1"] for each in range(state.count)}
    with door(state, port) as (flags, trusting):
        async with (
            sandbox(state, keep) as target,
            DnsServer(names, record=False) as dns,
            child(
                *("fastrouter", "serve", "--host", "127.0.0.1", *flags),
                DNS_SERVERS=dns.address,
                DIAL_RETRY_SECONDS="120",
                KEEPALIVE_EXPIRY_SECONDS="120",
                MAX_KEEPALIVE_CONNECTIONS="10000",
                WEBSOCKET_MAX_CONNECTIONS_PER_CLIENT="0",
                WEBSOCKET_MAX_MESSAGE_BYTES="0",
                ALLOW_UNAUTHENTICATED_ROUTER="true",
            ) as pid,
        ):
            head = state.head.replace(b"%PORT%", b"%d" % target)
            # What the process needs once, for the first ones, is not the cost of one more.
            keep += await connect(port, trusting, replace(STATES[0], count=WARM), HEALTH)
            before = await settled(lambda: resident(pid))
            keep += await connect(port, trusting, state, head)
            after = await settled(lambda: resident(pid))
            for peer in keep:
                peer.transport.abort()
    return (after - before) / state.count


async def connect(port: int, trusting: ssl.SSLContext | None, state: State, head: bytes) -> list[Peer]:
    """Open the connections of a state, each for a sandbox of its own."""
    loop = asyncio.get_running_loop()
    opened: list[Peer] = []
    for number in range(state.count):
        sock = socket.socket()
        if not state.reads:  # what is not taken should show in the router, not in the kernel
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        says = head.replace(b"%NUMBER%", b"%d" % number), state.more
        client = partial(Peer, *says, asked=False, reads=state.reads, keep=opened)
        name = "localhost" if trusting is not None else None
        await loop.create_connection(client, sock=sock, ssl=trusting, server_hostname=name)
    return opened


async def main(share: float, names: list[str]) -> int:
    """Measure, and print a line for each state."""
    raise_file_limit()
    wrong = 0
    print("| state | connections | KB each | bound, KB |\n|---|---|---|---|")
    chosen = [state for state in STATES if state.name in names or not names]
    for state in [replace(each, count=max(8, int(each.count * share))) for each in chosen]:
        measured = await cost(state)
        wrong += measured > state.limit
        row = (state.name, f"{state.count}", f"{measured / KIB:.1f}", f"{state.limit / KIB:.0f}")
        print(f"| {' | '.join(row)} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="share of the connections of each state")
    parser.add_argument("names", nargs="*", help="states, all unless named")
    options = parser.parse_args()
    sys.exit(uvloop.run(main(options.share, options.names)))
