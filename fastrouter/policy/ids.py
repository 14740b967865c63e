"""What names a request across services: ``X-Request-ID``, and the trace of W3C Trace Context."""

from __future__ import annotations

from typing import Final

from fastrouter.wire.fields import Fields, values
from fastrouter.wire.heads import RequestHead

REQUEST_ID: Final = b"x-request-id"
TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"

_HEX: Final = b"0123456789abcdef"
HEAD_END: Final = b"X-Request-ID: %b\r\n\r\n"
"""What ends a head that tells an id: the field and the empty line."""


def request_id_of(head: RequestHead) -> bytes:
    """Return the id that the client gave its request, whatever it is made of; the first of several.

    Nothing where the router has to give it one: there is none, it is empty, or it would stop here.
    """
    found = [value for value in values(head.fields, REQUEST_ID) if value]
    return found[0] if found and REQUEST_ID not in head.options else b""


def traceparent_of(fields: Fields) -> bytes:
    """Return the one ``traceparent`` as it came; empty where there is none, or several."""
    found = values(fields, TRACEPARENT)
    return found[0] if len(found) == 1 else b""


def trace_id_in(traceparent: bytes) -> str:
    """Return the trace id of a ``traceparent`` (W3C Trace Context 3.2.2), or nothing."""
    trace_id = traceparent[3:35]
    if traceparent[35:36] != b"-" or trace_id.translate(None, _HEX) or not trace_id.strip(b"0"):
        return ""
    return trace_id.decode("ascii")
