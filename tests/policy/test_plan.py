"""Plans: what follows from the bytes of a head alone."""

from __future__ import annotations

import json

import pytest

from fastrouter.errors import INVALID_SANDBOX_ID, MalformedMessageError, RouterError
from fastrouter.policy.plan import RequestPlan, plan_request, plan_response
from fastrouter.policy.rules import Rules
from fastrouter.policy.target import PoolKey, Target


def plan(start: bytes, *lines: bytes, domain: str = "cluster.local") -> RequestPlan:
    return plan_request(
        b"\r\n".join([start + b" HTTP/1.1", b"Host: router", *lines, b"", b""]), Rules(domain)
    )


BOX = b"X-Sandbox-ID: box"


class TestRequest:
    def test_a_request_is_parsed_aimed_and_written_for_the_sandbox(self) -> None:
        found = plan(b"GET /a?b", BOX, domain="example")
        assert found.head.target == b"/a?b"
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
        assert found.kept_head == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
        assert found.head.status == 200

    def test_a_malformed_head_is_no_plan(self) -> None:
        with pytest.raises(MalformedMessageError):
            plan_response(b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n")
