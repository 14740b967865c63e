"""Runs one target under atheris: ``python -m tests.fuzz.under_atheris TARGET [libFuzzer's options]``.

A process of its own, since what is to be watched has to be imported under atheris.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from tests.fuzz.targets import check_of


def main() -> None:
    """Never return: libFuzzer ends the process."""
    # Not installed for the tests, and without types.
    atheris: Any = importlib.import_module("atheris")
    program, target, *options = sys.argv
    with atheris.instrument_imports(include=["fastrouter", "h11"]):
        check = check_of(target)
    atheris.Setup([program, *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
