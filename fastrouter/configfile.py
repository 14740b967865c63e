"""The configuration file: YAML -> values with every fault named, and settings -> YAML.

The nodes of the file are read, not what YAML makes of them: ``off`` stays the text that the user wrote
(YAML 1.1 makes it false), every fault has its line, and no tag of the file makes an object.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import yaml

from fastrouter import parsers
from fastrouter.options import GROUPS, OPTIONS, Option
from fastrouter.settings import Settings

_KEYS: Final = {option.key: option for option in OPTIONS}
_NULL: Final = "tag:yaml.org,2002:null"
_SCALARS: Final = frozenset(
    {_NULL, *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "timestamp"))}
)
# YAML reads this many digits as a number without losing one; beyond, the exponent form is as exact.
_WHOLE: Final = 1e15
_ONE_LINE: Final = 2**30


class _FaultError(ValueError):
    """A value has the wrong shape; the text says which one was expected."""


class ConfigFile(NamedTuple):
    """What a file says: values by field name, and all that is wrong with it."""

    values: Mapping[str, Any] = {}
    faults: tuple[str, ...] = ()


def read(text: str, name: str) -> ConfigFile:
    """Return what the text of a file says; each fault names the file, the line and the key."""
    values: dict[str, Any] = {}
    faults: list[str] = []
    try:
        pairs = list(_pairs(text))
    except yaml.MarkedYAMLError as error:
        return ConfigFile(faults=(f"{name}:{_place(error)}{_told(error)}",))
    except (yaml.YAMLError, _FaultError, RecursionError) as error:
        first = str(error).partition("\n")[0]
        return ConfigFile(faults=(f"{name}: {first}",))
    seen: dict[str, int] = {}
    for key, line, node in pairs:
        place = f"{name}:{line}: {key}"
        if key in seen:
            faults.append(f"{place}: the key is there twice, first in line {seen[key]}")
            continue
        seen[key] = line
        option = _KEYS.get(key)
        if option is None:
            faults.append(f"{place}: unknown key{_suggestion(key)}")
            continue
        try:
            written = _text(node, option)
        except _FaultError as error:
            faults.append(f"{place}: {error}")
            continue
        if written is None:
            continue
        try:
            values[option.field] = option.parse(written)
        except ValueError as error:
            faults.append(f"{place}: invalid value {written!r}: {error}")
    return ConfigFile(values, tuple(faults))


def _pairs(text: str) -> Iterator[tuple[str, int, yaml.Node]]:
    """Yield key, line and value; raise ``_FaultError`` for a file that has no keys."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == _NULL):
        return
    if not isinstance(root, yaml.MappingNode):
        raise _FaultError(f"expected keys and values, not {_kind(root)}")
    for key, node in root.value:
        line = key.start_mark.line + 1
        yield key.value if isinstance(key, yaml.ScalarNode) else _kind(key), line, node


def _text(node: yaml.Node, option: Option) -> str | None:
    """Return a value as the environment would have it; None for null, which is as good as no key."""
    if isinstance(node, yaml.SequenceNode) and option.is_list:
        return ",".join(_scalar(each, "a list of single values") or "" for each in node.value)
    return _scalar(node, "a list or a single value" if option.is_list else "a single value")


def _scalar(node: yaml.Node, expected: str) -> str | None:
    if not isinstance(node, yaml.ScalarNode):
        raise _FaultError(f"expected {expected}, not {_kind(node)}")
    if node.tag not in _SCALARS:
        raise _FaultError(f"the tag {node.tag} has no place here")
    return None if node.tag == _NULL else str(node.value)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"{mark.line + 1}:{mark.column + 1}: " if mark is not None else " "


def _told(error: yaml.MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.context, error.problem) if part) or "no YAML"


def _suggestion(key: str) -> str:
    plain = key.lower().lstrip("-").replace("-", "_")
    # A setting is often known by its field in the source, which is the shorter name.
    fields = {option.field: option.key for option in OPTIONS}
    for close in difflib.get_close_matches(plain, [*_KEYS, *fields], n=1):
        return f"; did you mean {fields.get(close, close)}?"
    return ""


def write(settings: Settings, origins: Mapping[str, str]) -> str:
    """Return settings as a file that says the same; each line tells where its value came from."""
    lines = ["# The effective settings of fastrouter; this is a file for --config."]
    for title, options in GROUPS.items():
        lines += ["", f"# {title}"]
        for option in options:
            value = getattr(settings, option.field)
            origin = origins.get(option.field, "default")
            if option.secret:
                lines.append(f"# {option.key}: {'set, and never shown' if value else 'unset'}  # {origin}")
            else:
                lines.append(f"{option.key}: {_yaml(_natural(option, value))}  # {origin}")
    return "\n".join(lines) + "\n"


def _natural(option: Option, value: Any) -> Any:
    """Return a value as a user would write it."""
    if option.parse is parsers.port_or_off and value is None:
        return "off"
    if option.parse is parsers.workers and not value:
        return "auto"
    if isinstance(value, tuple):
        return [str(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE:
        return int(value)
    return value


def _yaml(value: Any) -> str:
    """Return a value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=_ONE_LINE)
    text = text.removesuffix("...\n").rstrip("\n")
    if "\n" in text:
        text = yaml.safe_dump(value, default_style='"', width=_ONE_LINE).rstrip("\n")
    return text
