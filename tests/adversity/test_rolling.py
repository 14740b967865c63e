"""The rolling update of `tests.adversity.rolling`, its short profile."""

from __future__ import annotations

import pytest

from tests.adversity.balancer import program
from tests.adversity.rolling import WAYS, main, roll

needs_haproxy = pytest.mark.skipif(program() is None, reason="haproxy is not installed")


@pytest.mark.parametrize(
    "way", [pytest.param(name, marks=needs_haproxy if WAYS[name].balanced else ()) for name in WAYS]
)
async def test_two_routers_are_replaced_and_no_command_fails(way: str) -> None:
    report = await roll(way, rounds=2, callers=6)
    assert report.tally.failures == [], str(report)
    assert [each.exit_code for each in report.replacements] == [0, 0]
    assert sum(each.carried_over for each in report.replacements)
    assert report.tally.answered > 100


def test_without_haproxy_the_script_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.adversity.rolling.program", lambda: None)
    assert main([]) == 2
    assert "apt-get install haproxy" in capsys.readouterr().err
