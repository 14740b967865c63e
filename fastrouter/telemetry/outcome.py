"""What became of one request: filled in along the way, read once at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastrouter.telemetry.tracing import Trace


class Outcome:
    """The facts of one request that the access log and the counters tell."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "dial_seconds",
        "dials",
        "first_byte",
        "head_end",
        "is_upstreams",
        "reason",
        "request_id",
        "reused",
        "started",
        "status",
        "trace",
        "upstream",
    )

    def __init__(self, started: float, request_id: bytes = b"") -> None:
        self.started = started
        """Monotonic seconds."""
        self.request_id = request_id
        """Its ``X-Request-ID``; empty where requests get none."""
        self.head_end = b"\r\n"
        """The end of each head that tells it: the field and the empty line."""
        self.trace: Trace | None = None
        """The span of the request, where requests are traced."""
        self.first_byte = 0.0
        """When the response head came, monotonic seconds; 0 where all came with it."""
        self.status = 0
        """Of the head that the client was sent; 0 as long as there is none."""
        self.bytes_in = 0
        """Of the request body, without framing."""
        self.bytes_out = 0
        """Of the response body, without framing."""
        self.upstream = ""
        """The address that was dialled, once there is a connection."""
        self.reused = False
        self.dials = 0
        """Attempts to connect that this request waited for, its own and others'; 0: none was needed."""
        self.dial_seconds = 0.0
        self.reason = ""
        """The reason word, where the request failed."""
        self.is_upstreams = False
        """Whether it was the sandbox that failed, or could not be reached."""

    def fail(self, reason: str, *, upstreams: bool) -> None:
        """Note why the request failed, and on which side."""
        self.reason = reason
        self.is_upstreams = upstreams
