"""The targets: each is a module with ``check(data)``, which raises where its invariant does not hold.

The invariant is the first line of the module's docstring. No target imports atheris: the ordinary tests run
them as well (``test_targets.py``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

TARGETS: Final = ("request_heads", "response_heads", "chunked_bodies", "websocket_frames", "exchanges")
FOLDER: Final = Path(__file__).parent
CORPUS: Final = FOLDER / "corpus"

Check = Callable[[bytes], None]


def check_of(target: str) -> Check:
    """Return the check of a target."""
    return cast(Check, importlib.import_module(f"tests.fuzz.{target}").check)


def corpus_of(target: str) -> list[Path]:
    """Return the committed inputs of a target."""
    return sorted((CORPUS / target).iterdir())
