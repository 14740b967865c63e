"""Field names with a meaning of their own for a proxy, and the grammar of field lines.

Names are lower-case bytes. Each entry of ``HOP_BY_HOP`` names the clause that makes it the business of one
connection only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

# One field line: the name as compared (lower case), the name and the value as received. A plain tuple:
# a head has ten of them, and a named one costs four times as much to make.
Field = tuple[bytes, bytes, bytes]
Fields = tuple[Field, ...]

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",  # RFC 9110 7.6.1
        b"http2-settings",  # RFC 7540 3.2.1: an upgrade to h2c would pass the router's checks by
        b"keep-alive",  # RFC 9110 7.6.1
        b"proxy-authenticate",  # RFC 9110 11.7.1: for the next inbound client only
        b"proxy-authorization",  # RFC 9110 11.7.2: for the next inbound proxy only
        b"proxy-connection",  # RFC 9110 7.6.1
        b"te",  # RFC 9110 10.1.4
        b"transfer-encoding",  # RFC 9112 6.1: stated anew by each sender
        b"upgrade",  # RFC 9110 7.8
    }
)

# RFC 9110 6.5.1: a field that routes, frames or authenticates a message means nothing in a trailer, and
# a receiver that merges trailers into the head would be steered by it.
NO_TRAILER: Final = HOP_BY_HOP | {
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"host",
    b"set-cookie",
    b"trailer",
}

# Ends a line for some parsers (RFC 9112 2.2) and for this one never: what holds one waits for no other end.
BARE_LF: Final = re.compile(rb"(?<!\r)\n")

# RFC 9110 5.6.2.
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
# RFC 9110 5.5: HTAB, SP, VCHAR, obs-text. h11 lets control bytes pass; this does not.
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
# RFC 9112 5: no white space before the colon, no obs-fold, CRLF and nothing else ends a line.
FIELD_LINES: Final = rb"(?:" + TOKEN + rb":" + _VALUE + rb"\r\n)*+"

_FIELD_BLOCK: Final = re.compile(FIELD_LINES + rb"\r\n")


def is_field_block(block: bytes) -> bool:
    """Tell whether ``block`` is field lines and the empty line, under the strict grammar."""
    return _FIELD_BLOCK.fullmatch(block) is not None


def values(fields: Fields, name: bytes) -> list[bytes]:
    """Return the values of ``name`` (lower case) in order."""
    return [value for found, _, value in fields if found == name]


def select(fields: Fields, names: frozenset[bytes]) -> dict[bytes, list[bytes]]:
    """Return the values of several names (lower case) in order, in one pass."""
    found: dict[bytes, list[bytes]] = {}
    for name, _, value in fields:
        if name in names:
            found.setdefault(name, []).append(value)
    return found


def members_of(found: Sequence[bytes]) -> frozenset[bytes]:
    """Return the members of the values of a comma-separated list field, lower case (RFC 9110 5.6.1)."""
    if not found:
        return frozenset()
    members = b",".join(found).lower().split(b",")
    return frozenset([member.strip(b" \t") for member in members]) - {b""}
