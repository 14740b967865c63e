"""From results to words: the table, the requirements, the warnings, and the files. Nothing here measures.

``python -m bench.report RESULTS.json`` makes table and plots again, beside the JSON file or in ``--out``.
Of several runs it makes one with the rounds of all of them, in ``--out``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.needs import RELAY, ROUTER
from bench.results import Results, Round, Verdict, spread
from bench.scenarios import IDLE, RATE, Scenario

# Below this the process under test was waiting for the other core, which then is what was measured.
BUSY_ENOUGH: Final = 0.90
# Above this somebody else took so much of the core under test that the round says little.
DISTURBED: Final = 0.05
# Of an idle pair a contender has two connections, or it does not keep the one to the sandbox.
BOTH: Final = 1.8
# A load generator that sends later than this at a fixed rate is not the one that was asked for.
LATE_US: Final = 5000
NONE: Final = "-"

HEADINGS: Final = (
    *("scenario", "contender", "figure", "unit", "ratio", "spread"),
    *("p50 ms", "p99 ms", "p99.9 ms", "CPU us/req", "RSS MB"),
)
LEFT: Final = 2  # columns of words, from the left


def rows(results: Results) -> list[list[str]]:
    """The table: a row for each contender in each scenario."""
    return [
        _row(results, scenario, contender, first=number == 0)
        for scenario in results.scenarios
        for number, contender in enumerate(results.measured(scenario))
    ]


def _row(results: Results, scenario: Scenario, contender: str, *, first: bool) -> list[str]:
    def cell(figure: str, form: str, divisor: float = 1.0) -> str:
        value = results.median(scenario, contender, figure)
        return NONE if value is None else form.format(value / divisor)

    speed = scenario.kind != IDLE
    times = [cell(name, "{:.2f}", 1000) if speed else NONE for name in ("p50_us", "p99_us", "p999_us")]
    figure = "rate" if speed else "kb_per_pair"
    ratio = results.ratio(scenario, contender, figure)
    return [
        scenario.title if first else "",
        contender + (" FAILED" if results.failed(scenario.name, contender) else ""),
        cell(figure, "{:,.0f}" if speed else "{:.1f}"),
        scenario.unit if speed else "KB/pair",
        NONE if ratio is None or scenario.kind == RATE else f"{ratio:.2f}",
        _percent(spread(results.values(scenario, contender, figure))),
        *times,
        cell("cpu_us", "{:,.1f}") if speed else NONE,
        cell("rss_mb", "{:,.0f}"),
    ]


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.0%}"


def aligned(lines: Sequence[Sequence[str]], left: int) -> str:
    """Lines of cells as text, the first one as a heading."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([texts[0], "-" * max(map(len, texts)), *texts[1:]])


def requirements(results: Results) -> list[list[str]]:
    """What had to be shown, and what became of it."""
    return [
        [one.scenario.title, one.need.words(), NONE if one.value is None else f"{one.value:.2f}", one.state]
        for one in results.verdicts()
    ]


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many hold."""
    count = {
        state: sum(one.state == state for one in verdicts) for state in ("holds", "MISSED", "not measured")
    }
    return ", ".join(f"{number} {state}" for state, number in count.items())


def remarks(results: Results) -> list[str]:
    """What a reader of the table must know before believing it."""
    lines = [
        f"{scenario.title}, {contender}: {text}"
        for scenario in results.scenarios
        for contender in results.measured(scenario)
        for text in _remarks(scenario, results.of(scenario.name, contender))
    ]
    return lines + _disturbed(results.rounds)


def _disturbed(rounds: Sequence[Round]) -> list[str]:
    found = [one for one in rounds if (one.others_share or 0.0) > DISTURBED]
    if not found:
        return []
    worst = max(found, key=lambda one: one.others_share or 0.0)
    share = f"{worst.others_share:.0%} at worst ({worst.contender}, {worst.scenario})"
    took = f"other processes took over {DISTURBED:.0%} of the core under test"
    return [f"{took} in {len(found)} of {len(rounds)} rounds, {share}: measure on a quiet machine"]


def _remarks(scenario: Scenario, rounds: Sequence[Round]) -> Iterator[str]:
    for one in rounds:
        if one.failed:
            errors = {kind: count for kind, count in one.errors.items() if count}
            yield f"FAILED in round {one.number}: {one.requests} answers, errors {errors}"
    waiting = [one for one in rounds if (one.core_share or 0) + (one.others_share or 0) < BUSY_ENOUGH]
    if scenario.kind == "closed" and waiting and rounds[0].core_share is not None:
        flatters = "the ratio flatters" if rounds[0].contender == RELAY else "it could do more"
        share = min(one.core_share or 0.0 for one in waiting)
        yield (
            f"used only {share:.0%} of its core in {len(waiting)} of {len(rounds)} rounds, "
            f"the other core was the limit: {flatters}"
        )
    if late := [one for one in rounds if (one.behind_p99_us or 0) > LATE_US]:
        worst = max(one.behind_p99_us or 0.0 for one in late) / 1000
        yield f"the load generator itself was up to {worst:.1f} ms late (p99), which is in the latencies"
    if rounds[0].files_per_pair is not None and rounds[0].files_per_pair < BOTH:
        yield f"keeps only {rounds[0].files_per_pair:.1f} connections open per pair: the KB are those of less"


def setting(results: Results) -> list[str]:
    """Where and how it was measured."""
    machine, settings = results.machine, results.settings
    versions = [f"{name} {version}" for name, version in machine.get("packages", {}).items()]
    programs = [f"{name}: {version}" for name, version in machine.get("programs", {}).items()]
    known = settings.get
    lines = [
        f"{results.when}, {machine.get('cpu')}, kernel {machine.get('kernel')}",
        f"Python {machine.get('python')}, {', '.join(versions)}",
        "; ".join(programs),
        str(known("pinned")),
        f"{known('connections')} connections where nothing else is said, {known('seconds')} s in all",
        f"load: {known('load')}; sandbox: {known('sandbox')}",
    ]
    if settings.get("log_lines") is not None:
        lines.append(
            f"router access log: on, through a pipe, {settings['log_lines']:,} lines read and dropped"
        )
    if settings.get("capacity"):
        lines.append(f"fixed rates are parts of {settings['capacity']:,.0f} req/s, the router's capacity")
    return [line for line in lines if line]


def text(results: Results) -> str:
    """All of it, for a terminal."""
    parts = ["\n".join(setting(results)), aligned([HEADINGS, *rows(results)], LEFT)]
    if wanted := requirements(results):
        heading = ["scenario", "requirement of the router", "value", ""]
        parts.append(aligned([heading, *wanted], 2) + f"\n{summary(results.verdicts())}")
    if notes := remarks(results):
        parts.append("\n".join(f"note: {line}" for line in notes))
    if results.skipped:
        parts.append("\n".join(f"skipped: {line}" for line in results.skipped))
    return "\n\n".join(parts)


def markdown(results: Results) -> str:
    """All of it, as Markdown."""
    parts = [
        "# Results",
        "\n".join(f"- {line}" for line in setting(results)),
        "## Medians, and the ratio to the relay",
        medians(results),
        "## Every figure",
        _pipes([HEADINGS, *rows(results)], LEFT),
    ]
    if wanted := requirements(results):
        parts += ["## Requirements", _pipes([["scenario", "requirement", "value", "verdict"], *wanted], 2)]
    for title, lines in (("## Notes", remarks(results)), ("## Skipped", results.skipped)):
        if lines:
            parts += [title, "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def medians(results: Results) -> str:
    """The one table that says most, as Markdown: docs/performance.md has it too."""
    heading = ["scenario", "unit", *results.contenders]
    body = [
        [
            scenario.title,
            _unit(scenario),
            *(_overview(results, scenario, name) for name in results.contenders),
        ]
        for scenario in results.scenarios
        if results.measured(scenario)
    ]
    return _pipes([heading, *body], 2)


def _unit(scenario: Scenario) -> str:
    units = {"p99_us": "p99 ms", "cpu_us": "CPU us/event", "kb_per_pair": "KB/pair"}
    return units.get(scenario.figure, scenario.unit)


def _overview(results: Results, scenario: Scenario, contender: str) -> str:
    value = results.median(scenario, contender, scenario.figure)
    if value is None:
        return NONE
    if results.failed(scenario.name, contender):
        return "failed"
    forms = {"rate": f"{value:,.0f}", "p99_us": f"{value / 1000:.2f}"}
    shown = forms.get(scenario.figure, f"{value:.1f}")
    ratio = results.ratio(scenario, contender)
    shown = shown if ratio is None or contender == RELAY else f"{shown} ({ratio:.2f})"
    return f"**{shown}**" if contender == ROUTER else shown


def _pipes(lines: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---" if place < left else "---:" for place in range(len(lines[0]))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def write(results: Results, folder: Path, *, plots: bool = True) -> str:
    """Write all files of a run; return what the terminal shows."""
    folder.mkdir(parents=True, exist_ok=True)
    results.save(folder / "results.json")
    return f"\n{_shown(results, folder, plots=plots)}"


def _shown(results: Results, folder: Path, *, plots: bool) -> str:
    (folder / "table.md").write_text(markdown(results))
    drawn = draw(results, folder) if plots else "no plots: not asked for"
    return f"{text(results)}\n\nin {folder}: results.json, table.md; {drawn}"


def draw(results: Results, folder: Path) -> str:
    """Write the plots; return a line about them."""
    try:
        # It takes a second to import, and the environment of `make demo` does not have it.
        from bench import plot  # noqa: PLC0415
    except ImportError as error:
        return f"no plots: {error.name} is missing (pip install 'fastrouter[bench]')"
    return f"{len(plot.draw(results, folder))} plots, each as SVG and PNG"


def main(arguments: list[str] | None = None) -> int:
    """Make table and plots from a JSON file, or one run out of several."""
    parser = argparse.ArgumentParser(prog="bench.report", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS.json")
    parser.add_argument("--out", type=Path, help="folder, by default that of the JSON file")
    options = parser.parse_args(arguments)
    first, *others = map(Results.load, options.results)
    if others and options.out is None:
        parser.error("of several runs, --out has to say where the one goes")
    folder = options.out or options.results[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    if others:
        print(write(first.together(others), folder))
    else:
        print(_shown(first, folder, plots=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
