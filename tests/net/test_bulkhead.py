"""The count of requests that a sandbox has at once."""

from __future__ import annotations

import pytest

from fastrouter.errors import SANDBOX_BUSY, RouterError
from fastrouter.net.bulkhead import Bulkhead
from fastrouter.policy.target import PoolKey

BOX, OTHER = PoolKey("box", "default", 1), PoolKey("other", "default", 1)


def test_each_sandbox_has_its_own_share() -> None:
    bulkhead = Bulkhead(2)
    for key in (BOX, BOX, OTHER):
        bulkhead.enter(key)
    assert (bulkhead.is_full(BOX), bulkhead.is_full(OTHER)) == (True, False)
    with pytest.raises(RouterError) as caught:
        bulkhead.enter(BOX)
    assert caught.value.cause is SANDBOX_BUSY
    assert repr(bulkhead) == "<Bulkhead 3 requests, 2 sandboxes>"


def test_who_leaves_makes_room_and_nothing_stays() -> None:
    bulkhead = Bulkhead(1)
    for _ in range(3):
        bulkhead.enter(BOX)
        bulkhead.leave(BOX)
    assert repr(bulkhead) == "<Bulkhead 0 requests, 0 sandboxes>"
    assert not bulkhead.is_full(BOX)
