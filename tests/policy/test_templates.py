"""Templates: which heads have one, and what is filled in."""

from __future__ import annotations

import pytest

from fastrouter.policy.plan import plan_request, plan_response
from fastrouter.policy.rules import Rules
from fastrouter.policy.templates import (
    RequestTemplate,
    RequestTemplates,
    ResponseTemplate,
    ResponseTemplates,
)


def request(*lines: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: r", b"X-Sandbox-ID: box", *lines, b"", b""])


def learn(*lines: bytes, rules: Rules | None = None) -> RequestTemplate | None:
    rules = rules or Rules()
    templates, raw = RequestTemplates(rules), request(*lines)
    cut = templates.cut(raw)
    assert cut is not None
    return templates.learn(cut, plan_request(raw, rules))


def response(*lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", b""])


def learn_response(*lines: bytes, status: bytes = b"200 OK") -> ResponseTemplate | None:
    templates, raw = ResponseTemplates(), response(*lines, status=status)
    cut = templates.cut(raw)
    assert cut is not None
    return templates.learn(cut, plan_response(raw))


class TestRequest:
    def test_length_time_and_values_are_those_of_the_head(self) -> None:
        template = learn(b"Content-Length: 5", b"X-Sandbox-Timeout: 9", b"Id: 1")
        assert template is not None
        raw = request(b"Content-Length: 70", b"X-Sandbox-Timeout: 2.5", b"Id: other")
        found = template.fill(raw, [b"70", b"2.5", b"other"])
        assert found == plan_request(raw, Rules())
        assert found is not None
        assert (found.body_length, found.timeout) == (70, 2.5)

    def test_a_time_that_is_none_is_left_to_the_ordinary_way(self) -> None:
        template = learn(b"X-Sandbox-Timeout: 9")
        assert template is not None
        assert template.fill(b"", [b"0.00"]) is None

    def test_the_head_for_a_trusted_proxy_is_filled_too(self) -> None:
        rules = Rules(trusts_proxies=True)
        template = learn(b"X-Forwarded-For: 1.1.1.1", b"Id: 1", rules=rules)
        assert template is not None
        raw = request(b"X-Forwarded-For: 1.1.1.1", b"Id: 2")
        assert template.fill(raw, [b"2"]) == plan_request(raw, rules)

    def test_a_dropped_field_has_no_place(self) -> None:
        template = learn(b"Connection: id", b"Id: 1", b"Other: 2")
        assert template is not None
        raw = request(b"Connection: id", b"Id: x", b"Other: y")
        assert template.fill(raw, [b"x", b"y"]) == plan_request(raw, Rules())

    @pytest.mark.parametrize(
        "lines",
        [
            (b"X-Sandbox-ID: another", b"Id: 1"),
            (b"Content-Length: 5", b"Content-Length: 5"),
            (b"X-Sandbox-Timeout: 5", b"X-Sandbox-Timeout: 5"),
        ],
    )
    def test_faults_and_fields_said_twice_are_planned_each_time(self, lines: tuple[bytes, ...]) -> None:
        assert learn(*lines) is None

    @pytest.mark.parametrize("line", [b"Content-Length: 0", b"Content-Length: 05", b"X-Sandbox-Timeout: 1e3"])
    def test_numbers_that_are_not_plain_stay_in_the_key(self, line: bytes) -> None:
        assert RequestTemplates(Rules()).cut(request(line)) is None

    def test_credentials_are_read_and_stay_in_the_key(self) -> None:
        rules = Rules(credentials=b"x-token", drops=frozenset({b"x-token"}))
        assert RequestTemplates(rules).cut(request(b"X-Token: Bearer a")) is None
        assert RequestTemplates(rules).cut(request(b"Authorization: Bearer a")) is not None

    def test_marks_are_told_from_what_the_head_says(self) -> None:
        lines = (b"Id: 1", b"Connection: mark0.", b"X-Sandbox-Namespace: markk0", b"Content-Length: 3")
        template = learn(*lines)
        assert template is not None
        assert template.fill(b"", [b"7", b"4"]) == plan_request(
            request(b"Id: 7", *lines[1:3], b"Content-Length: 4"), Rules()
        )

    @pytest.mark.parametrize("odd", [b"Content-Length:5", b"Content-Length:  5"])
    def test_lengths_that_are_said_twice_in_two_ways_have_no_template(self, odd: bytes) -> None:
        assert learn(b"Content-Length: 5", odd, b"Id: 1") is None

    def test_a_head_that_would_be_too_long_with_marks_has_none(self) -> None:
        lines = [b"X%d: 1" % number for number in range(60)]
        assert learn(b"Connection: mark" + b"k" * 1200, *lines) is None

    def test_a_head_of_very_many_values_has_none(self) -> None:
        assert learn(*(b"X%d: 1" % number for number in range(65))) is None

    def test_marks_are_told_from_what_the_settings_say(self) -> None:
        rules = Rules(cluster_domain="mark0.example")
        template = learn(b"Id: 1", rules=rules)
        assert template is not None
        raw = request(b"Id: mark0.")
        assert template.fill(raw, [b"mark0."]) == plan_request(raw, rules)


class TestResponse:
    def test_lengths_that_are_said_twice_in_two_ways_have_no_template(self) -> None:
        assert learn_response(b"Content-Length: 2", b"Content-Length:  2", b"Date: now") is None

    def test_length_and_values_are_those_of_the_head(self) -> None:
        template = learn_response(b"Date: now", b"Content-Length: 5")
        assert template is not None
        raw = response(b"Date: then", b"Content-Length: 0")
        assert template.fill(raw, [b"then", b"0"]) == plan_response(raw)

    @pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
    def test_a_status_without_body_has_none_whatever_length_is_told(self, status: bytes) -> None:
        template = learn_response(b"Date: now", b"Content-Length: 5", status=status)
        assert template is not None
        raw = response(b"Date: then", b"Content-Length: 7", status=status)
        assert template.fill(raw, [b"then", b"7"]) == plan_response(raw)
        assert template.fill(raw, [b"then", b"7"]).length == 0

    @pytest.mark.parametrize(
        ("status", "lines"),
        [(b"103 Early Hints", (b"Link: a",)), (b"200 OK", (b"Content-Length: 5", b"Content-Length: 5"))],
    )
    def test_others_are_planned_each_time(self, status: bytes, lines: tuple[bytes, ...]) -> None:
        assert learn_response(*lines, status=status) is None


class TestLimits:
    def test_a_limit_of_bodies_leaves_templates_in_use(self) -> None:
        template = learn(b"Content-Length: 5", b"X-Request-ID: a", rules=Rules(longest_body=100))
        assert template is not None
        raw = request(b"Content-Length: 7", b"X-Request-ID: b")
        assert template.fill(raw, [b"7", b"b"]) == plan_request(raw, Rules(longest_body=100))
        assert template.fill(raw, [b"101", b"b"]) is None


class TestIds:
    RULES = Rules(request_ids=True)

    def test_an_id_that_is_no_value_here_makes_no_template(self) -> None:
        # The first one, without a space, stays in the key; the router reads it, whatever the second one says.
        assert learn(b"X-Request-ID:same", b"X-Request-ID: same", rules=self.RULES) is None

    def test_an_id_is_read_from_its_place(self) -> None:
        template = learn(b"X-Request-ID: a", b"traceparent: b", rules=self.RULES)
        assert template is not None
        plan = template.fill(b"", [b"c", b"d"])
        assert plan is not None
        assert (plan.request_id, plan.traceparent) == (b"c", b"d")


LINES = (
    b"Content-Length: 21",
    b"X-Request-ID: abc",
    b"X-Sandbox-Timeout: 7",
    b"traceparent: 00-1",
    b"Accept: */*",
)
OTHERS = [b"34", b"def", b"9", b"00-2", b"text/html"]


class TestNarrow:
    """What is settled by some of the values, and what is left to the others."""

    @pytest.mark.parametrize("places", [[], [0], [1], [2], [3], [4], [0, 2], [1, 3], [0, 1, 2, 3, 4]])
    def test_a_request_comes_to_the_same(self, places: list[int]) -> None:
        rules = Rules(request_ids=True, trusts_proxies=True, longest_timeout=60.0)
        template = learn(*LINES, rules=rules)
        assert template is not None
        old = [line.split(b": ")[1] for line in LINES]
        narrow = template.narrow(old, places)
        assert narrow is not None
        lines = [
            line.split(b": ")[0] + b": " + (OTHERS if place in places else old)[place]
            for place, line in enumerate(LINES)
        ]
        assert narrow.fill(b"", [OTHERS[place] for place in places]) == plan_request(request(*lines), rules)

    def test_a_value_that_needs_a_closer_look_has_none(self) -> None:
        template = learn(b"X-Sandbox-Timeout: 7", rules=Rules(longest_timeout=60.0))
        assert template is not None
        assert template.narrow([b"0"], []) is None

    def test_limits_hold_for_what_is_left(self) -> None:
        template = learn(b"Content-Length: 21", rules=Rules(longest_body=50))
        assert template is not None
        narrow = template.narrow([b"21"], [0])
        assert narrow is not None
        assert narrow.fill(b"", [b"51"]) is None
        assert narrow.fill(b"", [b"50"]) is not None

    @pytest.mark.parametrize("places", [[], [0], [1], [0, 1]])
    def test_a_response_comes_to_the_same(self, places: list[int]) -> None:
        template = learn_response(b"Date: a", b"Content-Length: 3")
        assert template is not None
        old, new = [b"a", b"3"], [b"b", b"44"]
        narrow = template.narrow(old, places)
        date, length = ((new if place in places else old)[place] for place in (0, 1))
        raw = response(b"Date: " + date, b"Content-Length: " + length)
        assert narrow.fill(raw, [new[place] for place in places]) == plan_response(raw)
