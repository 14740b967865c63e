"""The table of replies: every row of the contract that this router can give, word for word."""

from __future__ import annotations

import dataclasses

import pytest

from fastrouter import errors
from fastrouter.errors import Cause, MalformedMessageError, RouterError, Source, TruncatedMessageError

CONNECT = "Could not connect to the backend sandbox: box"

TABLE = [
    (errors.MISSING_SANDBOX_ID, Source.CLIENT, 400, "X-Sandbox-ID header is required.", "missing_sandbox_id"),
    (errors.INVALID_SANDBOX_ID, Source.CLIENT, 400, "Invalid sandbox ID format.", "invalid_sandbox_id"),
    (errors.INVALID_NAMESPACE, Source.CLIENT, 400, "Invalid namespace format.", "invalid_namespace"),
    (errors.INVALID_PORT, Source.CLIENT, 400, "Invalid port format.", "invalid_port"),
    (errors.DUPLICATE_HEADER, Source.CLIENT, 400, "Duplicate X-Sandbox-ID header.", "duplicate_header"),
    (errors.BAD_REQUEST, Source.CLIENT, 400, "Malformed HTTP request.", "bad_request"),
    (errors.METHOD_NOT_ALLOWED, Source.CLIENT, 405, "Method not allowed.", "method_not_allowed"),
    (
        errors.INVALID_TARGET_IP_FORMAT,
        Source.CLIENT,
        400,
        "Invalid target IP address format.",
        "invalid_target_ip",
    ),
    (errors.INVALID_TARGET_IP, Source.CLIENT, 400, "Invalid target IP address.", "invalid_target_ip"),
    (errors.MISSING_TOKEN, Source.CLIENT, 401, "Missing or invalid Authorization header.", "missing_token"),
    (errors.INVALID_TOKEN, Source.CLIENT, 401, "Invalid token.", "invalid_token"),
    (
        errors.TOO_MANY_CONNECTIONS,
        Source.CLIENT,
        429,
        "Too many concurrent connections for this client.",
        "too_many_connections",
    ),
    (errors.REQUEST_TIMEOUT, Source.CLIENT, 408, "Timed out reading the request.", "request_timeout"),
    (
        errors.SANDBOX_BUSY,
        Source.CLIENT,
        429,
        "Too many concurrent connections for this sandbox.",
        "too_many_connections",
    ),
    (errors.BODY_TOO_LARGE, Source.CLIENT, 413, "Request body too large.", "body_too_large"),
    (errors.TARGET_TOO_LONG, Source.CLIENT, 414, "Request target too long.", "target_too_long"),
    (errors.HEADERS_TOO_LARGE, Source.CLIENT, 431, "Request header fields too large.", "headers_too_large"),
    (errors.UNSUPPORTED_CODING, Source.CLIENT, 501, "Transfer coding not supported.", "unsupported_coding"),
    (errors.UNSUPPORTED_VERSION, Source.CLIENT, 505, "HTTP version not supported.", "unsupported_version"),
    (errors.DNS_NOT_FOUND, Source.DIAL, 502, CONNECT, "dns_not_found"),
    (errors.DNS_FAILURE, Source.DIAL, 502, CONNECT, "dns_failure"),
    (errors.CONNECT_REFUSED, Source.DIAL, 502, CONNECT, "connect_refused"),
    (errors.CONNECT_TIMEOUT, Source.DIAL, 502, CONNECT, "connect_timeout"),
    (errors.CONNECT_UNREACHABLE, Source.DIAL, 502, CONNECT, "connect_unreachable"),
    (
        errors.UPSTREAM_CLOSED,
        Source.UPSTREAM,
        502,
        "The backend sandbox closed the connection: box",
        "upstream_closed",
    ),
    (
        errors.UPSTREAM_PROTOCOL_ERROR,
        Source.UPSTREAM,
        502,
        "Invalid response from the backend sandbox: box",
        "upstream_protocol_error",
    ),
    (
        errors.UPSTREAM_TIMEOUT,
        Source.UPSTREAM,
        504,
        "Timed out waiting for the backend sandbox: box",
        "upstream_timeout",
    ),
    (errors.OVERLOADED, Source.ROUTER, 503, "The router is at its connection limit.", "overloaded"),
    (errors.SHUTTING_DOWN, Source.ROUTER, 503, "The router is shutting down.", "shutting_down"),
    (errors.INTERNAL_ERROR, Source.ROUTER, 500, "An internal error occurred in the proxy.", "internal_error"),
]


@pytest.mark.parametrize(
    ("cause", "source", "status", "detail", "reason"), TABLE, ids=[row[3] for row in TABLE]
)
def test_each_row_is_the_contracts(
    cause: Cause, source: Source, status: int, detail: str, reason: str
) -> None:
    assert (cause.source, cause.status, cause.reason) == (source, status, reason)
    assert RouterError(cause, header="X-Sandbox-ID").detail("box") == detail


def test_every_cause_is_in_the_table() -> None:
    causes = {value for value in vars(errors).values() if isinstance(value, Cause)}
    assert causes == {row[0] for row in TABLE}


def test_the_note_is_for_the_log_and_not_for_the_client() -> None:
    error = RouterError(errors.CONNECT_REFUSED, "10.0.0.7:8888 refused")
    assert (str(error), error.note) == ("10.0.0.7:8888 refused", "10.0.0.7:8888 refused")
    assert "10.0.0.7" not in error.detail("box")
    assert str(RouterError(errors.CONNECT_REFUSED)) == "connect_refused"


def test_a_malformed_message_is_a_bad_request_unless_told_otherwise() -> None:
    assert MalformedMessageError("x").cause is errors.BAD_REQUEST
    assert MalformedMessageError("x", errors.UNSUPPORTED_CODING).cause is errors.UNSUPPORTED_CODING
    assert TruncatedMessageError("x").cause is errors.BAD_REQUEST


def test_an_error_that_is_raised_again_says_the_same_and_carries_no_old_traceback() -> None:
    try:
        raise RouterError(errors.DUPLICATE_HEADER, "twice", header="X-Sandbox-Port")
    except RouterError as error:
        first, fresh = error, error.again()
    assert fresh is not first
    assert (fresh.cause, fresh.note, fresh.detail("")) == (first.cause, "twice", first.detail(""))
    assert fresh.__traceback__ is None


def test_a_dial_without_a_descriptor_does_not_blame_the_sandbox() -> None:
    assert errors.CONNECT_REFUSED.blames_sandbox
    assert errors.UPSTREAM_TIMEOUT.blames_sandbox
    assert not errors.INVALID_TOKEN.blames_sandbox
    assert not dataclasses.replace(errors.OVERLOADED, source=errors.Source.DIAL).blames_sandbox
