"""The image: built from the Dockerfile by buildah, and run as Kubernetes runs it, without either."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fastrouter.demo.dns import DnsServer
from tests.processes import RouterProcess
from tests.repository import dockerfile
from tests.repository.image import Store, obstacle
from tests.repository.paths import text
from tests.repository.published import documents
from tests.support import Client, ScriptedSandbox, always, eventually, ok, request

BUILDER, IMAGE = dockerfile.stages(text("Dockerfile"))
VERSION = BUILDER.base.removeprefix("python:").split("-")[0]
NAME = "localhost/sandbox-router"
HOST = "127.0.7.14"  # an address of its own, where no other test's port can be in the way
USER = 1000
OBSTACLE = obstacle(VERSION)
# What a container runtime does: a root that cannot be written, process 1, user 1000, no way back to root.
RUN = """
mount --bind "$0" "$0"
mount --bind /dev "$0/dev"
mount -t proc proc "$0/proc"
mount -o remount,bind,ro "$0"
exec setpriv --no-new-privs chroot --userspec="$1" --groups= "$0" "${@:2}"
"""

pytestmark = [
    pytest.mark.registry,
    pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE or "it can be built"),
]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="fastrouter-store-") as folder:
        # User 1000 goes through it to the image's files.
        Path(folder).chmod(0o755)
        yield Store(Path(folder))


@pytest.fixture(scope="module")
def base(store: Store) -> Store:
    store.make_base(f"localhost/{BUILDER.base}", VERSION)
    return store


@pytest.fixture(scope="module")
def image(base: Store) -> Store:
    base.build(NAME)
    return base


@pytest.fixture(scope="module")
def config(image: Store) -> dict[str, Any]:
    return image.config(NAME)


@pytest.fixture(scope="module")
def root(image: Store) -> Path:
    return image.unpack(NAME)


@asynccontextmanager
async def container(root: Path, config: dict[str, Any], **environ: str) -> AsyncIterator[RouterProcess]:
    """The image's command as the image says, on an address of the loopback network."""
    command = [*config["Entrypoint"], *config["Cmd"], "--host", HOST]
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "--pid", "--fork"),
        *("bash", "-euc", RUN, str(root), config["User"], *command),
        env={**dict(pair.split("=", 1) for pair in config["Env"]), **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    router = RouterProcess(process)
    follower = asyncio.create_task(router.follow())
    try:
        await eventually(lambda: router.line("listening") is not None or follower.done())
        yield router
    finally:
        # The whole group: `unshare` takes its child along no more once that has become another user.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await follower


def first_of(router: RouterProcess) -> int:
    """The number here of what is process 1 in there."""
    pid = router.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def status_of(pid: int) -> dict[str, list[str]]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


@asynccontextmanager
async def listening(body: bytes) -> AsyncIterator[ScriptedSandbox]:
    sandbox = ScriptedSandbox(always(ok(body)))
    await sandbox.start()
    try:
        yield sandbox
    finally:
        await sandbox.close()


async def answered(port: int, path: bytes) -> tuple[bytes, bytes]:
    client = Client(*await asyncio.open_connection(HOST, port))
    try:
        await client.send(b"GET %b HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n" % path)
        return await client.response()
    finally:
        client.close()


class TestBuilt:
    def test_the_base_has_the_python_that_the_dockerfile_names(self, base: Store) -> None:
        container = base.buildah("from", "--pull-never", f"localhost/{BUILDER.base}")
        told = base.buildah("run", "--isolation", "chroot", container, "--", "python", "-V")
        assert told.startswith(f"Python {VERSION}.")
        base.buildah("rm", container)

    def test_it_says_how_it_is_run(self, config: dict[str, Any]) -> None:
        assert config["User"] == f"{USER}:{USER}"
        assert [*config["Entrypoint"], *config["Cmd"]] == ["fastrouter", "serve"]
        assert config["StopSignal"] == "SIGTERM"

    def test_it_exposes_the_ports_of_the_manifest(self, config: dict[str, Any]) -> None:
        router = documents(text("sandbox_router.yaml"))
        pod = router["Deployment", "sandbox-router-deployment"]["spec"]["template"]["spec"]
        named = {f"{port['containerPort']}/tcp" for port in pod["containers"][0]["ports"]}
        assert set(config["ExposedPorts"]) == {*named, "8443/tcp"}

    def test_it_holds_the_environment_and_nothing_of_the_builder(self, root: Path) -> None:
        assert (root / "venv/bin/fastrouter").is_file()
        assert not (root / "src").exists()
        assert not (root / "tools").exists()
        assert not list(root.glob("venv/lib/python*/site-packages/pip*"))


class TestRunning:
    async def test_a_request_goes_through_it_as_user_1000_on_a_read_only_root(
        self, root: Path, config: dict[str, Any]
    ) -> None:
        zone = {"box.default.svc.cluster.local": ["127.0.0.1"]}
        async with (
            DnsServer(zone) as dns,
            listening(b"from the sandbox") as sandbox,
            container(root, config, DNS_SERVERS=dns.address) as router,
        ):
            fields = status_of(first_of(router))
            assert fields["Uid"] == fields["Gid"] == [str(USER)] * 4
            assert fields["Groups"] == []
            assert int(fields["CapEff"][0], 16) == 0
            assert fields["NSpid"][-1] == "1"
            assert os.statvfs(f"/proc/{first_of(router)}/root").f_flag & os.ST_RDONLY
            client = await router.client()
            await client.send(request(sandbox))
            head, body = await client.response()
            client.close()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b"from the sandbox"

    async def test_the_probes_and_the_scraper_are_answered_on_their_ports(
        self, root: Path, config: dict[str, Any]
    ) -> None:
        async with DnsServer({}) as dns, container(root, config, DNS_SERVERS=dns.address):
            for port, path in (
                (8080, b"/healthz"),
                (8081, b"/healthz"),
                (8081, b"/readyz"),
                (9090, b"/metrics"),
            ):
                head, _ = await answered(port, path)
                assert head.startswith(b"HTTP/1.1 200 OK\r\n"), (port, path)

    async def test_sigterm_ends_process_1(self, root: Path, config: dict[str, Any]) -> None:
        async with container(root, config) as router:
            os.kill(first_of(router), signal.SIGTERM)
            assert await asyncio.wait_for(router.process.wait(), 10) == 0
