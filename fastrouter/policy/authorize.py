"""Who may use the router: the token check (contract section 8)."""

from __future__ import annotations

import hmac
from typing import Final

from fastrouter.errors import INVALID_TOKEN, MISSING_TOKEN, RouterError

_SCHEME: Final = b"bearer "


def authorize(credentials: bytes | None, token: bytes) -> None:
    """Raise ``RouterError`` (401) unless ``credentials`` are ``Bearer <token>`` (RFC 6750 2.1).

    ``credentials`` is the value of the router's header, None where it is absent or said in two ways. The time
    that a comparison takes tells nothing of the token. Decided for every request, never kept with its head.
    """
    if credentials is None or credentials[: len(_SCHEME)].lower() != _SCHEME:
        raise RouterError(MISSING_TOKEN)
    if not hmac.compare_digest(credentials[len(_SCHEME) :].strip(b" \t"), token):
        raise RouterError(INVALID_TOKEN)
