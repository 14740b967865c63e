"""The report of a soak, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.adversity.soak import Result
    from tests.adversity.soak_watch import Sample

ROWS: Final = 12
SHOWN: Final = 50
MIB: Final = 1024 * 1024

_WHAT: Final = """\
Written by `make soak`: the router as a process, sandboxes as processes that are killed, stopped and started
again, clients that ask for faults and leave. Every answer is checked for the sandbox and the request that it
belongs to, bodies by hash. What is wrong in one exchange or one sandbox may show nowhere else."""


def markdown(result: Result, wrong: Sequence[str]) -> str:
    """Return the report; ``wrong`` is what must not have been."""
    plan, ledger = result.plan, result.ledger
    asked = sum(ledger.asked.values())
    setting = f"{plan.boxes} sandboxes, {plan.talkers} clients, seed {plan.seed}"
    verdict = f"FAILED, {len(wrong)} violations" if wrong else "Passed"
    parts = [
        "# The last soak",
        _WHAT,
        f"**{verdict}**: {asked:,} requests in {plan.seconds:g} s, {setting}.",
        *_listed(wrong),
        *_listed([f"`{line}`" for line in result.evidence]),
        "## Requests",
        _table(("kind", "requests"), ledger.asked),
        "## Faults",
        "Of single exchanges, as their requests asked for them; an exchange may fail for its own fault only.",
        _table(("fault", "requests"), ledger.faults),
        "Of whole sandboxes; while one lasts and a second longer, exchanges with that sandbox may fail.",
        _table(("trouble", "times"), result.troubles),
        "## Outcomes",
        "As the clients saw them.",
        _table(("outcome", "requests"), ledger.outcomes),
        "As the access log tells them, health checks included.",
        _table(("reason word", "lines"), result.answers),
        "## The router's process",
        _thirds(result),
        _series(result.samples),
        "## Health checks meanwhile",
        "\n".join(f"- `{name}`: {words}" for name, words in result.prober.summary().items()),
    ]
    return "\n\n".join(parts) + "\n"


def _listed(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {line}" for line in lines[:SHOWN])] if lines else []


def _table(header: tuple[str, str], rows: Mapping[str, int]) -> str:
    ranked = sorted(rows.items(), key=lambda row: (-row[1], row[0]))
    lines = [f"| {header[0]} | {header[1]} |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {name} | {number:,} |" for name, number in ranked)])


def _thirds(result: Result) -> str:
    lines = ["| after the warm-up | first third | last third |", "|---|---:|---:|"]
    resident = result.thirds("resident")
    lines.append(f"| RSS, MiB (median) | {resident[0] / MIB:.1f} | {resident[1] / MIB:.1f} |")
    names = {"files": "descriptors", "threads": "threads", "tasks": "tasks", "heads": "heads kept"}
    for name, words in names.items():
        first, last = result.thirds(name)
        lines.append(f"| {words} (median) | {first:.0f} | {last:.0f} |")
    last_files = result.last.files if result.last is not None else -1
    lines.append(f"| descriptors at rest, before and after | {result.rest.files} | {last_files} |")
    return "\n".join(lines)


def _series(samples: Sequence[Sample]) -> str:
    lines = [
        "| second | RSS, MiB | descriptors | tasks | clients | idle upstream | heads kept |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    step = max(1, len(samples) // ROWS)
    for each in samples[step - 1 :: step]:
        state = each.state
        kept = (state.get(name, 0) for name in ("tasks", "clients", "idle", "heads"))
        numbers = (f"{each.at:.0f}", f"{each.resident / MIB:.1f}", f"{each.files}", *map(str, kept))
        lines.append(f"| {' | '.join(numbers)} |")
    return "\n".join(lines)
