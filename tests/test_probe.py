"""`fastrouter probe` against real DNS and sandboxes: what it finds, step by step, and how it says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from fastrouter.probe import Question, QuestionError, Report, probe, run
from fastrouter.settings import Settings
from tests.support import (
    Handler,
    Stage,
    Visit,
    always,
    eventually,
    free_port,
    full_listener,
    ok,
    read_request,
    stage,
)

HOST = "box.default.svc.cluster.local"
INVALID = "Invalid response from the backend sandbox: box"
REPLY = b'{"detail":"x"}'
NOT_CONNECTED = "Could not connect to the backend sandbox: box"


def settings_for(set_: Stage, **more: object) -> Settings:
    settings = Settings(dns_servers=(set_.dns.address,), dial_retry=0.0)
    return replace(settings, **more)  # type: ignore[arg-type]


async def report_of(handler: Handler, **question: str) -> Report:
    async with stage() as set_:
        box = await set_.sandbox(handler)
        return await probe(settings_for(set_), Question("box", port=str(box.port), **question))


def sends(*pieces: bytes, then: Callable[[Visit], object] = lambda visit: visit.close()) -> Handler:
    """Return a handler that answers a request with ``pieces``, and ends."""

    async def handle(visit: Visit) -> None:
        await read_request(visit)
        for piece in pieces:
            await visit.send(piece)
        then(visit)

    return handle


async def silent(visit: Visit) -> None:
    await visit.gone()


class TestAnswers:
    async def test_each_step_of_a_success_has_its_time(self) -> None:
        async with stage() as set_:
            box = await set_.sandbox(always(ok(b"fine")))
            report = await probe(settings_for(set_), Question("box", port=str(box.port)))
            assert box.received.startswith(
                b"GET /healthz HTTP/1.1\r\nHost: %b:%d\r\n" % (HOST.encode(), box.port)
            )
        assert report.target == f"http://{HOST}:{box.port}/healthz"
        assert (report.addresses, report.address, report.attempts) == (["127.0.0.1"], "127.0.0.1", 1)
        assert (report.status_line, report.body_bytes, report.body_ended) == ("HTTP/1.1 200 OK", 4, True)
        assert (report.failed, report.reason, report.detail, report.note) == ("", "", "", "")
        steps = [report.dns_ms, report.connect_ms, report.response_ms, report.body_ms]
        times = [step for step in steps if step is not None]
        assert len(times) == 4
        assert all(0 <= each < 5000 for each in times)
        assert sum(times) <= report.total_ms + 1

    async def test_what_is_asked_is_the_users_choice(self) -> None:
        async with stage() as set_:
            box = await set_.sandbox(always(ok()), "worker-7", namespace="team")
            question = Question("worker-7", "team", str(box.port), "/a%2Fb?c", "POST")
            report = await probe(settings_for(set_), question)
            assert report.status_line == "HTTP/1.1 200 OK"
            assert box.received.startswith(
                b"POST /a%2Fb?c HTTP/1.1\r\nHost: worker-7.team.svc.cluster.local:"
            )
            assert b"x-sandbox" not in box.received.lower()

    @pytest.mark.parametrize(
        ("answer", "size"),
        [
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n", 3),
            (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 0),
            (b"HTTP/1.1 204 No Content\r\n\r\n", 0),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 5),
            (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 13),
            (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!", 1),
            # Another router behind this one: its reply is the sandbox's answer here.
            (b"HTTP/1.1 502 Bad\r\nX-Sandbox-Router-Error: x\r\nContent-Length: 14\r\n\r\n" + REPLY, 14),
        ],
    )
    async def test_any_response_is_a_success(self, answer: bytes, size: int) -> None:
        report = await report_of(sends(answer))
        final = answer.split(b"\r\n\r\n")[answer.startswith(b"HTTP/1.1 103")].partition(b"\r\n")[0]
        assert (report.status_line, report.failed, report.detail) == (final.decode(), "", "")
        assert (report.body_bytes, report.body_ended) == (size, True)

    async def test_a_body_of_very_many_chunks_is_read_to_its_end(self) -> None:
        chunks = b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n"
        report = await report_of(sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks))
        assert (report.failed, report.body_bytes, report.body_ended) == ("", 2000, True)

    async def test_a_head_request_waits_for_no_body(self) -> None:
        report = await report_of(always(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), method="HEAD")
        assert (report.failed, report.body_bytes, report.body_ended) == ("", 0, True)

    async def test_a_body_without_end_is_left_when_the_time_is_up(self) -> None:
        async def clock(visit: Visit) -> None:
            await read_request(visit)
            await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntick\r\n")
            await visit.gone()

        report = await report_of(clock, timeout="0.3")
        assert (report.failed, report.body_bytes, report.body_ended) == ("", 4, False)
        assert "4 bytes, and it goes on" in report.as_text()

    async def test_a_sandbox_with_an_ipv6_address_is_found(self) -> None:
        async with stage() as set_:
            box = await set_.sandbox(always(ok()), host="::1")
            report = await probe(settings_for(set_), Question("box", port=str(box.port)))
        assert (report.addresses, report.address, report.failed) == (["::1"], "::1", "")

    async def test_the_routers_own_token_and_limits_do_not_stand_in_the_way(self) -> None:
        async with stage() as set_:
            box = await set_.sandbox(always(ok()))
            strict = settings_for(set_, auth_token="secret", access_log=False, access_log_sample=0.0)
            report = await probe(strict, Question("box", port=str(box.port)))
        assert (report.status_line, report.failed) == ("HTTP/1.1 200 OK", "")


class TestFailures:
    async def test_a_name_that_does_not_exist_fails_in_dns(self) -> None:
        async with stage() as set_:
            report = await probe(settings_for(set_), Question("box"))
        assert (report.failed, report.reason, report.detail) == ("dns", "dns_not_found", NOT_CONNECTED)
        assert report.note == f"{HOST}: no such name"
        assert report.dns_ms is not None
        assert (report.connect_ms, report.response_ms, report.status_line) == (None, None, "")

    async def test_a_dns_server_that_is_not_there_fails_in_dns(self) -> None:
        async with stage() as set_:
            nobody = settings_for(set_, dns_servers=(f"127.0.0.1:{free_port()}",))
            report = await probe(nobody, Question("box"))
        assert (report.failed, report.reason, report.detail) == ("dns", "dns_failure", NOT_CONNECTED)

    async def test_a_port_where_nobody_listens_fails_to_connect(self) -> None:
        async with stage() as set_:
            set_.zone[HOST] = ["127.0.0.1"]
            report = await probe(settings_for(set_), Question("box", port=str(free_port())))
        assert (report.failed, report.reason, report.detail) == ("connect", "connect_refused", NOT_CONNECTED)
        assert (report.addresses, report.address) == (["127.0.0.1"], "")
        assert "127.0.0.1" in report.note
        assert report.dns_ms is not None
        assert report.connect_ms is not None

    async def test_a_host_that_does_not_answer_fails_to_connect(self) -> None:
        listener, filler = full_listener()
        with listener, filler:
            async with stage() as set_:
                set_.zone[HOST] = ["127.0.0.1"]
                port = str(listener.getsockname()[1])
                report = await probe(settings_for(set_), Question("box", port=port, timeout="0.2"))
        assert (report.failed, report.reason, report.detail) == ("connect", "connect_timeout", NOT_CONNECTED)

    async def test_it_dials_again_as_the_router_does(self) -> None:
        async with stage() as set_:
            set_.zone[HOST] = ["127.0.0.1"]
            patient = settings_for(set_, dial_retry=0.3)
            report = await probe(patient, Question("box", port=str(free_port())))
        assert report.attempts > 1
        assert f"  {report.attempts} attempts to connect" in report.as_text()
        assert report.total_ms > (report.connect_ms or 0)

    async def test_the_step_is_that_of_the_last_attempt(self) -> None:
        async with stage() as set_:
            set_.zone[HOST] = ["127.0.0.1"]
            patient = settings_for(set_, dial_retry=0.5)
            port = str(free_port())
            asked = asyncio.create_task(probe(patient, Question("box", port=port)))
            await eventually(lambda: bool(set_.dns.questions))
            del set_.zone[HOST]  # it was there, and refused; it is gone when it is looked up again
            report = await asked
        assert (report.failed, report.reason, report.addresses) == ("dns", "dns_not_found", [])
        assert report.attempts > 1

    @pytest.mark.parametrize(
        ("handler", "reason", "detail"),
        [
            (silent, "upstream_timeout", "Timed out waiting for the backend sandbox: box"),
            (
                sends(b"SSH-2.0\r\n"),
                "upstream_protocol_error",
                INVALID,
            ),
            (sends(), "upstream_closed", "The backend sandbox closed the connection: box"),
            (
                sends(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
                "upstream_protocol_error",
                INVALID,
            ),
        ],
        ids=["silent", "no HTTP", "closed", "101"],
    )
    async def test_what_is_no_response_fails_there(self, handler: Handler, reason: str, detail: str) -> None:
        report = await report_of(handler, timeout="0.3")
        assert (report.failed, report.reason, report.detail) == ("response", reason, detail)
        assert (report.address, report.status_line, report.body_ms) == ("127.0.0.1", "", None)
        assert report.response_ms is not None

    @pytest.mark.parametrize(
        "head",
        [b"Content-Length: 9", b"Transfer-Encoding: chunked"],
    )
    async def test_a_response_that_breaks_off_fails_in_its_body(self, head: bytes) -> None:
        report = await report_of(sends(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n4\r\nhalf\r\n"[:-2]))
        assert (report.failed, report.reason) == ("body", "upstream_closed")
        assert (report.status_line, report.detail) == ("HTTP/1.1 200 OK", "The response was cut off.")
        assert not report.body_ended

    async def test_a_body_that_ends_with_a_reset_is_no_clean_end(self) -> None:
        report = await report_of(sends(b"HTTP/1.1 200 OK\r\n\r\nsome", then=lambda visit: visit.reset()))
        assert (report.failed, report.reason) == ("body", "upstream_closed")


class TestQuestions:
    @pytest.mark.parametrize(
        ("question", "fault"),
        [
            (Question(""), "X-Sandbox-ID header is required."),
            (Question("Box"), "Invalid sandbox ID format."),
            (Question("a.b"), "Invalid sandbox ID format."),
            (Question("bäx"), "Invalid sandbox ID format."),
            (Question("box", namespace="_"), "Invalid namespace format."),
            (Question("box", port="0"), "Invalid port format."),
            (Question("box", port="http"), "Invalid port format."),
            (Question("box", path="no slash"), "Malformed HTTP request."),
            (Question("box", path="x"), "Malformed HTTP request."),
            (Question("box", method="GE T"), "Malformed HTTP request."),
            (Question("box", method="CONNECT"), "Method not allowed."),
            (Question("box", timeout="soon"), "'soon' is no number of seconds above 0."),
            (Question("box", timeout="0"), "'0' is no number of seconds above 0."),
            (Question("box\r\nX: y"), "control characters have no place in a request"),
        ],
    )
    async def test_what_the_router_would_refuse_is_not_asked(self, question: Question, fault: str) -> None:
        async with stage() as set_:
            with pytest.raises(QuestionError) as caught:
                await probe(settings_for(set_), question)
            assert set_.dns.questions == []
        assert str(caught.value).startswith(fault)


class TestTelling:
    async def test_the_exit_code_is_0_for_a_response_and_1_for_none(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with stage() as set_:
            box = await set_.sandbox(always(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"))
            settings, question = settings_for(set_), Question("box", port=str(box.port))
            assert await run(settings, question) == 0
            lines = capsys.readouterr().out.splitlines()
            assert [line.split()[0] for line in lines] == [
                *("target", "dns", "connect", "response", "body", "total")
            ]
            assert lines[3].endswith(" ms  HTTP/1.1 500 Oh")
            assert await run(settings, Question("nobody")) == 1
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == ["target", "dns", "total", "dns"]
        assert lines[1].endswith(" ms  FAILED")
        assert lines[3] == (
            "dns failed: dns_not_found: Could not connect to the backend sandbox: nobody "
            "(nobody.default.svc.cluster.local: no such name)"
        )

    async def test_json_is_one_object_with_everything(self, capsys: pytest.CaptureFixture[str]) -> None:
        async with stage() as set_:
            box = await set_.sandbox(always(ok()))
            await run(settings_for(set_), Question("box", port=str(box.port)), as_json=True)
        told = json.loads(capsys.readouterr().out)
        assert told["status_line"] == "HTTP/1.1 200 OK"
        assert set(told) == set(vars(Report("")))

    def test_a_terminal_gets_no_commands_from_a_sandbox(self) -> None:
        report = Report("http://box", response_ms=1.0, status_line="HTTP/1.1 200 \x9b2J\x1b[2J")
        text = report.as_text()
        assert "\x9b" not in text
        assert "\x1b" not in text
