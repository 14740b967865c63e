"""The router of the soak: ``fastrouter serve``, that also tells on stderr what /proc does not show."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from unittest.mock import patch

from fastrouter import cli, runtime
from fastrouter.policy.plan import RequestPlan, ResponsePlan
from fastrouter.server import Server
from fastrouter.wire.head_cache import HeadCache

SECONDS = "SOAK_STATE_SECONDS"


class WatchedServer(Server):
    """Tells the number of tasks, connections and kept things from time to time."""

    async def start(self) -> None:
        await super().start()
        self._telling = asyncio.create_task(self._tell(float(os.environ.get(SECONDS, "1"))))

    async def shutdown(self, grace: float | None = None) -> None:
        self._telling.cancel()
        await super().shutdown(grace)

    async def _tell(self, seconds: float) -> None:
        while True:
            pool = self.pool.statistics()
            state = {
                "tasks": len(asyncio.all_tasks()),
                "clients": len(self.connections),
                "idle": pool["upstream_idle"],
                "active": pool["upstream_active"],
                "keys": pool["pool_keys"],
                "heads": kept(self.request_heads) + kept(self.response_heads),
            }
            print(json.dumps(state), file=sys.stderr, flush=True)
            await asyncio.sleep(seconds)


def kept(heads: HeadCache[RequestPlan] | HeadCache[ResponsePlan]) -> int:
    """Count what a cache holds."""
    kinds = (heads.exact, heads.templates)
    return sum(len(each.young) + len(each.old) for each in kinds)


if __name__ == "__main__":
    with patch.object(runtime, "Server", WatchedServer):
        sys.exit(cli.main())
