"""The documents say what is: every name, path, test and default in them exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from fastrouter import settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BEHAVIOR = (ROOT / "docs" / "behavior.md").read_text()
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


def test_the_readme_shows_the_settings_as_they_are() -> None:
    assert settings.markdown_table() in (ROOT / "README.md").read_text()


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
