"""The documents say what is: every name, path, test and default in them exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from fastrouter import config, configfile, errors
from fastrouter.accounts import CUT_OFF, LEFT
from fastrouter.arguments import COMMANDS
from fastrouter.options import OPTIONS
from fastrouter.telemetry.families import FAMILIES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BEHAVIOR = (ROOT / "docs" / "behavior.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
LIFE = (ROOT / "docs" / "life-of-a-request.md").read_text()


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return `function`, `Class`, `Class.method` of a source file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found.update(
                f"{node.name}.{member.name}"
                for member in node.body
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
            )
    return frozenset(found)


def exists(name: str) -> bool:
    """Tell whether a dotted name such as `net.pool.Pool.reuse` or `Pool.reuse` is in the package."""
    if name.split(".", maxsplit=1)[0][0].isupper():
        return any(name in names_in(path) for path in (ROOT / "fastrouter").rglob("*.py"))
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT / "fastrouter" / Path(*parts[:length]).with_suffix(".py")
        if path.exists():
            return length == len(parts) or ".".join(parts[length:]) in names_in(path)
    return False


def test_the_settings_are_shown_as_they_are() -> None:
    shown = CONFIGURATION.partition("<!-- settings:")[2].partition(" -->\n")[2]
    assert shown.partition("<!-- end of settings -->")[0] == config.markdown_tables()


def test_the_example_of_a_configuration_file_is_one() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", CONFIGURATION, re.DOTALL)
    file = configfile.read(example, "example")
    assert file.faults == ()
    assert len(file.values) == len(example.splitlines()) - 1  # one is null


def test_every_command_has_its_row() -> None:
    rows = re.findall(r"^\| `fastrouter ([a-z-]+)", CONFIGURATION, re.MULTILINE)
    assert sorted(set(rows)) == sorted([*COMMANDS])


def test_the_readme_shows_the_two_commands_on_its_first_screen() -> None:
    first_screen = (ROOT / "README.md").read_text().splitlines()[:25]
    assert any("make demo" in line for line in first_screen)
    assert any("make test" in line for line in first_screen)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_in_the_documents_exist(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", text)
    assert [link for link in links if not (document.parent / link).exists()] == []
    paths = re.findall(r"`((?:tests|bench|docs|fastrouter)/[A-Za-z0-9_./-]+)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_life_of_a_request_names_code_that_exists() -> None:
    rows = [row for row in LIFE.splitlines() if row.startswith("|")]
    names = {name for row in rows for name in re.findall(r"`([A-Za-z_]+(?:\.[A-Za-z_]+)+)`", row)}
    names = {name for name in names if not name.endswith(".py")}
    assert len(names) > 25
    assert sorted(name for name in names if not exists(name)) == []


def promises() -> list[tuple[str, str]]:
    """Return the promises of behavior.md, each with the text of its tests."""
    rows = re.findall(r"^- (.+?) \[(.+?)\]$", BEHAVIOR, re.MULTILINE)
    return [(promise, tests) for promise, tests in rows]


def test_every_promise_names_its_test() -> None:
    items = [line for line in BEHAVIOR.splitlines() if line.startswith("- ")]
    assert len(items) > 40
    assert len(items) == len(promises())


@pytest.mark.parametrize(("promise", "tests"), promises(), ids=lambda text: text[:60])
def test_the_test_of_a_promise_exists(promise: str, tests: str) -> None:
    for reference in tests.split(", "):
        path, _, name = reference.strip("`").partition("::")
        names = names_in(ROOT / "tests" / path)
        assert name.replace("::", ".") in names, f"{promise}: no {reference}"


def test_the_decisions_are_numbered_without_a_gap() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def migrations() -> list[tuple[str, str]]:
    """Return the rows of migrating.md, each with the text of its tests."""
    return rows_of("migrating.md")


def rows_of(name: str) -> list[tuple[str, str]]:
    """Return the rows of a page's tables that name tests, each with the text of its tests."""
    text = (ROOT / "docs" / name).read_text()
    rows = [row.strip("|").split("|") for row in text.splitlines() if row.startswith("| ")]
    return [(row[0].strip(), row[-1].strip()) for row in rows if "::" in row[-1]]


def test_migrating_covers_what_a_deployment_has() -> None:
    assert len(migrations()) > 25


@pytest.mark.parametrize(("row", "tests"), migrations(), ids=lambda text: text[:60])
def test_the_test_of_a_migration_exists(row: str, tests: str) -> None:
    for reference in tests.split(", "):
        path, _, name = reference.strip("`").partition("::")
        assert name.replace("::", ".") in names_in(ROOT / "tests" / path), f"{row}: no {reference}"


def test_security_covers_every_side() -> None:
    assert len(rows_of("security.md")) > 20


@pytest.mark.parametrize(("row", "tests"), rows_of("security.md"), ids=lambda text: text[:60])
def test_the_test_of_a_defence_exists(row: str, tests: str) -> None:
    for reference in re.findall(r"`([a-z_/]+\.py::[^`]+)`", tests):
        path, _, name = reference.partition("::")
        assert name.replace("::", ".") in names_in(ROOT / "tests" / path), f"{row}: no {reference}"


@pytest.mark.parametrize(("row", "tests"), rows_of("tls.md"), ids=lambda text: text[:60])
def test_the_test_of_what_tls_promises_exists(row: str, tests: str) -> None:
    for reference in re.findall(r"`([a-z_/]+\.py::[^`]+)`", tests):
        path, _, name = reference.partition("::")
        assert name.replace("::", ".") in names_in(ROOT / "tests" / path), f"{row}: no {reference}"


def test_memory_covers_every_state() -> None:
    assert len(rows_of("memory.md")) > 12


@pytest.mark.parametrize(("row", "tests"), rows_of("memory.md"), ids=lambda text: text[:60])
def test_the_test_of_a_bound_exists(row: str, tests: str) -> None:
    for reference in re.findall(r"`([a-z_/]+\.py::[^`]+)`", tests):
        path, _, name = reference.partition("::")
        assert name.replace("::", ".") in names_in(ROOT / "tests" / path), f"{row}: no {reference}"


def test_operations_explains_every_reason_word_with_its_status_and_side() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text.partition("<!-- reason words:")[2].partition("<!-- end of reason words -->")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[1:]]
    told = [(word.strip("`"), int(status), side) for word, status, side, *_ in rows[2:]]
    causes = [cause for cause in vars(errors).values() if isinstance(cause, errors.Cause)]
    # Nobody is there to get a reply: no row of the table of replies.
    known = {(cause.reason, cause.status, cause.source.value) for cause in causes}
    known |= {(LEFT, 499, "client"), (CUT_OFF, 499, "router")}
    assert sorted(told) == sorted(known)
    assert all(len(row) == len(rows[0]) and all(row) for row in rows)


def test_operations_names_metrics_that_exist() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    names = set(re.findall(r"\b(?:sandbox_router|process)_[a-z_]+", text))
    assert len(names) > 8
    assert names - {f"{family.sample}{end}" for family in FAMILIES for end in ("", "_bucket")} == set()


@pytest.mark.parametrize("name", ["operations", "behavior", "security", "migrating", "metrics", "tls"])
def test_variables_that_users_are_told_of_exist(name: str) -> None:
    known = {option.variable for option in OPTIONS} | {config.CONFIG_VARIABLE, "HTTP_PROXY"}
    found = re.findall(r"`([A-Z]+(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", (ROOT / "docs" / f"{name}.md").read_text())
    assert found
    # OpenTelemetry's own are read by its SDK.
    assert {each for each in found if not each.startswith("OTEL_")} - known == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_headings_that_a_document_points_to_exist(document: Path) -> None:
    text = document.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) - anchors == set()
