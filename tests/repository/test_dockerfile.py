"""The Dockerfile: what it promises, and its builder's steps run for real, with other folders for roots.

For machines without buildah, which test_image.py needs to run all of it. Not seen here: the base image.
"""

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.repository import dockerfile, image
from tests.repository.paths import ROOT, text

BUILDER, IMAGE = dockerfile.stages(text("Dockerfile"))
RUN_AS = 1000
HOST = "127.0.7.13"  # an address of its own, where no other test's port can be in the way


def interpreter() -> str:
    """The image's Python where this machine has it, else the one that runs the tests."""
    return image.python(BUILDER.base.removeprefix("python:").split("-")[0]) or sys.executable


class Roots:
    """The builder's file system: its top folders moved under one of ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "src").mkdir()
        (root / "bin").mkdir()
        python = root / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec "{interpreter()}" "$@"\n', encoding="utf-8")
        python.chmod(0o755)

    def moved(self, command: str) -> str:
        return re.sub(r"(?<![\w./*-])/(venv|tools|src)\b", lambda match: f"{self.root}{match[0]}", command)

    def copy(self, argument: str) -> None:
        *sources, target = argument.split()
        goal = (self.root / "src" / target).resolve()
        for source in sources:
            if (ROOT / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, goal, dirs_exist_ok=True, ignore=ignore)
            else:
                shutil.copy(ROOT / source, goal / source)

    def run(self, command: str) -> None:
        environment = {**os.environ, **BUILDER.environment}
        environment["PATH"] = f"{self.root / 'bin'}:{os.environ['PATH']}"
        # In the builder no environment is active; the one of the test run must not shine through.
        environment.pop("VIRTUAL_ENV", None)
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            ["sh", "-ec", self.moved(command)],
            cwd=self.root / "src",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    # Not one of pytest's folders: they are private to the user who runs it, and the router runs as another.
    with tempfile.TemporaryDirectory(prefix="fastrouter-image-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        roots = Roots(root)
        for word, argument in BUILDER.steps:
            if word == "COPY":
                roots.copy(argument)
            elif word == "RUN":
                roots.run(argument)
        yield root


def as_user(python: Path) -> list[str]:
    """The words in front of a command that make root user 1000; nothing for anybody else."""
    if os.geteuid() != 0:
        return []
    user = ["setpriv", f"--reuid={RUN_AS}", f"--regid={RUN_AS}", "--clear-groups"]
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    tried = subprocess.run([*user, str(python), "-c", ""], capture_output=True, check=False)
    # An interpreter in root's home is out of user 1000's sight: leave to read, still none to write.
    return user if tried.returncode == 0 else [*user, *reading]


@contextmanager
def image_running(root: Path) -> Iterator[subprocess.Popen[str]]:
    """The image's command, as its user, in a folder it may not write; the caller has it once it listens."""
    command = [*IMAGE.exec_form("ENTRYPOINT"), *IMAGE.exec_form("CMD"), "--host", HOST]
    programs = root / "venv" / "bin"
    closed = root / "closed"
    closed.mkdir(mode=0o555)
    process = subprocess.Popen(
        [*as_user(programs / "python"), str(programs / command[0]), *command[1:]],
        cwd=closed,
        env={**IMAGE.environment, "PATH": f"{programs}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        (line,) = itertools.islice((line for line in lines if '"listening"' in line), 1)
        assert HOST in line, "the log line at start names the address"
        yield process
    finally:
        process.kill()
        process.communicate()


def ask_healthz() -> tuple[int, object]:
    with closing(http.client.HTTPConnection(HOST, 8080, timeout=10)) as connection:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        return response.status, json.load(response)


class TestText:
    def test_both_stages_start_from_the_same_small_image(self) -> None:
        assert (BUILDER.base, BUILDER.name) == ("python:3.13-slim", "builder")
        assert IMAGE.base == BUILDER.base

    def test_every_install_is_checked_against_hashes_or_takes_no_dependency(self) -> None:
        commands = [argument for word, argument in BUILDER.steps if word == "RUN"]
        installs = [part for command in commands for part in command.split("&&") if " install " in part]
        assert len(installs) == 3
        assert all("--require-hashes" in part or "--no-deps" in part for part in installs)

    def test_the_image_runs_as_a_numbered_user_on_the_ports_of_the_manifest(self) -> None:
        assert IMAGE.last("USER") == f"{RUN_AS}:{RUN_AS}"
        assert IMAGE.last("EXPOSE").split() == ["8080", "8443", "8081", "9090"]
        assert IMAGE.last("STOPSIGNAL") == "SIGTERM"

    def test_the_image_starts_the_router_without_a_shell(self) -> None:
        assert [*IMAGE.exec_form("ENTRYPOINT"), *IMAGE.exec_form("CMD")] == ["fastrouter", "serve"]

    def test_nothing_but_the_environment_is_copied_into_the_image(self) -> None:
        copies = [argument for word, argument in IMAGE.steps if word == "COPY"]
        assert copies == ["--from=builder /venv /venv"]

    def test_every_copied_source_gets_past_dockerignore(self) -> None:
        kept = {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
        copies = [argument.split()[:-1] for word, argument in BUILDER.steps if word == "COPY"]
        assert {source for sources in copies for source in sources} == kept


@pytest.mark.registry
class TestBuilt:
    def test_the_package_is_whole(self, built: Path) -> None:
        (site,) = (built / "venv").glob("lib/python*/site-packages")
        assert (site / "fastrouter" / "py.typed").is_file()
        assert list(site.glob("fastrouter-*.dist-info/licenses/LICENSE"))

    def test_neither_pip_nor_test_tools_come_along(self, built: Path) -> None:
        (site,) = (built / "venv").glob("lib/python*/site-packages")
        installed = {path.name.split("-")[0] for path in site.glob("*.dist-info")}
        assert installed == {
            *("fastrouter", "uvloop", "h11", "httpcore", "aiodns", "prometheus_client", "pyyaml"),
            *("certifi", "pycares", "cffi", "pycparser"),
        }

    def test_every_module_is_compiled_ahead(self, built: Path) -> None:
        (package,) = (built / "venv").glob("lib/python*/site-packages/fastrouter")
        compiled = {path.name.split(".")[0] for path in package.rglob("*.pyc")}
        assert compiled == {path.stem for path in package.rglob("*.py")}

    def test_it_serves_as_user_1000_in_a_read_only_folder_and_drains_on_sigterm(self, built: Path) -> None:
        with image_running(built) as process:
            assert ask_healthz() == (200, {"status": "ok"})
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
