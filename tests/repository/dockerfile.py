"""Reads a Dockerfile, so that its steps can be run without Docker."""

import json
import re
from dataclasses import dataclass, field


@dataclass
class Stage:
    base: str
    name: str | None
    environment: dict[str, str] = field(default_factory=dict)
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        return [argument for word, argument in self.steps if word == instruction][-1]

    def exec_form(self, instruction: str) -> list[str]:
        words = json.loads(self.last(instruction))
        assert isinstance(words, list)
        return [str(word) for word in words]


def instructions(source: str) -> list[tuple[str, str]]:
    """Every instruction with its argument, comments gone and continued lines joined."""
    lines = [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = [line.split(None, 1) for line in joined.splitlines()]
    return [(word.upper(), argument.strip()) for word, argument in pairs]


def stages(source: str) -> list[Stage]:
    found: list[Stage] = []
    for word, argument in instructions(source):
        if word == "FROM":
            base, _, stage_name = argument.partition(" AS ")
            found.append(Stage(base.strip(), stage_name.strip() or None))
            continue
        found[-1].steps.append((word, argument))
        if word == "ENV":
            pairs = [pair.partition("=") for pair in argument.split()]
            found[-1].environment.update({name: value for name, _, value in pairs})
    return found
