"""What the soak's clients ask, and the book in which the outcomes are noted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.adversity.soak_words import FAULTS, PIECE, TROUBLED, chunk, digest, event, pattern

HEAD_FAULTS = (
    *("stall", "reset", "reset-head", "garbage"),
    *("long-head", "endless-head", "flood-interim", "switch", "interim"),
)
# Bytes behind the end of a response are told from the next response only if they come with it: `take` sends
# little enough for that.
FAULTS_OF = {
    "execute": (*HEAD_FAULTS, "trickle", "excess", "reset-body", "close-body", "stall-body"),
    "upload": (*HEAD_FAULTS, "trickle", "excess", "early", "reset-body", "stall-body"),
    "download": (*HEAD_FAULTS, "trickle", "reset-body", "close-body", "stall-body"),
    "download-chunked": (*HEAD_FAULTS, "trickle", "reset-chunk", "close-body", "stall-body"),
    "download-close": (*HEAD_FAULTS, "trickle"),
    "events": (*HEAD_FAULTS, "reset-chunk", "close-body", "stall-body"),
    "echo": HEAD_FAULTS,
    "websocket": ("reset", "garbage", "stall", "reset-body", "close-body"),
}

SHORT_TIMEOUT = "0.5"


@dataclass(frozen=True)
class Ask:
    """One request."""

    kind: str
    box: str
    nonce: str
    target: str
    method: str = "GET"
    body: bytes | None = None
    chunked: bool = False
    fault: str = ""
    http10: bool = False
    size: int = 0
    slow: bool = False

    def head(self, port: int) -> bytes:
        """Return the head as it is sent."""
        lines = [f"{self.method} {self.target} HTTP/1.{0 if self.http10 else 1}", "Host: router"]
        lines += [f"X-Sandbox-ID: {self.box}", f"X-Sandbox-Port: {port}", f"X-Nonce: {self.nonce}"]
        if self.fault:
            lines.append(f"X-Fault: {self.fault}")
        if self.fault.startswith("stall"):
            lines.append(f"X-Sandbox-Timeout: {SHORT_TIMEOUT}")
        if self.kind == "websocket":
            lines += ["Connection: Upgrade", "Upgrade: websocket"]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif self.body is not None:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode()

    def pieces(self, port: int) -> list[bytes]:
        """Return the whole request in the pieces in which it is sent."""
        body = self.body or b""
        parts = [body[start : start + PIECE] for start in range(0, len(body), PIECE)]
        if self.chunked:
            return [self.head(port), *(chunk(part) for part in parts), b"0\r\n\r\n"]
        first = parts[0] if parts else b""
        return [self.head(port) + first, *parts[1:]]

    def expected(self) -> bytes:
        """Return the body of the right answer."""
        if self.kind.startswith("download"):
            return pattern(self.box, self.nonce, self.size)
        if self.kind == "events":
            return b"".join(event(self.box, self.nonce, number) for number in range(self.size))
        if self.kind == "echo":
            return self.body or b""
        if self.fault == "early":
            return f"{self.box} {self.nonce} early".encode()
        body = self.body or b""
        return f"{self.box} {self.nonce} {digest(body)} {len(body)}".encode()


@dataclass
class Ledger:
    """What was asked, what came of it, and what should not have."""

    asked: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    suspects: list[Ask] = field(default_factory=list)
    """What the violations are about."""

    def judge(self, ask: Ask, outcome: str, *, troubled: bool, seconds: float = 0.0) -> None:
        """Note an outcome, and whether it may be: a fault fails the exchange that has it, and no other."""
        self.asked[ask.kind] += 1
        self.outcomes[outcome.partition(":")[0]] += 1
        if ask.fault:
            self.faults[ask.fault] += 1
        allowed = FAULTS[ask.fault] | {"left", "not reached"} | (TROUBLED if troubled else frozenset())
        if outcome not in allowed:
            about = f"{ask.kind} to {ask.box}, fault {ask.fault or 'none'}, troubled: {troubled}"
            about += f", nonce {ask.nonce}, target {ask.target}, HTTP/1.0: {ask.http10}, slow: {ask.slow}"
            self.violations.append(f"{outcome} after {seconds:.2f} s ({about})")
            self.suspects.append(ask)
