"""`make bench-locust`: agents against the demo, or with ROUTER=http://... against any router; then it stops.

LOCUST_ARGS goes to locust behind the defaults (50 users, 15 seconds) and overrides them; the variables of
`bench/locustfile.py` count too. The exit code is locust's: 1 where a request failed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from bench import agents
from bench.processes import ROOT, Child, StageError, free_port

DEFAULTS: Final = ("--headless", "--only-summary", "-u", "50", "-r", "25", "-t", "15s", "--stop-timeout", "5")
_ROUTER: Final = re.compile(rb"^Router on (http://\S+),", re.MULTILINE)
_USAGE_ERROR: Final = 2
_SIGNALLED: Final = 128  # the exit code of a process that a signal ended, as shells tell it


def main() -> int:
    """Run locust; return its exit code."""
    # Ending by an exception, not at once: locust and the demo have to be ended too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(_SIGNALLED + number))
    more = shlex.split(os.environ.get("LOCUST_ARGS", ""))
    try:
        settings = agents.read(os.environ)
        if os.environ.get("ROUTER"):
            return run_locust(settings.router, os.environ, more)
        with demo(settings.sandboxes, os.environ) as variables:
            return run_locust(variables["ROUTER"], {**os.environ, **variables}, more)
    except (agents.SettingError, StageError) as error:
        print(f"bench-locust: {error}", file=sys.stderr)
        return _USAGE_ERROR


def run_locust(router: str, environ: Mapping[str, str], more: Sequence[str]) -> int:
    """Run locust against a router until its time is over."""
    command = [sys.executable, "-m", "locust", "-f", "bench/locustfile.py", *DEFAULTS, "-H", router, *more]
    process = subprocess.Popen(command, cwd=ROOT, env=dict(environ))  # noqa: S603 - written here
    try:
        while True:
            with contextlib.suppress(
                KeyboardInterrupt
            ):  # a terminal sends it to locust too, which reports and ends
                return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def demo(sandboxes: int, environ: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Run the demo with its own variables from ``environ``; yield the variables that lead agents to it."""
    port = free_port()
    command = [sys.executable, "-m", "bench.locust_demo", "--sandboxes", str(sandboxes)]
    # Agents may send a token; the demo's own first request has none.
    open_to_all = {name: value for name, value in environ.items() if not name.startswith("ROUTER_AUTH_")}
    with Child(
        "the demo", [*command, "--sandbox-port", str(port)], core=None, environment=open_to_all
    ) as child:
        # Its page comes after a first request went through.
        child.wait_until(lambda: _ROUTER.search(child.output.start) is not None)
        found = _ROUTER.search(child.output.start)
        assert found  # noqa: S101 - waited for
        yield {
            "ROUTER": found[1].decode(),
            "SANDBOX_NAME": "sandbox-{n}",
            "SANDBOX_NAMESPACE": "default",
            "SANDBOX_PORT": str(port),
        }


if __name__ == "__main__":
    sys.exit(main())
