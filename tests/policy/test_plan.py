"""Plans: what follows from the bytes of a head alone."""

from __future__ import annotations

import json

import pytest

from fastrouter.errors import INVALID_SANDBOX_ID, MalformedMessageError, RouterError
from fastrouter.policy.plan import RequestPlan, plan_request, plan_response
from fastrouter.policy.rules import Rules
from fastrouter.policy.target import PoolKey, Target


def plan(
    start: bytes, *lines: bytes, domain: str = "cluster.local", rules: Rules | None = None
) -> RequestPlan:
    raw = b"\r\n".join([start + b" HTTP/1.1", b"Host: router", *lines, b"", b""])
    return plan_request(raw, rules or Rules(domain))


BOX = b"X-Sandbox-ID: box"


class TestRequest:
    def test_a_request_is_parsed_aimed_and_written_for_the_sandbox(self) -> None:
        found = plan(b"GET /a?b", BOX, domain="example")
        assert found.upstream_head.startswith(b"GET /a?b HTTP/1.1\r\n")
        assert isinstance(found.target, Target)
        assert found.target.key == PoolKey("box", "default", 8888)
        assert found.upstream_head == (
            b"GET /a?b HTTP/1.1\r\nHost: box.default.svc.example:8888\r\n"
            b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: router\r\nX-Forwarded-For: "
        )

    def test_a_fault_of_the_routing_headers_waits_for_its_turn(self) -> None:
        found = plan(b"GET /", b"X-Sandbox-ID: NO")
        assert isinstance(found.target, RouterError)
        assert (found.target.cause, found.upstream_head) == (INVALID_SANDBOX_ID, b"")
        assert found.target.__traceback__ is None

    def test_a_malformed_head_is_no_plan(self) -> None:
        with pytest.raises(MalformedMessageError):
            plan(b"GET /", b"A : b")

    @pytest.mark.parametrize(
        ("line", "length"),
        [
            (b"A: b", 0),
            (b"Content-Length: 0", 0),
            (b"Content-Length: 7", 7),
            (b"Transfer-Encoding: chunked", -1),
        ],
    )
    def test_the_length_of_the_body_is_known_or_not(self, line: bytes, length: int) -> None:
        assert plan(b"POST /", line).body_length == length

    @pytest.mark.parametrize(
        ("start", "is_health_check"),
        [
            (b"GET /healthz", True),
            (b"HEAD /healthz", True),
            (b"GET /healthz?verbose=1", True),
            (b"GET http://router/healthz", True),
            (b"POST /healthz", False),
            (b"PUT /healthz", False),
            (b"OPTIONS /healthz", False),
            (b"get /healthz", False),
            (b"GET /healthz/", False),
            (b"GET //healthz", False),
            (b"GET /health%7A", False),
            (b"GET /HEALTHZ", False),
            (b"GET /x?/healthz", False),
        ],
    )
    def test_get_and_head_of_the_health_path_are_health_checks(
        self, start: bytes, is_health_check: bool
    ) -> None:
        assert plan(start, BOX).is_health_check is is_health_check

    @pytest.mark.parametrize(
        ("method", "is_idempotent"),
        [
            *[(name, True) for name in (b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE")],
            *[(name, False) for name in (b"POST", b"PATCH", b"get", b"FOO")],
        ],
    )
    def test_methods_are_idempotent_as_rfc_9110_says(self, method: bytes, is_idempotent: bool) -> None:
        assert plan(method + b" /").is_idempotent is is_idempotent

    def test_the_usual_reply_is_for_http_1_1_and_methods_whose_response_has_a_body(self) -> None:
        assert plan(b"GET /").usual_reply
        assert plan(b"POST /").usual_reply
        assert not plan(b"HEAD /").usual_reply
        assert not plan_request(b"GET / HTTP/1.0\r\n\r\n", Rules()).usual_reply

    def test_the_address_of_a_pod_counts_where_the_rules_say_so(self) -> None:
        lines = (BOX, b"X-Sandbox-Pod-IP: 10.1.2.3")
        honoured = plan(b"GET /", *lines, rules=Rules(honour_pod_ip=True)).target
        ignored = plan(b"GET /", *lines).target
        assert isinstance(honoured, Target)
        assert isinstance(ignored, Target)
        assert (honoured.host, ignored.host) == ("10.1.2.3", "box.default.svc.cluster.local")


CHAIN = (b"X-Forwarded-For: 1.1.1.1", b"x-forwarded-for: 2.2.2.2")
TOKEN = Rules(credentials=b"x-token")
SOCKET = (b"Connection: Upgrade", b"Upgrade: h2c, WebSocket")


class TestForwarded:
    def test_the_chain_of_a_proxy_is_planned_for_where_any_is_trusted(self) -> None:
        found = plan(b"GET /", BOX, *CHAIN, rules=Rules(trusts_proxies=True))
        assert found.trusted_head.endswith(b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, ")
        assert found.upstream_head.endswith(b"X-Forwarded-For: ")
        assert found.forwarded_for == b"1.1.1.1,2.2.2.2"

    def test_nothing_of_it_is_kept_where_none_is(self) -> None:
        found = plan(b"GET /", BOX, *CHAIN)
        assert (found.trusted_head, found.forwarded_for) == (b"", b"")


class TestCredentials:
    @pytest.mark.parametrize(
        ("lines", "credentials"),
        [
            ((), None),
            ((b"X-Token: Bearer a",), b"Bearer a"),
            ((b"X-Token: Bearer a", b"x-token: Bearer a"), b"Bearer a"),
            ((b"X-Token: Bearer a", b"x-token: Bearer b"), None),
            ((b"Authorization: Bearer a",), None),
        ],
    )
    def test_they_are_what_is_said_in_one_way(
        self, lines: tuple[bytes, ...], credentials: bytes | None
    ) -> None:
        assert plan(b"GET /", BOX, *lines, rules=TOKEN).credentials == credentials

    def test_nobody_looks_for_them_where_no_token_is_set(self) -> None:
        assert plan(b"GET /", BOX, b"Authorization: Bearer a").credentials is None


class TestTimeout:
    @pytest.mark.parametrize(
        ("lines", "timeout", "fault"),
        [
            ((), None, None),
            ((b"X-Sandbox-Timeout: 2.5",), 2.5, None),
            ((b"X-Sandbox-Timeout: 99",), 10.0, None),
            ((b"X-Sandbox-Timeout: soon",), None, "soon"),
        ],
    )
    def test_it_is_capped_and_its_fault_is_kept_for_the_log(
        self, lines: tuple[bytes, ...], timeout: float | None, fault: str | None
    ) -> None:
        found = plan(b"GET /", BOX, *lines, rules=Rules(longest_timeout=10.0))
        assert (found.timeout, found.timeout_fault) == (timeout, fault)


class TestUpgrade:
    def test_the_first_offered_protocol_that_is_allowed_is_asked_for_as_it_was_written(self) -> None:
        found = plan(b"GET /", BOX, *SOCKET)
        assert found.upgrade == b"WebSocket"
        assert b"\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n" in found.upstream_head

    @pytest.mark.parametrize(
        ("start", "lines"),
        [
            (b"GET /", (b"Connection: Upgrade", b"Upgrade: h2c")),
            (b"GET /", (b"Connection: Upgrade", b"Upgrade: websocket/13")),
            (b"GET /", (b"Connection: Upgrade",)),
            (b"GET /", (b"Upgrade: websocket",)),
            (b"POST /", (*SOCKET, b"Content-Length: 1")),
            (b"POST /", (*SOCKET, b"Transfer-Encoding: chunked")),
        ],
    )
    def test_anything_else_is_an_ordinary_request(self, start: bytes, lines: tuple[bytes, ...]) -> None:
        found = plan(start, BOX, *lines)
        assert found.upgrade == b""
        assert b"pgrade" not in found.upstream_head

    def test_http_1_0_cannot_upgrade(self) -> None:
        raw = b"\r\n".join([b"GET / HTTP/1.0", BOX, *SOCKET, b"", b""])
        assert plan_request(raw, Rules()).upgrade == b""


def logged(found: RequestPlan) -> dict[str, str | None]:
    members: dict[str, str | None] = json.loads("{" + found.log_subject + "}")
    return members


class TestLogSubject:
    def test_it_names_method_path_without_query_and_sandbox(self) -> None:
        found = plan(b"GET /a/b?token=secret", BOX, b"X-Sandbox-Namespace: team")
        assert logged(found) == {"method": "GET", "path": "/a/b", "sandbox_id": "box", "namespace": "team"}
        assert "secret" not in found.log_subject

    def test_it_names_no_sandbox_where_there_is_none(self) -> None:
        assert logged(plan(b"GET /", b'X-Sandbox-ID: a"b')) == {
            "method": "GET",
            "path": "/",
            "sandbox_id": None,
            "namespace": None,
        }

    @pytest.mark.parametrize("path", [b'/","status":200,"x":"', b"/\\", b"/%0a%0D{}", b'/"}'])
    def test_a_path_cannot_leave_its_string(self, path: bytes) -> None:
        found = plan(b"GET " + path, BOX)
        assert logged(found)["path"] == path.decode("ascii")
        assert set(logged(found)) == {"method", "path", "sandbox_id", "namespace"}
        assert found.log_subject.isascii()
        assert "\n" not in found.log_subject


class TestResponse:
    @pytest.mark.parametrize(
        ("start", "line", "length"),
        [
            (b"200 OK", b"Content-Length: 5", 5),
            (b"200 OK", b"Content-Length: 0", 0),
            (b"200 OK", b"Transfer-Encoding: chunked", -1),
            (b"200 OK", b"A: b", -1),
            (b"204 None", b"A: b", 0),
            (b"304 Same", b"Content-Length: 5", 0),
            (b"103 Early", b"A: b", 0),
        ],
    )
    def test_the_length_of_the_body_is_known_or_not(self, start: bytes, line: bytes, length: int) -> None:
        assert plan_response(b"HTTP/1.1 %b\r\n%b\r\n\r\n" % (start, line)).length == length

    @pytest.mark.parametrize(("status", "is_final"), [(100, False), (199, False), (200, True), (599, True)])
    def test_after_an_informational_response_another_comes(self, status: int, is_final: bool) -> None:
        assert plan_response(b"HTTP/1.1 %d Any\r\n\r\n" % status).is_final is is_final

    def test_the_kept_head_is_the_one_for_a_client_of_http_1_1_that_stays(self) -> None:
        found = plan_response(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\ncontent-length: 5\r\n\r\n")
        assert found.kept_head == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n"
        assert found.status == 200

    def test_a_malformed_head_is_no_plan(self) -> None:
        with pytest.raises(MalformedMessageError):
            plan_response(b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n")
