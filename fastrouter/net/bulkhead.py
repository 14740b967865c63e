"""How many requests each sandbox has at once: one that is busy must not take what others need."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fastrouter.errors import SANDBOX_BUSY, RouterError

if TYPE_CHECKING:
    from fastrouter.policy.target import PoolKey


class Bulkhead:
    """Counts the requests of each sandbox from before the dial to the end of the exchange."""

    def __init__(self, most: int) -> None:
        """Let each sandbox have ``most`` requests at once."""
        self._most = most
        self._counts: Counter[PoolKey] = Counter()

    def __repr__(self) -> str:
        return f"<Bulkhead {self._counts.total()} requests, {len(self._counts)} sandboxes>"

    def is_full(self, key: PoolKey) -> bool:
        """Tell whether a sandbox has all that it may have."""
        return self._counts[key] >= self._most if key in self._counts else False

    def enter(self, key: PoolKey) -> None:
        """Count one more; raise ``RouterError`` (429) where the sandbox has all that it may have."""
        if self.is_full(key):
            raise RouterError(SANDBOX_BUSY)
        self._counts[key] += 1

    def leave(self, key: PoolKey) -> None:
        """Count one less."""
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]
