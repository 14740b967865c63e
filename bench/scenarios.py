"""What is asked: every scenario as data, and the exact request bytes that all load generators send.

One place builds the bytes, so wrk and the own generators cannot drift apart. To add a scenario, add a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from bench.needs import AHEAD_OF_PEERS, BODY_NEEDS, FAN_OUT, Need
from bench.sandbox import BODY

MEGABYTE: Final = 1024 * 1024
# Sixteen characters that the load generators overwrite in every place with a new random value per request.
NONCE: Final = b"@@@@nonce-here@@"
# Eight that become the first half of it: a UUID has no sixteen digits in a row.
SHORT_NONCE: Final = b"@@short@"

# How a scenario is driven.
CLOSED: Final = "closed"  # each connection sends its next request when the answer is whole
RATE: Final = "rate"  # requests are sent when they are due, whether or not answers came
EVENTS: Final = "events"
ECHOES: Final = "echoes"
IDLE: Final = "idle"

# What the fields of a trace look like: the Go SDK sends them with every request.
TRACE_FIELDS: Final = (
    f"X-Request-ID: {SHORT_NONCE.decode()}-5bd2-4c1e-9f3a-0e6c7a1d2b48",
    f"traceparent: 00-4bf92f3577b34da6{NONCE.decode()}-{NONCE.decode()}-01",
)
UNKNOWN_FIELD: Final = f"X-Nonce: {NONCE.decode()}"


@dataclass(frozen=True)
class Scenario:
    """One row of the table. Defaults are those of a secondary closed loop of ``POST /execute``."""

    name: str
    title: str
    kind: str = CLOSED
    headline: bool = False
    rounds: int = 2
    seconds: float = 0.8
    warm_up: tuple[float, float] = (0.4, 0.25)
    """Seconds before the first round, and before later ones; the first fills caches."""
    sandboxes: int = 1
    connections: int | None = None
    traced: bool = False
    unknown: bool = False
    close: bool = False
    download: int = 0
    upload: int = 0
    chunks: tuple[int, int] | None = None
    """Count and size."""
    every_ms: int = 0
    """Pause between two events of a stream."""
    share: float = 0.0
    """Part of the router's capacity that is sent."""
    slow: bool = False
    """Whether a contender that is many times slower takes part."""
    needs: tuple[Need, ...] = ()

    @property
    def bulk(self) -> int:
        """Body bytes that one request moves, where bytes and not requests are what counts."""
        return self.download + self.upload + self._chunked

    @property
    def _chunked(self) -> int:
        return self.chunks[0] * self.chunks[1] if self.chunks else 0

    @property
    def small(self) -> bool:
        """Whether nginx can be the sandbox: it answers /execute, and nothing else here."""
        return not self.bulk and self.kind in {CLOSED, RATE, IDLE}

    @property
    def answer(self) -> int | None:
        """How long every answer's body must be, where that is known."""
        if self.upload:
            return None
        return self.download or self._chunked or len(BODY)

    @property
    def plain(self) -> bool:
        """Whether it is ``POST /execute`` with heads seen before: only the number of sandboxes differs."""
        return self.kind == CLOSED and not (self.traced or self.unknown or self.close or self.bulk)

    @property
    def figure(self) -> str:
        """What the plot and the ratio are about."""
        return {RATE: "p99_us", EVENTS: "cpu_us", IDLE: "kb_per_pair"}.get(self.kind, "rate")

    @property
    def unit(self) -> str:
        """What is counted per second."""
        counted = {EVENTS: "events/s", ECHOES: "echoes/s"}
        return "MB/s" if self.bulk else counted.get(self.kind, "req/s")

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Scenario:
        """Read what ``dataclasses.asdict`` wrote, after a trip through JSON."""
        fields = fields | {
            "warm_up": tuple(fields["warm_up"]),
            "chunks": tuple(fields["chunks"]) if fields["chunks"] else None,
            "needs": tuple(Need(**need) for need in fields["needs"]),
        }
        return cls(**fields)


def _headline(name: str, title: str, **more: Any) -> Scenario:
    return Scenario(name, title, headline=True, **({"rounds": 3, "seconds": 1.5} | more))


# A connection to each of 10,000 sandboxes has to be dialled anew in every round: the router drops those that
# were idle for 4 s, which is less than the others' rounds take. A warm-up is repeated until all are there.
_DIAL_ALL: Final = (1.0, 1.0)
# wrk, which makes more load than our own generator, knows whole seconds only.
_WRK: Final[dict[str, Any]] = {"seconds": 1.0}
_NEW_HEADS: Final[dict[str, Any]] = _WRK | {"rounds": 4}
# One sandbox against 10,000: more rounds, since the machine has slow times of some seconds.
_COMPARED: Final[dict[str, Any]] = _WRK | {"rounds": 5}
_BIG: Final[dict[str, Any]] = {"connections": 4, "rounds": 2, "needs": BODY_NEEDS}

SCENARIOS: Final = (
    _headline(
        "one",
        "one sandbox",
        **_COMPARED,
        slow=True,
        needs=(Need("rate", 0.65, "relay"), *AHEAD_OF_PEERS),
    ),
    Scenario("s100", "100 sandboxes", sandboxes=100, **_WRK),
    Scenario("s1000", "1,000 sandboxes", sandboxes=1000, **_WRK),
    _headline(
        "s10000",
        "10,000 sandboxes",
        sandboxes=10_000,
        **_COMPARED,
        warm_up=_DIAL_ALL,
        needs=(
            Need("rate", 0.85, "router", scenario="one"),
            # The same without what became of the machine and of the load's core between the two scenarios:
            # the relay runs beside the router in both, and nothing in it grows.
            Need("rate", 0.85, "relay", scenario="one", kept=True),
            Need("rate", 0.85, FAN_OUT, scenario="one", kept=True),
        ),
    ),
    _headline(
        "traced",
        "new trace ids in every head",
        sandboxes=1000,
        traced=True,
        slow=True,
        **_NEW_HEADS,
        needs=(Need("rate", 0.50, "relay"), *(need for need in AHEAD_OF_PEERS if need.limit == 1)),
    ),
    _headline(
        "fresh",
        "unknown field in every head",
        sandboxes=1000,
        unknown=True,
        **_NEW_HEADS,
        needs=(Need("rate", 0.20, "relay"),),
    ),
    Scenario("get-64k", "64 KB downloads", download=64 * 1024),
    _headline("get-1m", "1 MB downloads", download=MEGABYTE, slow=True, needs=BODY_NEEDS),
    _headline("get-64m", "64 MB downloads", download=64 * MEGABYTE, **_BIG),
    Scenario("put-64k", "64 KB uploads", upload=64 * 1024),
    _headline("put-1m", "1 MB uploads", upload=MEGABYTE, slow=True, needs=BODY_NEEDS),
    _headline("put-64m", "64 MB uploads", upload=64 * MEGABYTE, **_BIG),
    Scenario("chunks", "1,000 chunks of 1 KB", chunks=(1000, 1024), connections=8),
    Scenario("connect", "new connection per request", close=True),
    Scenario("events", "1,000 SSE listeners", kind=EVENTS, connections=1000, every_ms=50, seconds=1.0),
    Scenario("echoes", "1,000 WebSocket echoes", kind=ECHOES, connections=1000),
    Scenario("rate-10", "10% of capacity", kind=RATE, share=0.10, seconds=1.0),
    Scenario(
        "rate-50",
        "50% of capacity",
        kind=RATE,
        share=0.50,
        # The machine stops for 50 ms every few seconds. Short rounds, so that most of them have no such stop:
        # the median is a contender's p99, not the machine's.
        rounds=11,
        seconds=0.5,
        needs=(Need("p99_us", 2.0, "haproxy", most=True),),
    ),
    Scenario("rate-80", "80% of capacity", kind=RATE, share=0.80, seconds=1.0),
    Scenario(
        "idle",
        "idle pairs of connections",
        kind=IDLE,
        rounds=1,
        # One sandbox for each pair: an idle connection to the same one would be used again.
        sandboxes=10_000,
        connections=10_000,
        needs=(Need("kb_per_pair", 12.0, most=True),),
    ),
)


def requests(scenario: Scenario, sandbox_port: int) -> list[bytes]:
    """Build the requests of a scenario, one per sandbox, with the fields that an SDK sends."""
    return [_request(scenario, f"sandbox-{number}", sandbox_port) for number in range(scenario.sandboxes)]


def _request(scenario: Scenario, sandbox: str, port: int) -> bytes:
    line, body = _line_and_body(scenario)
    fields = [
        "Host: sandbox-router-svc.agent-sandbox-system.svc.cluster.local:8080",
        "User-Agent: python-requests/2.32.3",
        "Accept-Encoding: gzip, deflate",
        "Accept: */*",
        *_connection_fields(scenario),
        f"X-Sandbox-ID: {sandbox}",
        "X-Sandbox-Namespace: default",
        f"X-Sandbox-Port: {port}",
    ]
    if body:
        fields += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    fields += [*(TRACE_FIELDS if scenario.traced else ()), *((UNKNOWN_FIELD,) if scenario.unknown else ())]
    return "\r\n".join([f"{line} HTTP/1.1", *fields, "", ""]).encode() + body


def _line_and_body(scenario: Scenario) -> tuple[str, bytes]:
    if scenario.upload:
        return "POST /upload", b"u" * scenario.upload
    if scenario.download:
        return f"GET /big?bytes={scenario.download}", b""
    if scenario.chunks:
        return "GET /chunks?count={}&size={}".format(*scenario.chunks), b""
    if scenario.kind == EVENTS:
        return f"GET /events?every={scenario.every_ms}", b""
    if scenario.kind == ECHOES:
        return "GET /terminal", b""
    return "POST /execute", b'{"command": "echo hello from the sandbox"}'


def _connection_fields(scenario: Scenario) -> list[str]:
    if scenario.kind == ECHOES:
        return [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
    return ["Connection: close" if scenario.close else "Connection: keep-alive"]


def pack(messages: list[bytes]) -> bytes:
    """The request file that the load generators read: each request after a line with its length."""
    return b"".join(b"%d\n%b" % (len(message), message) for message in messages)


def unpack(data: bytes) -> list[bytes]:
    """Read a request file."""
    messages, position = [], 0
    while position < len(data):
        line_end = data.index(b"\n", position)
        end = line_end + 1 + int(data[position:line_end])
        messages.append(data[line_end + 1 : end])
        position = end
    return messages
