"""The results that are kept in the repository: what is made of the JSON says what the JSON says."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from bench import report
from bench.plot import draw
from bench.results import Results

ROOT = Path(__file__).parent.parent.parent
RUNS = sorted(path.parent for path in (ROOT / "bench" / "results").glob("*/results.json"))
PERFORMANCE = (ROOT / "docs" / "performance.md").read_text()
MARKED = re.compile(r"<!-- medians of (bench/results/[^ ]+) -->\n(.*?)\n<!-- end of medians -->", re.DOTALL)


def test_there_is_one_dated_run() -> None:
    assert [bool(re.fullmatch(r"20\d\d-\d\d-\d\d", run.name)) for run in RUNS] == [True]


@pytest.mark.parametrize("run", RUNS, ids=[run.name for run in RUNS])
class TestRun:
    def test_the_table_is_made_of_the_json(self, run: Path) -> None:
        assert (run / "table.md").read_text() == report.markdown(Results.load(run / "results.json"))

    def test_every_plot_is_there_twice_and_no_other(self, run: Path, tmp_path: Path) -> None:
        names = draw(Results.load(run / "results.json"), tmp_path)
        files = {path.name for path in run.iterdir()}
        assert files == {"results.json", "table.md"} | {
            f"{name}.{kind}" for name in names for kind in ("svg", "png")
        }

    def test_nothing_tells_whose_machine_it_was(self, run: Path) -> None:
        raw = (run / "results.json").read_text()
        assert not re.search(r'"/|\b[\w.+-]+@[\w-]+\.', raw)
        assert socket.gethostname() not in json.loads(raw)["machine"].values()

    def test_no_round_of_relay_or_router_failed(self, run: Path) -> None:
        results = Results.load(run / "results.json")
        failed = [(one.scenario, one.contender) for one in results.rounds if one.failed]
        assert not {contender for _, contender in failed} & {"relay", "router"}


def test_the_page_about_performance_shows_the_medians_of_a_kept_run() -> None:
    ((folder, table),) = MARKED.findall(PERFORMANCE)
    assert table == report.medians(Results.load(ROOT / folder / "results.json"))
