"""The plots: which there are, that they repeat, and that no label covers another."""

from __future__ import annotations

from io import BytesIO
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from bench import plot
from bench.peers.catalog import PEERS
from bench.scenarios import RATE, SCENARIOS
from tests.bench.rounds import RATES, made_up, one_round, scenario

ALL = list(RATES)


def test_a_plot_for_every_scenario_one_for_the_rates_and_one_for_the_fan_out(tmp_path: Path) -> None:
    run = made_up([one.name for one in SCENARIOS])
    names = plot.draw(run, tmp_path)
    assert set(names) == {one.name for one in SCENARIOS if one.kind != RATE} | {"rates", "scaling"}
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png")
    }
    assert all(100 < path.stat().st_size < 100_000 for path in tmp_path.iterdir())


def test_the_same_numbers_give_the_same_bytes_without_a_date(tmp_path: Path) -> None:
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        plot.draw(made_up(["one", "s100", "rate-10"], ALL), folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert "dc:date" not in (tmp_path / "one" / "one.svg").read_text()


def test_every_contender_has_a_colour_of_its_own() -> None:
    assert {peer.name for peer in PEERS} < set(plot.STYLES)
    styles = [*plot.STYLES.values(), plot.OTHER]
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == len(styles)
    assert plot.style("some router by URL") == plot.OTHER


def texts(axes: Axes) -> list[Text]:
    """All that is written, but for the ticks that are outside the axis and so are not drawn."""
    left, right = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticklabels() if left <= tick.get_position()[0] <= right]
    return [*axes.texts, *ticks, *axes.get_yticklabels(), axes.xaxis.label]


@pytest.mark.parametrize("name", ["one", "get-64m", "events", "idle"])
def test_labels_of_bars_cover_nothing_and_stay_inside(name: str) -> None:
    with mpl.rc_context(plot.SETTINGS):
        figure = plot.bars(made_up([name], ALL), scenario(name))
        figure.savefig(BytesIO())
        boxes = [text.get_window_extent() for text in texts(figure.axes[0])]
        page = figure.bbox
    assert len(boxes) > 2 * len(ALL)
    assert not [box for box in boxes if not (page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1))]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_bars_say_the_median_the_ratio_and_what_failed() -> None:
    run = made_up(["one"], ALL)
    run.rounds.append(one_round("one", "caddy", 3, 9_000, errors={"read": 1}))
    [axes] = plot.bars(run, scenario("one")).axes
    assert {"90,000", "60,000 (0.67)", "9,000 (failed)"} < {text.get_text() for text in texts(axes)}
    assert axes.get_title(loc="left") == "one sandbox"


def test_rates_are_lines_in_three_panels_on_one_logarithmic_scale() -> None:
    rates = [one for one in SCENARIOS if one.kind == RATE]
    figure = plot.latencies(made_up([one.name for one in rates], ALL), rates)
    assert [axes.get_title() for axes in figure.axes] == ["p50", "p99", "p99.9"]
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    assert [len(axes.get_lines()) for axes in figure.axes] == [len(ALL)] * 3


def test_scaling_is_over_the_number_of_sandboxes() -> None:
    chosen = [scenario(name) for name in ("one", "s100", "s10000")]
    [axes] = plot.scaling(made_up([one.name for one in chosen], ALL), chosen).axes
    assert axes.get_xscale() == "log"
    assert np.asarray(axes.get_lines()[0].get_xdata()).tolist() == [1, 100, 10_000]
