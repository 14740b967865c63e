"""locust users that behave like agents on the agent-sandbox SDK: `locust -f bench/locustfile.py`.

An agent picks one of the sandboxes, opens a session on it (the sandbox must answer, and must be the one that
was asked for), works through a random mix of calls, and after a while turns to another sandbox. Every answer
is checked: status, content, and that it came from the right sandbox where the sandbox tells who it is (those
of `fastrouter demo` do). Failures in locust's report carry the router's reason (X-Sandbox-Router-Error).

Variables, all optional:

ROUTER               the router's URL; locust's own --host goes before it   http://127.0.0.1:8080
SANDBOXES            the fan-out: how many sandboxes the agents spread over  5, as in `fastrouter demo`
SANDBOX_NAME         their names, {n} counts from 1                          sandbox-{n}
SANDBOX_NAMESPACE    their namespace                                         default
SANDBOX_PORT         their port                                              8888
MIX                  weights of the calls; one left out is never made        execute=10,upload=2,download=3,
                                                                             list=2,exists=2,stream=1,think=10
THINK_SECONDS        mean time of a "think", in which nothing is sent        0.5
SESSION_TASKS        calls until an agent turns to another sandbox; 0: never 50
EXECUTE_BYTES        what a command prints                                   16
UPLOAD_BYTES         size of an uploaded file, and so of a download          16384
STREAM_PATH          what "stream" reads to its end: SSE or any body; with   /clock?interval=0.05&count=10
                     a count=N in its query it must hold N events
TIMEOUT_SECONDS      X-Sandbox-Timeout                                       59.999
ROUTER_AUTH_TOKEN    sent as a bearer token                                  none
ROUTER_AUTH_HEADER   the header that carries it                              Authorization

Real sandboxes have no /clock: name a path that streams with STREAM_PATH, or leave "stream" out of MIX. Each
agent keeps one file on each sandbox that it visits. "stream: first event" in the report is no request of its
own: it is how long a stream took to begin.

    locust -f bench/locustfile.py --headless -u 50 -r 25 -t 15s -H http://127.0.0.1:8080
    locust -f bench/locustfile.py                       # the web page, on port 8089
    locust -f bench/locustfile.py --processes -1        # a worker for each core
    locust -f bench/locustfile.py --master              # and on each machine of a cluster:
    locust -f bench/locustfile.py --worker --master-host HOST     # with the same variables
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

# locust loads this file by its path: the packages beside it are found from the root of the repository.
sys.path.insert(0, str(Path(__file__).parent.parent))

from locust import FastHttpUser
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS

from bench import agents

Check = Callable[[Any], None]

RETRY_SECONDS: Final = 1.0

try:
    SETTINGS: Final = agents.read(os.environ)
except agents.SettingError as error:
    sys.exit(f"bench/locustfile.py: {error}")


class AgentUser(FastHttpUser):
    """One agent: one session at a time, one call at a time, on a connection of its own.

    ``time.sleep`` is gevent's here: locust has put it in place, and other agents run meanwhile.
    """

    host = SETTINGS.router
    network_timeout = SETTINGS.timeout_seconds
    connection_timeout = SETTINGS.timeout_seconds

    def on_start(self) -> None:
        """Become somebody, and open the first session."""
        # Not the module's generator: locust forks its processes, and all of them would draw the same numbers.
        self.random = random.Random(secrets.randbits(64))  # noqa: S311 - chooses work, keeps no secret
        self.agent = secrets.token_hex(4)
        self.open_session()

    def open_session(self) -> None:
        """Go to a sandbox that answers, and learn whether it tells its name."""
        opened = False
        while not opened:
            self.sandbox = SETTINGS.name_of(self.random.randint(1, SETTINGS.sandboxes))
            self.done = 0
            self.uploads = 0
            self.stored = b""
            self.tells_name = False
            opened = self.call("session", "GET", "/", self._welcome)
            if not opened:
                time.sleep(RETRY_SECONDS)

    def execute(self) -> None:
        """Run a command; what it prints proves that the answer is the one to this request."""
        self._next()
        word = agents.pattern(secrets.token_hex(8), SETTINGS.execute_bytes).replace(b"\n", b"-").decode()
        command, printed = ("hostname", self.sandbox) if self._asks_name() else (f"echo {word}", word)

        def check(response: Any) -> None:
            result = agents.decoded(response.content)
            agents.expect(agents.member(result, "exit_code"), 0, "exit code")
            agents.expect(
                agents.member(result, "stdout"), printed + "\n", "output: of another request or sandbox"
            )

        self.call("execute", "POST", "/execute", check, json={"command": command})

    def upload(self) -> None:
        """Store a file that is like no other agent's; it replaces the one before."""
        self._next()
        self._store()

    def download(self) -> None:
        """Fetch the file that was uploaded last, and compare it."""
        self._next()
        if self._stored_once():

            def check(response: Any) -> None:
                agents.expect(response.content, self.stored, "file: not the bytes that were uploaded")

            self.call("download", "GET", f"/download/{agents.quoted(self._file)}", check)

    def list_files(self) -> None:
        """List the working directory; the uploaded file must be in it."""
        self._next()

        def check(response: Any) -> None:
            entries = agents.decoded(response.content)
            if not isinstance(entries, list):
                raise agents.AnswerError("wrong listing: no array")
            names = {agents.member(entry, "name") for entry in entries}
            agents.expect(not self.stored or self._file in names, True, "listing: without the uploaded file")

        self.call("list", "GET", f"/list/{agents.quoted('.')}", check)

    def exists(self) -> None:
        """Ask for the uploaded file; before there is one, for a file that nobody has."""
        self._next()
        path = self._file if self.stored else f"nobody's {self.agent}.txt"

        def check(response: Any) -> None:
            found = agents.member(agents.decoded(response.content), "exists")
            agents.expect(found, bool(self.stored), "answer about a file")

        self.call("exists", "GET", f"/exists/{agents.quoted(path)}", check)

    def stream(self) -> None:
        """Read a stream to its end; its first event is reported beside the whole."""
        self._next()
        self.call("stream", "GET", SETTINGS.stream_path, self._read_stream, stream=True)

    def think(self) -> None:
        """Do what agents do most: nothing that a router sees."""
        self._next()
        time.sleep(SETTINGS.think_seconds * self.random.uniform(0.5, 1.5))

    def call(self, name: str, method: str, path: str, check: Check, **more: Any) -> bool:
        """Make one request and judge its answer; return whether it was right."""
        headers = {**SETTINGS.headers(self.sandbox), **more.pop("headers", {})}
        started = time.perf_counter()
        with self.client.request(
            method, path, name=name, headers=headers, catch_response=True, allow_redirects=False, **more
        ) as response:
            try:
                reason = (response.headers or {}).get(agents.REASON_HEADER)
                agents.check_status(response.status_code, reason, getattr(response, "error", None))
                check(response)
            except (agents.AnswerError, *FAILURE_EXCEPTIONS) as error:
                response.failure(str(error) or type(error).__name__)
                return False
            finally:
                if more.get("stream"):
                    response.request_meta["response_time"] = (time.perf_counter() - started) * 1000
            response.success()
            return True

    def _welcome(self, response: Any) -> None:
        name = agents.member(agents.decoded(response.content), "sandbox")
        if name is not None:
            agents.expect(name, self.sandbox, "sandbox: another one answered")
            self.tells_name = True

    def _next(self) -> None:
        """Count a task; after enough of them the session is over."""
        self.done += 1
        if SETTINGS.session_tasks and self.done > SETTINGS.session_tasks:
            self.open_session()
            self.done = 1

    def _asks_name(self) -> bool:
        return self.tells_name and self.random.random() < 0.5  # noqa: PLR2004 - every other command

    @property
    def _file(self) -> str:
        return f"agent {self.agent}.txt"  # a blank: the quoting of the path matters

    def _stored_once(self) -> bool:
        return bool(self.stored) or self._store()

    def _store(self) -> bool:
        self.uploads += 1
        content = agents.pattern(f"{self.sandbox} {self.agent} {self.uploads}", SETTINGS.upload_bytes)
        content_type, body = agents.multipart(self._file, content)

        def check(response: Any) -> None:
            size = agents.member(agents.decoded(response.content), "size")
            if size is not None:
                agents.expect(size, len(content), "size of the uploaded file")
            self.stored = content

        return self.call(
            "upload", "POST", "/upload", check, data=body, headers={"Content-Type": content_type}
        )

    def _read_stream(self, response: Any) -> None:
        size = events = 0
        while piece := response.stream.readline(b"\n\n"):
            size += len(piece)
            events += 1
            if events == 1:
                self._report_first_event(response.request_meta["start_time"], size)
        response.request_meta["response_length"] = size + len(response.stream.read())
        expected = agents.events_expected(SETTINGS.stream_path)
        if expected is not None:
            agents.expect(events, expected, "number of events in the stream")

    def _report_first_event(self, started: float, size: int) -> None:
        """A router that holds a stream back shows in this line of the report."""
        self.environment.events.request.fire(
            request_type="GET",
            name="stream: first event",
            response_time=(time.time() - started) * 1000,
            response_length=size,
            exception=None,
            context={},
        )

    tasks = [  # noqa: RUF012 - locust draws from it, and changes nothing
        *[execute] * SETTINGS.mix["execute"],
        *[upload] * SETTINGS.mix["upload"],
        *[download] * SETTINGS.mix["download"],
        *[list_files] * SETTINGS.mix["list"],
        *[exists] * SETTINGS.mix["exists"],
        *[stream] * SETTINGS.mix["stream"],
        *[think] * SETTINGS.mix["think"],
    ]
