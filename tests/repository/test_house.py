"""What holds for the repository as a whole: nothing of one machine in it, and its parts agree."""

import os
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

import fastrouter
from tests.repository.paths import ROOT, text

PROJECT = tomllib.loads(text("pyproject.toml"))
LOCKS = ["requirements.lock", "requirements-build.lock"]

# Put together from parts, so that this file passes its own test.
MACHINE_FOLDERS = ["/" + "work/", "/" + "root/", "/" + "opt/wheels", "/" + "opt/pypi"]
REGISTRY_HOSTS = ["pypi" + ".org", "python" + "hosted.org", "npmjs" + ".org", "deb." + "debian.org"]


@cache
def files() -> tuple[Path, ...]:
    """Every file that is in git, or that would be with the next `git add`."""
    listed = subprocess.run(
        # The folder's owner may be another user, as in a container that mounts it.
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return tuple(path for path in paths if path.is_file())


def lines_with(patterns: list[str]) -> list[str]:
    found = []
    for path in files():
        source = path.read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(source.splitlines(), start=1):
            if any(pattern in line for pattern in patterns):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    return found


def name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found[0].lower()


def pinned(lock: str) -> dict[str, str]:
    """Every package of a lock file with the text that follows its name: version, marker, hashes."""
    entries = re.split(r"^(?=[a-z0-9])", text(lock), flags=re.MULTILINE)[1:]
    return {name(entry): entry for entry in entries}


class TestNoMachine:
    def test_the_search_sees_this_repository(self) -> None:
        assert {"pyproject.toml", "fastrouter/__init__.py", "tests/repository/test_house.py"} <= {
            path.relative_to(ROOT).as_posix() for path in files()
        }

    def test_no_folder_of_a_machine_is_written_down(self) -> None:
        here = [str(ROOT), *([str(Path.home())] if len(Path.home().parts) > 2 else [])]
        assert lines_with(MACHINE_FOLDERS + here) == []

    def test_no_package_registry_is_written_down(self) -> None:
        assert lines_with(REGISTRY_HOSTS) == []


class TestPackages:
    def test_the_run_time_dependencies_are_the_six(self) -> None:
        names = {name(requirement) for requirement in PROJECT["project"]["dependencies"]}
        assert names == {"uvloop", "h11", "httpcore", "aiodns", "prometheus-client", "pyyaml"}

    @pytest.mark.parametrize("lock", LOCKS)
    def test_every_pinned_package_has_one_version_and_hashes(self, lock: str) -> None:
        for entry in pinned(lock).values():
            assert re.match(r"[a-z0-9._-]+==[^\s;]+", entry), entry
            assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry

    def test_every_run_time_dependency_is_pinned(self) -> None:
        wanted = {name(requirement) for requirement in PROJECT["project"]["dependencies"]}
        assert wanted <= set(pinned("requirements.lock"))

    def test_the_build_backend_is_pinned(self) -> None:
        wanted = {name(requirement) for requirement in PROJECT["build-system"]["requires"]}
        assert wanted <= set(pinned("requirements-build.lock"))

    @pytest.mark.parametrize("lock", LOCKS)
    def test_a_lock_tells_how_to_renew_it(self, lock: str) -> None:
        assert "make lock" in text(lock).splitlines()[0]

    def test_the_package_and_its_metadata_tell_one_version(self) -> None:
        assert PROJECT["project"]["version"] == fastrouter.__version__


class TestCommands:
    def test_every_target_is_explained_and_declared(self) -> None:
        makefile = text("Makefile")
        explained = set(re.findall(r"^([a-z-]+):.*?## ", makefile, flags=re.MULTILINE))
        (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
        assert explained == set(phony.split())
        assert {"demo", "test", "lint", "types", "bench", "run"} <= explained

    def test_ci_runs_what_a_developer_runs(self) -> None:
        assert os.access(ROOT / ".ci" / "run", os.X_OK)
        assert "\nmake lint types\nmake test\n" in text(".ci/run")

    @pytest.mark.parametrize("command", ["make demo", "make test"])
    def test_the_readme_names_the_two_commands(self, command: str) -> None:
        assert command in text("README.md")

    def test_the_license_is_the_declared_one(self) -> None:
        assert PROJECT["project"]["license"] == "Apache-2.0"
        assert text("LICENSE").split()[:4] == ["Apache", "License", "Version", "2.0,"]
