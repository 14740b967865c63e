"""What is a source, for the type checker, and what it tells, for the pages."""

from __future__ import annotations

from fastrouter.admin.local import Local
from fastrouter.admin.source import Source
from tests.admin.asking import Told
from tests.admin.test_local import Router


async def test_sources_tell_snapshots_and_reasons() -> None:
    sources: list[Source] = [Told(), Local(Router())]  # what mypy would refuse is no source
    for source in sources:
        assert [snapshot.version for snapshot in await source.snapshots()] == ["1.2.3"]
        assert await source.unready() == []
