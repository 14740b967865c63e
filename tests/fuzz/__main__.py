"""Fuzzes the router: ``python -m tests.fuzz TARGET|all --seconds N``, or one input: ``... TARGET FILE``.

Fuzzing needs atheris (``pip install -e '.[dev,fuzz]'``), and an input alone does not. Exit code 1: a finding.
What reaches something new is kept in ``out/``, so that the next run goes on from there.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.fuzz.targets import CORPUS, FOLDER, TARGETS, check_of

_ROOT: Final = FOLDER.parent.parent
_OUT: Final = FOLDER / "out"
_FINDINGS: Final = _OUT / "findings"
_MAX_INPUT: Final = 4096
# One input that takes this long is a finding; imports and the corpus need some time before the clock runs.
_MAX_INPUT_SECONDS: Final = 10
_GRACE_SECONDS: Final = 60
_MAX_MEGABYTES: Final = 1024
_TAIL: Final = 40


def main() -> int:
    """Fuzz, or run the given inputs; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="run these inputs, and no more")
    parser.add_argument("--seconds", type=int, default=60, help="of all targets together (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="for the same inputs again (default: others)")
    options = parser.parse_args()
    if options.files:
        if options.target == "all":
            parser.error("an input is for one target")
        reproduce(options.target, options.files)
        return 0
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install -e '.[dev,fuzz]'")
    targets = TARGETS if options.target == "all" else (options.target,)
    seconds = max(1, options.seconds // len(targets))
    failed = [target for target in targets if not fuzz(target, seconds, options.seed)]
    return 1 if failed else 0


def reproduce(target: str, files: list[Path]) -> None:
    """Run a target on inputs, without atheris; the first finding is raised."""
    check = check_of(target)
    for file in files:
        check(file.read_bytes())
        print(f"{target}: {file}: holds")


def fuzz(target: str, seconds: int, seed: int) -> bool:
    """Run a target under atheris; tell what came of it, and whether all was well."""
    grown = _OUT / target
    grown.mkdir(parents=True, exist_ok=True)
    _FINDINGS.mkdir(exist_ok=True)
    log = _OUT / f"{target}.log"
    known = findings(target)
    command = [
        *(sys.executable, "-m", "tests.fuzz.under_atheris", target),
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={_MAX_INPUT}",
        f"-timeout={_MAX_INPUT_SECONDS}",
        f"-rss_limit_mb={_MAX_MEGABYTES}",
        f"-artifact_prefix={_FINDINGS}/{target}-",
        f"-dict={FOLDER / 'http.dict'}",
        "-print_final_stats=1",
        # The first folder takes what is found, the second is read only.
        *(str(grown), str(CORPUS / target)),
    ]
    with log.open("w") as output:
        try:
            code = subprocess.run(  # noqa: S603 - this Python, and arguments from above
                command,
                cwd=_ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds + _GRACE_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    return report(target, code, log.read_text(errors="replace"), findings(target) - known)


def findings(target: str) -> set[Path]:
    """Return the inputs that ended a run of the target; a slow one alone is no finding."""
    return {path for path in _FINDINGS.glob(f"{target}-*") if "slow-unit" not in path.name}


def report(target: str, code: int, log: str, found: set[Path]) -> bool:
    """Print one line for a target that held, and all that is known of one that did not."""
    if code == 0 and not found:
        runs = re.search(r"number_of_executed_units: *(\d+)", log)
        covered = re.findall(r"cov: (\d+)", log)
        print(f"{target}: {runs[1] if runs else '?'} inputs, {covered[-1] if covered else '?'} places, holds")
        return True
    raised = log.partition("=== Uncaught Python exception: ===")[2].partition("\n==")[0]
    story = raised.strip() or log
    print("\n".join(story.splitlines()[-_TAIL:]))
    print(f"{target}: a finding, exit code {code}")
    for path in sorted(found):
        print(f"  again: python -m tests.fuzz {target} {path.relative_to(_ROOT)}")
        if path.is_file():  # of a run elsewhere, the output may be all that is left
            print(f"  the input, base64: {base64.b64encode(path.read_bytes()).decode('ascii')}")
    return False


if __name__ == "__main__":
    sys.exit(main())
