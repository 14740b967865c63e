"""The token check."""

from __future__ import annotations

import pytest

from fastrouter.errors import INVALID_TOKEN, MISSING_TOKEN, Cause, RouterError
from fastrouter.policy.authorize import authorize

TOKEN = "sécret".encode()


@pytest.mark.parametrize("credentials", [b"Bearer " + TOKEN, b"bearer " + TOKEN, b"BEARER  " + TOKEN + b" "])
def test_the_token_passes(credentials: bytes) -> None:
    authorize(credentials, TOKEN)


@pytest.mark.parametrize(
    ("credentials", "cause"),
    [
        (None, MISSING_TOKEN),
        (b"", MISSING_TOKEN),
        (b"Bearer", MISSING_TOKEN),
        (b"Basic " + TOKEN, MISSING_TOKEN),
        (TOKEN, MISSING_TOKEN),
        (b"Bearer\t" + TOKEN, MISSING_TOKEN),
        (b"Bearer ", INVALID_TOKEN),
        (b"Bearer secret", INVALID_TOKEN),
        (b"Bearer " + TOKEN[:-1], INVALID_TOKEN),
        (b"Bearer " + TOKEN + b"x", INVALID_TOKEN),
        (b"Bearer " + TOKEN + b", Bearer x", INVALID_TOKEN),
    ],
)
def test_everything_else_is_refused(credentials: bytes | None, cause: Cause) -> None:
    with pytest.raises(RouterError) as refused:
        authorize(credentials, TOKEN)
    assert refused.value.cause is cause
