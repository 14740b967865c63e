"""The driver's own part: what it says of a run, and an input that is run again."""

from __future__ import annotations

import base64
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import __main__ as driver
from tests.fuzz.targets import FOLDER, corpus_of

ROOT = FOLDER.parent.parent
FINDING = FOLDER / "out" / "findings" / "exchanges-crash-1234"


def test_a_run_that_held_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = "#2 INITED cov: 12 ft: 13\n#9 NEW cov: 34 ft: 50\nstat::number_of_executed_units: 567\n"
    assert driver.report("exchanges", 0, log, set())
    assert capsys.readouterr().out == "exchanges: 567 inputs, 34 places, holds\n"


@pytest.mark.parametrize("code", [77, 1, -1, 0])
def test_a_finding_is_told_with_its_story_and_how_to_see_it_again(
    code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    log = (
        "#9 NEW cov: 34\n\n === Uncaught Python exception: ===\nAssertionError: why\n==1== ERROR: libFuzzer\n"
    )
    assert not driver.report("exchanges", code, log, {FINDING})
    assert capsys.readouterr().out == (
        f"AssertionError: why\nexchanges: a finding, exit code {code}\n"
        "  again: python -m tests.fuzz exchanges tests/fuzz/out/findings/exchanges-crash-1234\n"
    )


def test_a_finding_can_be_copied_from_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    file = corpus_of("chunked_bodies")[0]
    assert not driver.report("chunked_bodies", 77, "", {file})
    encoded = capsys.readouterr().out.rpartition("base64: ")[2]
    assert base64.b64decode(encoded) == file.read_bytes()


def test_a_run_that_broke_down_is_a_finding_with_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert not driver.report("exchanges", -1, "nothing\nmore\n", set())
    assert capsys.readouterr().out == "nothing\nmore\nexchanges: a finding, exit code -1\n"


def test_without_atheris_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["fuzz", "all"])
    with pytest.raises(SystemExit) as left:
        driver.main()
    assert left.value.code == 2
    assert "pip install -e '.[dev,fuzz]'" in capsys.readouterr().err


def run_again(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", "chunked_bodies", str(file)]
    return subprocess.run(  # noqa: S603 - this Python, and a file
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_an_input_is_run_again_without_atheris() -> None:
    file = corpus_of("chunked_bodies")[0]
    assert run_again(file).stdout == f"chunked_bodies: {file}: holds\n"


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert run_again(tmp_path / "nothing").returncode == 1
