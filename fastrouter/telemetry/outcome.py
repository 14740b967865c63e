"""What became of one request: filled in along the way, read once at its end."""

from __future__ import annotations


class Outcome:
    """The facts of one request that the access log and the counters tell."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "dial_seconds",
        "dials",
        "reason",
        "reused",
        "started",
        "status",
        "upstream",
    )

    def __init__(self, started: float) -> None:
        self.started = started
        """Monotonic seconds."""
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
