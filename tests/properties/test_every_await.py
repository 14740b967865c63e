"""A client may leave at every point where its task waits: nothing of it is left behind.

Each scene is played again and again, and the task of one connection is cancelled where it waits for the first
time, for the second time, and so on, until a scene ends undisturbed. Each point is tried in two ways: before
what the task waits for has come, and in the same turn of the event loop as it comes, when both are true at
once. A third way is to cancel at moments of the scene, which lie in the middle of a wait.
"""

from __future__ import annotations

import pytest

from tests.properties.ending import WAYS, Place, Probe, awaits, play
from tests.properties.scenes import SCRIPTS

_MOST_POINTS = 60
_FILES = ("exchange.py", "net/downstream.py", "net/inbound.py", "net/pool.py", "net/dialer.py")
# An await of these files at which no client's task can end, and why.
_EXEMPT = {
    "net/pool.py": {"await self.dial(target, timeout)": "Pool.acquire is for callers that are no exchange"},
}
_ended: dict[str, set[Place]] = {}


async def end_everywhere(name: str) -> set[Place]:
    """Play a scene once for each of its points; return where the task has been cancelled."""
    script = SCRIPTS[name]
    found: set[Place] = set()
    for way in WAYS:
        for at in range(_MOST_POINTS):
            probe = Probe(way, at, script.subject)
            try:
                await play(script.scene, probe, script.settings)
            except BaseException as error:
                error.add_note(f"{name}: cancelled {way}, point {at}, at {sorted(probe.ended)}")
                raise
            if probe.points <= at:
                break
            found |= probe.ended
        else:
            raise AssertionError(f"{name} never ends")
    return found


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_task_may_end_wherever_it_waits(name: str) -> None:
    _ended[name] = await end_everywhere(name)
    assert _ended[name]


async def test_the_scenes_wait_at_every_await_of_an_exchange() -> None:
    for name in SCRIPTS.keys() - _ended.keys():  # all of them, where this test runs alone
        _ended[name] = await end_everywhere(name)
    ended = set[Place]().union(*_ended.values())
    for file in _FILES:
        missed = {text: place.line for place, text in awaits(file).items() if place not in ended}
        assert missed.keys() == _EXEMPT.get(file, {}).keys(), (file, missed)
