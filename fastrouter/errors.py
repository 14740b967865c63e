"""Every way in which a request can fail, as one table.

``RouterError`` is the only exception that becomes a reply. It is raised at the boundary that knows the
cause, and turned into bytes (or an aborted connection) by ``net.downstream`` alone::

    RouterError(cause)
      cause.source is CLIENT     what the client sent: 400 401 405 408 414 429 431 501 505
      cause.source is DIAL       no connection to the sandbox, no byte was sent: 502, retried while dialling
      cause.source is UPSTREAM   the sandbox broke off, stalled or sent no HTTP: 502 504
      cause.source is ROUTER     the router itself: 500 503

Each ``Cause`` is one row of the contract's table of replies: status, ``detail`` text and the reason word that
goes into ``X-Sandbox-Router-Error`` and the access log.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

_UNAVAILABLE: Final = 503


class Source(Enum):
    """Who is at fault: decides retries, and how an operator reads the number."""

    CLIENT = "client"
    DIAL = "dial"
    UPSTREAM = "upstream"
    ROUTER = "router"


@dataclass(frozen=True, slots=True)
class Cause:
    """One row of the table of replies; ``detail`` may hold ``{sandbox}``."""

    source: Source
    status: int
    reason: str
    detail: str

    @property
    def blames_sandbox(self) -> bool:
        """Whether the sandbox failed or could not be reached; a router out of descriptors blames itself."""
        return self.source in {Source.DIAL, Source.UPSTREAM} and self.status != _UNAVAILABLE


def _client(status: int, reason: str, detail: str) -> Cause:
    return Cause(Source.CLIENT, status, reason, detail)


def _dial(reason: str) -> Cause:
    return Cause(Source.DIAL, 502, reason, "Could not connect to the backend sandbox: {sandbox}")


MISSING_SANDBOX_ID: Final = _client(400, "missing_sandbox_id", "X-Sandbox-ID header is required.")
INVALID_SANDBOX_ID: Final = _client(400, "invalid_sandbox_id", "Invalid sandbox ID format.")
INVALID_NAMESPACE: Final = _client(400, "invalid_namespace", "Invalid namespace format.")
INVALID_PORT: Final = _client(400, "invalid_port", "Invalid port format.")
INVALID_TARGET_IP_FORMAT: Final = _client(400, "invalid_target_ip", "Invalid target IP address format.")
INVALID_TARGET_IP: Final = _client(400, "invalid_target_ip", "Invalid target IP address.")
DUPLICATE_HEADER: Final = _client(400, "duplicate_header", "Duplicate {header} header.")
BAD_REQUEST: Final = _client(400, "bad_request", "Malformed HTTP request.")
MISSING_TOKEN: Final = _client(401, "missing_token", "Missing or invalid Authorization header.")
INVALID_TOKEN: Final = _client(401, "invalid_token", "Invalid token.")
METHOD_NOT_ALLOWED: Final = _client(405, "method_not_allowed", "Method not allowed.")
REQUEST_TIMEOUT: Final = _client(408, "request_timeout", "Timed out reading the request.")
BODY_TOO_LARGE: Final = _client(413, "body_too_large", "Request body too large.")
TARGET_TOO_LONG: Final = _client(414, "target_too_long", "Request target too long.")
HEADERS_TOO_LARGE: Final = _client(431, "headers_too_large", "Request header fields too large.")
TOO_MANY_CONNECTIONS: Final = _client(
    429, "too_many_connections", "Too many concurrent connections for this client."
)
SANDBOX_BUSY: Final = _client(
    429, "too_many_connections", "Too many concurrent connections for this sandbox."
)
UNSUPPORTED_CODING: Final = _client(501, "unsupported_coding", "Transfer coding not supported.")
UNSUPPORTED_VERSION: Final = _client(505, "unsupported_version", "HTTP version not supported.")

DNS_NOT_FOUND: Final = _dial("dns_not_found")
DNS_FAILURE: Final = _dial("dns_failure")
CONNECT_REFUSED: Final = _dial("connect_refused")
CONNECT_TIMEOUT: Final = _dial("connect_timeout")
CONNECT_UNREACHABLE: Final = _dial("connect_unreachable")

UPSTREAM_CLOSED: Final = Cause(
    Source.UPSTREAM, 502, "upstream_closed", "The backend sandbox closed the connection: {sandbox}"
)
UPSTREAM_PROTOCOL_ERROR: Final = Cause(
    Source.UPSTREAM, 502, "upstream_protocol_error", "Invalid response from the backend sandbox: {sandbox}"
)
UPSTREAM_TIMEOUT: Final = Cause(
    Source.UPSTREAM, 504, "upstream_timeout", "Timed out waiting for the backend sandbox: {sandbox}"
)

OVERLOADED: Final = Cause(Source.ROUTER, 503, "overloaded", "The router is at its connection limit.")
SHUTTING_DOWN: Final = Cause(Source.ROUTER, 503, "shutting_down", "The router is shutting down.")
INTERNAL_ERROR: Final = Cause(
    Source.ROUTER, 500, "internal_error", "An internal error occurred in the proxy."
)


class RouterError(Exception):
    """A request failed for ``cause``; ``note`` tells the log more than the client may know."""

    def __init__(self, cause: Cause, note: str = "", *, header: str = "") -> None:
        super().__init__(note or cause.reason)
        self.cause = cause
        self.note = note
        self._header = header

    def again(self) -> RouterError:
        """Return a fresh copy: an exception that is raised twice drags the first traceback along."""
        return RouterError(self.cause, self.note, header=self._header)

    def detail(self, sandbox: str) -> str:
        """Return the text for the client, naming the sandbox or the header where the row does."""
        return self.cause.detail.replace("{sandbox}", sandbox).replace("{header}", self._header)


class MalformedMessageError(Exception):
    """The bytes are no HTTP/1.1 message that this router accepts (RFC 9112, contract section 7).

    Raised by ``wire/``, which does not know whether a client or a sandbox sent them; ``cause`` is the reply
    that a client would get.
    """

    def __init__(self, note: str, cause: Cause = BAD_REQUEST) -> None:
        super().__init__(note)
        self.cause = cause


class TruncatedMessageError(MalformedMessageError):
    """The peer closed the connection before the message was complete (RFC 9112 section 8)."""
