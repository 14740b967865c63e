"""A locustfile: the agents of ``bench/locustfile.py``, until they have made the calls of ``ENOUGH``.

A run that ends by the clock says how fast the machine was, and on a busy one it ends before its first call.
"""

from __future__ import annotations

import os
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust import events
from locust.env import Environment
from locust.runners import WorkerRunner

from bench.locustfile import AgentUser

__all__ = ["AgentUser"]

# What must not follow the calls has this time to show; seconds.
_AFTERWARDS = 0.3


def watch(environment: Environment, **_: Any) -> None:
    """Look at the counts after each request and, where workers make them, each report of theirs."""
    runner = environment.runner
    assert runner is not None
    if isinstance(runner, WorkerRunner):
        return  # its master ends it
    wanted = dict(pair.split("=") for pair in os.environ["ENOUGH"].split(","))
    ending: list[object] = []

    def look(**_: Any) -> None:
        done = dict.fromkeys(wanted, 0)
        for entry in runner.stats.entries.values():
            if entry.name in done:
                done[entry.name] += entry.num_requests
        if not ending and all(done[name] >= int(count) for name, count in wanted.items()):
            ending.append(gevent.spawn_later(_AFTERWARDS, runner.quit))

    for event in (environment.events.request, environment.events.worker_report):
        event.add_listener(look)  # type: ignore[no-untyped-call]


events.init.add_listener(watch)  # type: ignore[no-untyped-call]
