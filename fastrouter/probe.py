"""`fastrouter probe`: one request to one sandbox, step by step.

The request goes the way of all requests: a ``Server`` that listens nowhere gets it as from a client, so that
what is told here is what the router does, and answers. Only watches are put between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from fastrouter.errors import MalformedMessageError, RouterError
from fastrouter.net.backend import Backend, DialError
from fastrouter.net.resolver import Resolver
from fastrouter.policy.plan import RequestPlan, plan_request
from fastrouter.policy.target import Target
from fastrouter.rulebook import rules_of
from fastrouter.server import Server
from fastrouter.telemetry.access_log import AccessLog
from fastrouter.wire.framing import body_for
from fastrouter.wire.head_cache import HeadCache
from fastrouter.wire.heads import END, ResponseHead, parse_response

if TYPE_CHECKING:
    from fastrouter.net.backend import SocketOption
    from fastrouter.net.stream import TransportStream
    from fastrouter.policy.rules import Rules
    from fastrouter.settings import Settings

_READ_SIZE: Final = 256 * 1024
_LIMIT: Final = 1024 * 1024
_REASON: Final = b"x-sandbox-router-error"


class QuestionError(Exception):
    """The request cannot be made; the text says why."""


@dataclass(frozen=True)
class Question:
    """What to ask, as the user wrote it."""

    sandbox: str
    namespace: str = "default"
    port: str = "8888"
    path: str = "/healthz"
    method: str = "GET"
    timeout: str = "10"

    def head(self) -> bytes:
        """Return the request as a client would send it; raise ``QuestionError``."""
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            "Host: fastrouter-probe",
            "Connection: close",
            f"X-Sandbox-ID: {self.sandbox}",
            f"X-Sandbox-Namespace: {self.namespace}",
            f"X-Sandbox-Port: {self.port}",
            f"X-Sandbox-Timeout: {self.timeout}",
        ]
        if any(ord(char) < ord(" ") for line in lines for char in line):
            raise QuestionError("control characters have no place in a request")
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


@dataclass
class Watch:
    """Times of the last attempt to connect; monotonic seconds."""

    attempts: int = 0
    began: float = 0.0
    resolved: float = 0.0
    """When the addresses were known; 0: they were not."""
    ended: float = 0.0
    addresses: list[str] = field(default_factory=list)
    address: str = ""
    """The one that took the connection."""
    note: str = ""
    """Why the attempt failed, for those who may know more than a client."""


class _WatchedResolver(Resolver):
    watch: Watch

    async def resolve(self, name: str) -> list[str]:
        addresses = await super().resolve(name)
        self.watch.resolved = time.monotonic()
        self.watch.addresses = addresses
        return addresses


class _WatchedBackend(Backend):
    watch: Watch

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> TransportStream:
        watch = self.watch
        watch.attempts += 1
        watch.began = time.monotonic()
        watch.resolved = 0.0
        watch.note = ""
        try:
            stream = await super().connect_tcp(host, port, timeout, local_address, socket_options)
        except DialError as error:
            watch.note = str(error)
            raise
        finally:
            watch.ended = time.monotonic()
        watch.address = stream.get_extra_info("server_addr")[0]
        return stream


@dataclass
class Report:
    """What a probe found. Times are milliseconds; None: it did not come to that."""

    target: str
    attempts: int = 0
    addresses: list[str] = field(default_factory=list)
    dns_ms: float | None = None
    connect_ms: float | None = None
    address: str = ""
    response_ms: float | None = None
    """From the connection to the response head."""
    status_line: str = ""
    body_ms: float | None = None
    body_bytes: int = 0
    body_ended: bool = False
    body_goes_on: bool = False
    """It was still coming when the time was up."""
    total_ms: float = 0.0
    failed: str = ""
    """The step that failed: dns, connect, response or body."""
    reason: str = ""
    detail: str = ""
    note: str = ""

    def as_json(self) -> str:
        """Return all of it as one JSON object."""
        return json.dumps(vars(self))

    def as_text(self) -> str:
        """Return it for reading: a line for each step."""
        body = f"{self.body_bytes} bytes{', and it goes on' if self.body_goes_on else ''}"
        rows = [
            ("dns", self.dns_ms, ", ".join(self.addresses)),
            ("connect", self.connect_ms, self.address),
            ("response", self.response_ms, self.status_line),
            ("body", self.body_ms, body),
        ]
        lines = [f"{'target':<10}{self.target}"]
        for name, spent, told in rows:
            if spent is not None:
                lines.append(f"{name:<10}{spent:>9.1f} ms  {'FAILED' if name == self.failed else told}")
        attempts = f"  {self.attempts} attempts to connect" if self.attempts > 1 else ""
        lines.append(f"{'total':<10}{self.total_ms:>9.1f} ms{attempts}")
        if self.failed:
            note = f" ({self.note})" if self.note else ""
            lines.append(f"{self.failed} failed: {self.reason}: {self.detail}{note}")
        return "\n".join(_plain(line) for line in lines)


async def run(settings: Settings, question: Question, *, as_json: bool = False) -> int:
    """Probe and print; return 0 for any response of the sandbox, 1 for a failure; raise ``QuestionError``."""
    report = await probe(settings, question)
    print(report.as_json() if as_json else report.as_text())
    return 1 if report.failed else 0


async def probe(settings: Settings, question: Question) -> Report:
    """Ask one sandbox; raise ``QuestionError`` where the question is none."""
    head = question.head()
    # Nobody else can ask this router: it needs no token, and no file or port that another router may have.
    settings = replace(
        settings,
        auth_token="",
        tls_cert_file="",
        tls_key_file="",
        tls_client_ca_file="",
        mtls_mode="off",
        otel_endpoint="",
        max_connections=0,
        shutdown_grace=1.0,
    )
    plan_of = partial(_plan, rules=rules_of(settings))
    plan = _planned(plan_of, head, question)
    target = cast(Target, plan.target)
    report = Report(f"http://{target.authority.decode('ascii')}{question.path}")
    watch = Watch()
    resolver = _WatchedResolver(settings.dns_servers, keep=settings.max_keepalive > 0)
    backend = _WatchedBackend(resolver)
    resolver.watch = backend.watch = watch
    read_fd, write_fd = os.pipe()
    log = AccessLog(write_fd)
    try:
        server = Server(settings, backend=backend, access_log=log)
        server.request_heads = HeadCache(plan_of)
        server.start_sweep()
        try:
            await _ask(server, head, plan, watch, report)
        finally:
            await server.shutdown()
            await resolver.close()
    finally:
        log.close()
        os.close(write_fd)
        lines = _whole(read_fd).splitlines()
    _conclude(report, watch, json.loads(lines[-1])["error"] or "")
    return report


def _whole(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _plan(raw: bytes, rules: Rules) -> RequestPlan:
    plan = plan_request(raw, rules)
    plan.is_health_check = False  # the sandbox's /healthz is meant, not the router's
    return plan


def _planned(plan_of: Callable[[bytes], RequestPlan], head: bytes, question: Question) -> RequestPlan:
    """Return the plan of the request; raise ``QuestionError`` for what the router would answer 400."""
    try:
        plan = plan_of(head)
    except MalformedMessageError as error:
        raise QuestionError(f"{error.cause.detail} ({error})") from error
    if isinstance(plan.target, RouterError):
        raise QuestionError(plan.target.detail(question.sandbox))
    if plan.timeout is None:
        raise QuestionError(f"{question.timeout!r} is no number of seconds above 0.")
    return plan


async def _ask(server: Server, head: bytes, plan: RequestPlan, watch: Watch, report: Report) -> None:
    """Send the request into the router as its client, and read what it answers."""
    ours, theirs = socket.socketpair()
    began = time.monotonic()
    await asyncio.get_running_loop().connect_accepted_socket(server.make_downstream, theirs)
    reader, writer = await asyncio.open_connection(sock=ours, limit=_LIMIT)
    try:
        writer.write(head)
        response = await _final_head(reader, report)
        answered = time.monotonic()
        if watch.address:
            report.response_ms = _ms(answered - watch.ended)
        await _read_body(reader, response, plan, report)
        report.body_ms = _ms(time.monotonic() - answered)
    finally:
        report.total_ms = _ms(time.monotonic() - began)
        writer.close()
        await writer.wait_closed()


async def _final_head(reader: asyncio.StreamReader, report: Report) -> ResponseHead:
    while True:
        raw = await reader.readuntil(END)
        report.status_line = raw.partition(b"\r\n")[0].decode("latin-1")
        response = parse_response(raw)
        if not response.informational:
            return response


async def _read_body(
    reader: asyncio.StreamReader, response: ResponseHead, plan: RequestPlan, report: Report
) -> None:
    """Read the body for as long as the question allows: some never end."""
    body = body_for(response.framing_for(plan.method), lambda fields: fields, reframe=False)
    told = any(name == _REASON for name, _, _ in response.fields)
    kept = b""
    try:
        async with asyncio.timeout(plan.timeout):
            while not body.done:
                data = await reader.read(_READ_SIZE)
                piece = body.feed(data)
                while body.backlog:
                    piece += body.feed(b"")
                if told:
                    kept = (kept + piece)[:_READ_SIZE]
                if not data:
                    body.eof()
        report.body_ended = True
    except TimeoutError:
        report.body_goes_on = True
    except (MalformedMessageError, ConnectionError):
        pass  # cut off: the log knows why
    report.body_bytes = body.total
    with contextlib.suppress(ValueError, TypeError, KeyError):
        report.detail = str(json.loads(kept)["detail"]) if kept else ""


def _conclude(report: Report, watch: Watch, reason: str) -> None:
    """Add what the watches and the log tell."""
    report.attempts = watch.attempts
    if watch.resolved:
        report.addresses, report.address = watch.addresses, watch.address
        report.dns_ms = _ms(watch.resolved - watch.began)
        report.connect_ms = _ms(watch.ended - watch.resolved)
    else:
        report.dns_ms = _ms(watch.ended - watch.began)
    if report.body_goes_on or not reason:
        report.detail = ""
        return
    report.reason = reason
    report.note = watch.note
    if not watch.address:
        report.failed = "connect" if watch.resolved else "dns"
    else:
        report.failed = "response" if report.detail else "body"
    if report.failed == "body":
        report.detail = "The response was cut off."
    else:
        report.status_line, report.body_ms, report.body_bytes = "", None, 0


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _plain(text: str) -> str:
    """Return text without what a terminal takes for a command: a status line may hold that."""
    return "".join(char if " " <= char <= "~" else ascii(char)[1:-1] for char in text)
