"""Builds the image for real, without Docker and without a registry of images.

Buildah runs the Dockerfile in a chroot. Its base, `python:3.13-slim`, is made here from the same two parts:
Debian's own packages, and a Python of that version under /usr/local.
"""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from tests.repository.paths import ROOT

# Names that each Debian release has. What the Dockerfile's steps need is a shell and Python's libraries.
PACKAGES = [
    *("base-files", "base-passwd", "dash", "coreutils", "libc-bin"),
    *("openssl", "libffi-dev", "zlib1g", "bzip2", "xz-utils"),
]
SOURCES = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# Python's own tests and demonstrations are half of it, and no image has them.
LEFT_OUT = shutil.ignore_patterns("test", "idlelib", "turtledemo", "config-*", "site-packages", "*.a")
MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"
# What pip was told about its registry; the rest is about this machine.
PIP_KEYS = {"index-url", "extra-index-url", "trusted-host", "proxy"}


def run(*command: str | Path, cwd: Path = ROOT, seconds: float = 100, **environ: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@cache
def python(version: str) -> str | None:
    """An interpreter of this version that is on this machine and has pip, if there is one."""
    for candidate in (f"python{version}", *pyenv_interpreters(version)):
        # Run, not only found: a pyenv shim may stand for a version that is not selected.
        answer = shutil.which(candidate) and subprocess.run(
            [candidate, "-c", "import ensurepip, pip, sys; print(sys.executable)"],
            capture_output=True,
            text=True,
            check=False,
        )
        if answer and answer.returncode == 0:
            return answer.stdout.strip()
    return None


def pyenv_interpreters(version: str) -> list[str]:
    if not shutil.which("pyenv"):
        return []
    root = run("pyenv", "root")
    return [str(path) for path in Path(root).glob(f"versions/{version}*/bin/python{version}")]


def prefix(interpreter: str) -> Path:
    return Path(run(interpreter, "-c", "import sys; print(sys.base_prefix)"))


def obstacle(version: str) -> str:
    """Why the image cannot be built here, in words; empty if it can."""
    tools = [tool for tool in ("buildah", "mmdebstrap", "unshare") if not shutil.which(tool)]
    interpreter = python(version)
    reasons = {
        "only root may change its root folder and mount": os.geteuid() != 0,
        f"not installed: {', '.join(tools)} (Debian: apt-get install buildah mmdebstrap)": bool(tools),
        "apt has no sources of Debian": not any(file.exists() for file in SOURCES),
        f"no Python {version} here that can be moved into a base image": (
            # Debian's own is spread over /usr.
            interpreter is None or prefix(interpreter) == Path("/usr")
        ),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if (
        not found
        and subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode
    ):
        found.append("nobody may mount in this sandbox")
    return "; ".join(found)


class Store:
    """A store of images in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def buildah(self, *words: str | Path, seconds: float = 100) -> str:
        places = ["--root", str(self.folder / "store"), "--runroot", str(self.folder / "run")]
        return run("buildah", *places, "--storage-driver", "vfs", *words, seconds=seconds)

    def make_base(self, name: str, version: str) -> None:
        """Make an image of this name: Debian as it is here, and Python in /usr/local."""
        container = self.buildah("from", "scratch")
        root = Path(self.buildah("mount", container))
        release = run("sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME")
        sources = next(file for file in SOURCES if file.exists())
        quiet = ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]
        # Unpacked, not configured: scripts of packages would take most of a minute, and nothing needs them.
        run(
            *("mmdebstrap", "--mode=root", "--variant=extract", f"--hook-dir={MERGED}", *quiet),
            *(f"--include={','.join(PACKAGES)}", release, root, sources),
        )
        put_python(root, version)
        self.buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", container)
        self.buildah("commit", "--quiet", "--disable-compression", container, name)
        self.buildah("rm", container)

    def build(self, name: str) -> None:
        """Run the Dockerfile."""
        self.buildah("build", "--isolation", "chroot", "--pull-never", "--tag", name, ROOT)

    def config(self, name: str) -> dict[str, Any]:
        """What an image says of how it is to be run."""
        told = json.loads(self.buildah("inspect", "--type", "image", name))["OCIv1"]["config"]
        assert isinstance(told, dict)
        return told

    def unpack(self, name: str) -> Path:
        """Return the folder that has an image's files."""
        return Path(self.buildah("mount", self.buildah("from", "--pull-never", name)))


def put_python(root: Path, version: str) -> None:
    interpreter = python(version)
    assert interpreter
    home, library = prefix(interpreter), f"lib/python{version}"
    shutil.copytree(home, root / "usr/local", symlinks=True, ignore=LEFT_OUT, dirs_exist_ok=True)
    packages = root / "usr/local" / library / "site-packages"
    shutil.copytree(home / library / "site-packages/pip", packages / "pip")
    python_link = root / "usr/local/bin/python"
    if not python_link.exists():
        python_link.symlink_to(f"python{version}")
    run("chroot", root, "/sbin/ldconfig")
    lines = [line.partition("=") for line in run(interpreter, "-m", "pip", "config", "list").splitlines()]
    told = {key.rpartition(".")[2]: value.strip("'\"") for key, _, value in lines}
    told = {key: value for key, value in told.items() if key in PIP_KEYS and "file:" not in value}
    if AUTHORITIES.exists():
        (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
        shutil.copy(AUTHORITIES, root / AUTHORITIES.relative_to("/"))
        told["cert"] = str(AUTHORITIES)
    settings = "".join(f"{key} = {value}\n" for key, value in told.items())
    (root / "etc/pip.conf").write_text(f"[global]\n{settings}", encoding="utf-8")
