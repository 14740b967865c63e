"""What is asked: every scenario as data, and the exact request bytes that both load generators send.

One place builds the bytes, so wrk and the own generator cannot drift apart. To add a scenario, add a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MEGABYTE: Final = 1024 * 1024
# Sixteen characters that the load generators overwrite with a new random value in every request.
NONCE: Final = b"@@@@nonce-here@@"


@dataclass(frozen=True)
class Scenario:
    """One row of the table."""

    name: str
    title: str
    required: float
    sandboxes: int = 1
    nonce: bool = False
    download: int = 0
    upload: int = 0
    connections: int | None = None

    @property
    def bulk(self) -> int:
        """Body bytes that one request moves, where bytes and not requests are what counts."""
        return self.download + self.upload


SCENARIOS: Final = (
    Scenario("one", "one sandbox", 0.50),
    Scenario("many", "1,000 sandboxes", 0.50, sandboxes=1000),
    Scenario("fresh", "every head different", 0.18, sandboxes=1000, nonce=True),
    Scenario("download", "1 MB downloads", 0.80, download=MEGABYTE),
    Scenario("upload", "1 MB uploads", 0.80, upload=MEGABYTE),
)


def requests(scenario: Scenario, sandbox_port: int) -> list[bytes]:
    """Build the requests of a scenario, one per sandbox, with the fields that a Python SDK sends."""
    return [_request(scenario, f"sandbox-{number}", sandbox_port) for number in range(scenario.sandboxes)]


def _request(scenario: Scenario, sandbox: str, port: int) -> bytes:
    line, body = "POST /execute", b'{"command": "echo hello from the sandbox"}'
    if scenario.download:
        line, body = f"GET /big?bytes={scenario.download}", b""
    elif scenario.upload:
        line, body = "POST /upload", b"u" * scenario.upload
    fields = [
        "Host: sandbox-router-svc.agent-sandbox-system.svc.cluster.local:8080",
        "User-Agent: python-requests/2.32.3",
        "Accept-Encoding: gzip, deflate",
        "Accept: */*",
        "Connection: keep-alive",
        f"X-Sandbox-ID: {sandbox}",
        "X-Sandbox-Namespace: default",
        f"X-Sandbox-Port: {port}",
    ]
    if body:
        fields += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if scenario.nonce:
        fields.append(f"X-Nonce: {NONCE.decode()}")
    return "\r\n".join([f"{line} HTTP/1.1", *fields, "", ""]).encode() + body


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
