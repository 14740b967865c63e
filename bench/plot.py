"""The plots: SVG for pages, PNG for everything else, the same bytes for the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from bench.needs import RELAY
from bench.results import Results
from bench.scenarios import RATE, Scenario

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by colour-blind people too; a marker each, for lines.
STYLES: Final = {
    "relay": ("#666666", "s"),
    "fan-out relay": ("#aaaaaa", "h"),
    "router": ("#0072B2", "o"),
    "nginx": ("#009E73", "^"),
    "haproxy": ("#D55E00", "v"),
    "caddy": ("#CC79A7", "D"),
    "envoy": ("#E69F00", "P"),
    "fastapi": ("#56B4E9", "X"),
}
OTHER: Final = ("#222222", "*")
# No date and no random ids in the files.
METADATA: Final[dict[str, dict[str, Any]]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}
SETTINGS: Final[dict[Any, Any]] = {
    "svg.hashsalt": "fastrouter",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
}
AXES: Final = {
    "p99_us": "p99 in ms, less is better",
    "cpu_us": "CPU microseconds per event, less is better",
    "kb_per_pair": "KB of resident memory per pair, less is better",
}
DIVISORS: Final = {"p99_us": 1000.0}
WIDTH: Final = 7.0
DPI: Final = 110
# Room for the ratios at the ends of the bars, in parts of the longest one.
ROOM: Final = 1.32
# From here on a label is a whole number.
WHOLE: Final = 1000.0
# Names that a legend has room for.
ONE_LINE: Final = 7


def draw(results: Results, folder: Path) -> list[str]:
    """Write every plot that the results have numbers for; return their names."""
    with mpl.rc_context(SETTINGS):
        figures = {
            scenario.name: bars(results, scenario)
            for scenario in results.scenarios
            if scenario.kind != RATE and results.measured(scenario)
        }
        rates = [one for one in results.scenarios if one.kind == RATE and results.measured(one)]
        if rates:
            figures["rates"] = latencies(results, rates)
        series = [one for one in results.scenarios if one.plain and results.measured(one)]
        if len(series) > 1:
            figures["scaling"] = scaling(results, series)
        for name, figure in figures.items():
            for kind, metadata in METADATA.items():
                figure.savefig(folder / f"{name}.{kind}", dpi=DPI, metadata=metadata)
    return list(figures)


def style(contender: str) -> tuple[str, str]:
    """Colour and marker, the same in every plot."""
    return STYLES.get(contender, OTHER)


def bars(results: Results, scenario: Scenario) -> Figure:
    """One bar for each contender: the median, whiskers to the least and the most, the ratio to the relay."""
    names = [name for name in results.measured(scenario) if results.values(scenario, name, scenario.figure)]
    divisor = DIVISORS.get(scenario.figure, 1.0)
    figure = Figure(figsize=(WIDTH, 1.1 + 0.38 * max(1, len(names))), layout="constrained")
    axes = figure.subplots()
    longest = 0.0
    for place, name in enumerate(names):
        values = [value / divisor for value in results.values(scenario, name, scenario.figure)]
        middle = (results.median(scenario, name, scenario.figure) or 0.0) / divisor
        reach = [[middle - min(values)], [max(values) - middle]]
        axes.barh(place, middle, 0.66, color=style(name)[0], xerr=reach, error_kw={"capsize": 3, "lw": 1})
        axes.annotate(
            _label(results, scenario, name, middle),
            (max(values), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
        longest = max(longest, *values)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, longest * ROOM or 1.0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis = AXES.get(scenario.figure, f"{scenario.unit}, more is better")
    ratios = RELAY in names and len(names) > 1
    axes.set_xlabel(f"{axis}; in brackets: ratio to the relay" if ratios else axis)
    axes.set_title(scenario.title, loc="left", fontweight="bold")
    return figure


def _label(results: Results, scenario: Scenario, name: str, middle: float) -> str:
    shown = f"{middle:,.0f}" if middle >= WHOLE else f"{middle:,.3g}"
    ratio = results.ratio(scenario, name)
    if results.failed(scenario.name, name):
        return f"{shown} (failed)"
    return shown if ratio is None or name == RELAY else f"{shown} ({ratio:.2f})"


def latencies(results: Results, scenarios: list[Scenario]) -> Figure:
    """Three panels, p50, p99 and p99.9: a line for each contender over the fixed rates."""
    figure = Figure(figsize=(WIDTH * 1.3, 3.6), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True, squeeze=False)[0]
    shares = [scenario.share * 100 for scenario in scenarios]
    for axes, (name, title) in zip(
        panels, (("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9")), strict=True
    ):
        for contender in results.contenders:
            points = [results.median(scenario, contender, name) for scenario in scenarios]
            _line(axes, contender, shares, [None if one is None else one / 1000 for one in points])
        axes.set_yscale("log")
        axes.set_xticks(shares, [f"{share:.0f}%" for share in shares])
        axes.set_xlim(0, 90)
        axes.set_title(title)
        _plain_log(axes.yaxis)
    panels[0].set_ylabel("ms, less is better")
    panels[1].set_xlabel("rate, in parts of the router's capacity")
    _legend(figure, panels[0])
    return figure


def scaling(results: Results, scenarios: list[Scenario]) -> Figure:
    """Requests per second over the number of sandboxes."""
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    counts = [float(scenario.sandboxes) for scenario in scenarios]
    for contender in results.contenders:
        points = [results.median(scenario, contender, "rate") for scenario in scenarios]
        _line(axes, contender, counts, points)
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,.0f}" for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("sandboxes")
    axes.set_ylabel("req/s, more is better")
    _legend(figure, axes)
    return figure


def _line(axes: Axes, contender: str, places: list[float], points: list[float | None]) -> None:
    pairs = [(place, point) for place, point in zip(places, points, strict=True) if point]
    if pairs:
        colour, marker = style(contender)
        xs, ys = zip(*pairs, strict=True)
        axes.plot(xs, ys, color=colour, marker=marker, markersize=5, label=contender)


def _plain_log(axis: Any) -> None:
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = len(labels) if len(labels) <= ONE_LINE else ONE_LINE // 2 + 1
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
