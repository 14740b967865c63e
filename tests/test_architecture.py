"""The shape of the package: which way imports point, what only one place may use, and how big things get.

The sources are parsed, not imported: an import inside a function counts as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastrouter"

# Module or package -> what it may import of fastrouter at run time; the longest name that fits decides.
# cli -> supervisor -> server -> net.downstream -> exchange -> {policy, the rest of net} -> wire -> errors.
ARROWS: dict[str, set[str]] = {
    "": set(),
    "__main__": {"cli"},
    "cli": {
        *("arguments", "completion", "config", "configfile", "demo.run", "options", "probe", "settings"),
        *("supervisor", "telemetry", "tls"),
    },
    "arguments": {"", "config", "options"},
    "completion": {"arguments"},
    "config": {"configfile", "options", "settings"},
    "configfile": {"options", "parsers", "settings"},
    # Asks one sandbox, by the router's own parts.
    "probe": {"errors", "net", "policy", "rulebook", "server", "telemetry", "wire"},
    "supervisor": {"", "admin", "cpus", "runtime", "settings", "telemetry", "workers"},
    "workers": {"", "control", "launch", "net.ports", "telemetry"},
    "launch": {"control", "telemetry"},
    "worker": {"admin.local", "control", "runtime", "server", "supervisor", "telemetry"},
    "control": {"settings"},
    "cpus": set(),
    "runtime": {"", "server", "telemetry", "tls"},
    "admin": {"", "admin", "errors", "telemetry", "wire"},
    "server": {"accounts", "errors", "net", "observe", "policy", "rulebook", "settings", "telemetry", "wire"},
    "observe": {"", "net.inbound", "telemetry"},
    "rulebook": {"policy"},
    "net.downstream": {"accounts", "errors", "exchange", "net.inbound", "policy", "telemetry", "wire"},
    "accounts": {"policy", "telemetry"},
    "net.inbound": {"errors", "net.connection", "wire"},
    "exchange": {"errors", "net.dialer", "net.pool", "net.splice", "policy", "response", "wire"},
    "response": {"errors", "net.splice", "net.tunnel", "policy", "wire"},
    # Below the exchange: bytes and lifetimes. Of policy only Target, the name of what is dialled.
    "net.pool": {"errors", "net.connection", "net.dialer", "net.upstream", "policy.target"},
    "net.dialer": {"errors", "net.backend", "net.upstream", "policy.target"},
    "net.backend": {"errors", "net.resolver", "net.stream"},
    "net.upstream": {"errors", "net.connection", "net.stream", "policy.target", "wire"},
    "net.splice": {"errors", "net.bulk", "net.connection", "wire"},
    "net.tunnel": {"errors", "net.splice", "wire"},
    "net.resolver": {"errors"},
    "net.connection": set(),
    "net.outbox": set(),
    "net.bulkhead": {"errors"},
    "net.owner": set(),
    "net.filters": set(),
    "net.listener": {"net.connection", "net.filters"},
    "net.listeners": {"net.listener"},
    "net.ports": {"net.filters", "net.listener"},
    "net.tls": set(),
    "net.bulk": set(),
    "net.stream": set(),
    "net.deadlines": set(),
    "net": set(),
    "policy": {"errors", "policy", "wire"},
    "wire": {"errors", "wire"},
    # Leaves: handed in, they reach for nothing.
    "errors": set(),
    "options": {"parsers", "settings"},
    "settings": {"parsers"},
    "parsers": set(),
    "telemetry": {"telemetry"},
    "tls": set(),
    # A user of the router like any other program.
    "demo": {"demo", "runtime", "server", "settings", "supervisor", "telemetry"},
}

# Decisions and grammar: for them even a type from above would be knowledge of it. Elsewhere an import for
# type checking only is free: it is how a lower layer names the owner that is handed to it.
PURE = {"config", "errors", "options", "parsers", "policy", "settings", "telemetry", "wire"}

# Library -> the only places that import it at run time. What is not here is no dependency.
LIBRARIES = {
    "h11": {"wire", "demo"},
    "httpcore": {"net"},
    "uvloop": {"supervisor"},
    "aiodns": {"net.resolver"},
    "pycares": {"net.resolver"},
    "prometheus_client": {"telemetry.exposition"},
    "opentelemetry": {"telemetry.tracing"},
    "yaml": {"configfile"},
    "dnslib": {"demo"},
}

# What has an event loop, a clock, a descriptor or chance in it.
IMPURE = {
    "asyncio",
    "os",
    "random",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
}
FREE_OF_IMPURE = {"config", "errors", "options", "parsers", "policy", "settings", "wire"}

ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
IMPORT_BY_NAME = {"__import__", "import_module", "run_module", "run_path"}

MAX_MODULE_LINES = 350
MEDIAN_MODULE_LINES = 180
MAX_FUNCTION_LINES = 50
MEDIAN_FUNCTION_LINES = 8


class Import(NamedTuple):
    """One import; ``of`` is a module of fastrouter without its package name, or None and a library."""

    of: str | None
    library: str
    for_types: bool
    line: int


@cache
def modules() -> dict[str, str]:
    """Module name, without the package's, -> source."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path.read_text()
    return found


def within(module: str, places: set[str]) -> bool:
    return any(module == place or (place and module.startswith(place + ".")) for place in places)


def allowed(module: str) -> set[str]:
    fitting = [name for name in ARROWS if within(module, {name})]
    return ARROWS[max(fitting, key=len)] if fitting else set()


def imports(source: str) -> Iterator[Import]:
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for name in _names(node):
            library, _, rest = name.partition(".")
            ours = rest if library == "fastrouter" else None
            yield Import(ours, library, id(node) in for_types, getattr(node, "lineno", 0))


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        assert not node.level, "relative imports hide their direction"
        known = {f"fastrouter.{name}" for name in modules()}
        named = [f"{base}.{alias.name}" for alias in node.names]
        return sorted({name if name in known else base for name in named})
    return []


def wrong_imports(module: str, source: str) -> list[str]:
    """Return what is wrong with the imports of one module."""
    return [
        f"{module or '__init__'}:{found.line}: {fault}"
        for found in imports(source)
        if (fault := _fault(module, found))
    ]


def _fault(module: str, found: Import) -> str:
    pure = within(module, PURE)
    if found.of is not None:
        bound = pure or not found.for_types or within(found.of, {"demo"})
        # A package may name itself: `from fastrouter.wire import framing`.
        return f"imports fastrouter.{found.of}" if bound and not within(found.of, allowed(module)) else ""
    if found.library in LIBRARIES:
        bound = pure or not found.for_types
        return f"imports {found.library}" if bound and not within(module, LIBRARIES[found.library]) else ""
    if found.library not in sys.stdlib_module_names:
        return f"imports {found.library}, which is no dependency"
    impure = found.library in IMPURE and within(module, FREE_OF_IMPURE)
    return f"imports {found.library}, and is pure" if impure else ""


def taken(source: str) -> set[str]:
    """Return the names that a source takes from elsewhere: attributes, imported names, builtins it calls."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(node.func.id)
    return found


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(source: str) -> list[Function]:
    tree = ast.parse(source)
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function: Function) -> int:
    """Count the lines of a function, signature and docstring included."""
    return (function.end_lineno or 0) - function.lineno + 1


def undocumented(module: str, source: str) -> list[str]:
    """Return the public names of a module that have no docstring, and the module itself if it has none."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else [module]
    waiting: list[tuple[str, ast.Module | ast.ClassDef]] = [(module, tree)]
    while waiting:
        place, node = waiting.pop()
        for child in node.body:
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if child.name.startswith("_"):
                continue
            if not ast.get_docstring(child):
                missing.append(f"{place}.{child.name}")
            if isinstance(child, ast.ClassDef):
                waiting.append((f"{place}.{child.name}", child))
    return missing


class TestTheSources:
    def test_all_of_them_are_looked_at(self) -> None:
        assert {"", "__main__", "cli", "exchange", "net.downstream", "wire", "wire.heads"} <= set(modules())

    @pytest.mark.parametrize("module", modules())
    def test_every_module_has_its_place_in_the_table(self, module: str) -> None:
        assert any(within(module, {name}) for name in ARROWS)

    @pytest.mark.parametrize("module", modules())
    def test_imports_point_one_way(self, module: str) -> None:
        assert wrong_imports(module, modules()[module]) == []

    def test_no_two_modules_need_each_other_to_be_imported(self) -> None:
        needs = {
            module: {found.of for found in imports(source) if found.of is not None and not found.for_types}
            for module, source in modules().items()
        }
        while ready := {module for module, needed in needs.items() if not needed & set(needs)}:
            needs = {module: needed for module, needed in needs.items() if module not in ready}
        assert needs == {}

    def test_only_the_command_line_reads_the_environment(self) -> None:
        assert [module for module, source in modules().items() if ENVIRONMENT & taken(source)] == ["cli"]

    def test_nothing_is_imported_by_a_computed_name(self) -> None:
        assert [module for module, source in modules().items() if IMPORT_BY_NAME & taken(source)] == []

    def test_modules_are_small(self) -> None:
        sizes = {module: len(source.splitlines()) for module, source in modules().items()}
        assert {module: size for module, size in sizes.items() if size > MAX_MODULE_LINES} == {}
        assert median(sizes.values()) < MEDIAN_MODULE_LINES

    def test_functions_are_small(self) -> None:
        sizes = [
            (length(function), f"{module}.{function.name}")
            for module, source in modules().items()
            for function in functions(source)
        ]
        assert [size for size in sizes if size[0] > MAX_FUNCTION_LINES] == []
        assert median(lines for lines, _ in sizes) < MEDIAN_FUNCTION_LINES

    def test_public_names_say_what_they_are(self) -> None:
        assert [name for module, source in modules().items() for name in undocumented(module, source)] == []

    @pytest.mark.parametrize(
        "path",
        [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"],
        ids=str,
    )
    def test_every_source_file_has_its_test_file(self, path: Path) -> None:
        assert (ROOT / "tests" / path.parent / f"test_{path.stem.strip('_')}.py").is_file()

    @pytest.mark.parametrize("package", ["wire", "policy"])
    def test_pure_packages_are_tested_without_an_event_loop(self, package: str) -> None:
        sources = [path.read_text() for path in sorted((ROOT / "tests" / package).glob("*.py"))]
        assert sources
        for source in sources:
            assert not [
                function for function in functions(source) if isinstance(function, ast.AsyncFunctionDef)
            ]
            assert not {found.library for found in imports(source)} & IMPURE


class TestTheRules:
    """Each rule finds what breaks it."""

    @pytest.mark.parametrize(
        ("module", "source", "fault"),
        [
            ("wire.heads", "import fastrouter.policy.target", "1: imports fastrouter.policy.target"),
            ("wire.heads", "from fastrouter.policy import rewrite", "1: imports fastrouter.policy.rewrite"),
            ("wire.heads", "def f():\n  import asyncio", "2: imports asyncio, and is pure"),
            ("policy.plan", "from time import monotonic", "1: imports time, and is pure"),
            ("policy.plan", "import h11", "1: imports h11"),
            ("net.pool", "from fastrouter.exchange import Exchange", "1: imports fastrouter.exchange"),
            ("net.pool", "from fastrouter.policy import rewrite", "1: imports fastrouter.policy.rewrite"),
            ("net.new", "from fastrouter.wire import heads", "1: imports fastrouter.wire.heads"),
            ("exchange", "import httpcore", "1: imports httpcore"),
            ("exchange", "from fastrouter import server", "1: imports fastrouter.server"),
            ("exchange", "from fastrouter import __version__", "1: imports fastrouter."),
            ("server", "import uvloop", "1: imports uvloop"),
            ("server", "from fastrouter.demo.dns import DnsServer", "1: imports fastrouter.demo.dns"),
            ("net.backend", "import aiodns", "1: imports aiodns"),
            ("net.backend", "import httpx", "1: imports httpx, which is no dependency"),
            ("telemetry.logs", "import fastrouter.settings", "1: imports fastrouter.settings"),
            (
                "wire.heads",
                "if TYPE_CHECKING:\n  from fastrouter.settings import Settings",
                "2: imports fastrouter.settings",
            ),
            ("server", "if TYPE_CHECKING:\n  import fastrouter.demo.dns", "2: imports fastrouter.demo.dns"),
            (
                "net.pool",
                "if TYPE_CHECKING:\n  pass\nelse:\n  import fastrouter.exchange",
                "4: imports fastrouter.exchange",
            ),
        ],
    )
    def test_a_wrong_import_is_found(self, module: str, source: str, fault: str) -> None:
        assert wrong_imports(module, source) == [f"{module}:{fault}"]

    @pytest.mark.parametrize(
        ("module", "source"),
        [
            ("server", "if TYPE_CHECKING:\n  import httpcore"),
            ("net.upstream", "if TYPE_CHECKING:\n  from fastrouter.net.pool import Pool"),
            ("net.stream", "import httpcore, asyncio, time"),
            ("wire.framing", "from fastrouter.wire import fields\nimport h11, re, json"),
            ("cli", "from fastrouter import settings, supervisor\nimport os"),
        ],
    )
    def test_a_right_import_is_not(self, module: str, source: str) -> None:
        assert wrong_imports(module, source) == []

    @pytest.mark.parametrize("source", ["os.environ", "from os import environ", "from os import getenv as g"])
    def test_a_look_at_the_environment_is_found(self, source: str) -> None:
        assert ENVIRONMENT & taken(source)

    def test_a_name_without_a_docstring_is_found(self) -> None:
        source = (
            '"""M."""\ndef f(): ...\ndef _g(): ...\n'
            'class C:\n  """C."""\n  def m(self): ...\n  def __x__(self): ...\n'
        )
        assert undocumented("m", source) == ["m.f", "m.C.m"]
        assert undocumented("m", "x = 1") == ["m"]

    def test_the_length_of_a_function_is_all_of_it(self) -> None:
        (function,) = functions('def f(\n  a,\n):\n  """Doc."""\n\n  return a\n\n')
        assert length(function) == 6
