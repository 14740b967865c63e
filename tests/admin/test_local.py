"""When a router of one process is ready."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from fastrouter.admin.local import Local
from fastrouter.telemetry.snapshot import Snapshot, empty


@dataclass
class Router:
    """A router in whatever state the test wants."""

    listening: bool = True
    leaving: bool = False
    fault: str = ""
    probes: int = 0
    answering: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answering.set()

    def snapshot(self) -> Snapshot:
        return empty(7, "1.2.3", 1000.0)

    async def dns_fault(self) -> str:
        self.probes += 1
        await self.answering.wait()
        return self.fault


async def test_the_one_snapshot_is_the_routers() -> None:
    assert [each.pid for each in await Local(Router()).snapshots()] == [7]


@pytest.mark.parametrize(
    ("router", "reasons"),
    [
        (Router(), []),
        (Router(listening=False), ["not listening"]),
        (Router(leaving=True), ["shutting down"]),
        (Router(leaving=True, listening=False), ["shutting down"]),
        (Router(fault="refused"), ["DNS does not answer: refused"]),
    ],
)
async def test_ready_is_listening_staying_and_dns(router: Router, reasons: list[str]) -> None:
    assert await Local(router).unready() == reasons


async def test_dns_is_not_asked_where_the_answer_is_known() -> None:
    for router in (Router(leaving=True), Router(listening=False)):
        await Local(router).unready()
        assert router.probes == 0


async def test_a_stop_while_dns_is_asked_counts() -> None:
    router = Router()
    router.answering.clear()
    asking = asyncio.create_task(Local(router).unready())
    await asyncio.sleep(0)
    assert router.probes == 1
    router.leaving = True
    router.answering.set()
    assert await asking == ["shutting down"]


def test_repr_names_the_router() -> None:
    assert repr(Local(Router())).startswith("<Local Router(listening=True")
