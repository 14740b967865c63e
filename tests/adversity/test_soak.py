"""The soak in short: mixed traffic and faults for seconds, and what it notices."""

from __future__ import annotations

import asyncio

import pytest

from tests.adversity.soak import Plan, Result, soak
from tests.adversity.soak_ask import FAULTS_OF, Ask, Ledger
from tests.adversity.soak_report import markdown
from tests.adversity.soak_street import SETTLED, BoxProcess
from tests.adversity.soak_traffic import WEIGHTS, read_reply
from tests.adversity.soak_watch import Prober, Sample
from tests.adversity.soak_words import FAULTS, pattern


class TestSoak:
    async def test_mixed_traffic_with_faults_leaves_no_trace_on_others(self) -> None:
        plan = Plan(
            2.0, seed=5, boxes=3, talkers=12, trouble_every=0.6, sample_every=0.5, keepalive_expiry=0.3
        )
        result = await soak(plan)
        assert result.wrong() == []
        assert result.ledger.outcomes["ok"] > 50
        assert result.ledger.faults.total() > 10
        assert len(result.prober.took["/healthz"]) > 5
        assert "**Passed**" in markdown(result, [])

    async def test_sandboxes_that_are_killed_fail_their_own_exchanges_only(self) -> None:
        plan = Plan(
            1.5,
            seed=6,
            boxes=4,
            talkers=12,
            pause=0.02,
            fault_share=0.0,
            troubles=("kill -9", "away"),
            trouble_every=0.4,
            sample_every=0.5,
            keepalive_expiry=0.3,
        )
        result = await soak(plan)
        assert result.wrong() == []
        assert result.troubles.total() >= 2
        assert result.ledger.outcomes["ok"] > 50


ASK = Ask("download", "box1", "n1", "/download", size=40)
CHUNKED = Ask("download-chunked", "box1", "n1", "/download", size=40, http10=True)
BODY = pattern("box1", "n1", 40)
WHOSE = b"HTTP/1.1 200 OK\r\nX-Box: box1\r\nX-Nonce: n1\r\n"
WHOLE = WHOSE + b"Content-Length: 40\r\n\r\n" + BODY
OPEN = WHOSE + b"Connection: close\r\n\r\n"
CHUNKS = WHOSE + b"Transfer-Encoding: chunked\r\n\r\n14\r\n" + BODY[:20] + b"\r\n"
REFUSED = b"HTTP/1.1 502 -\r\nContent-Length: 2\r\nX-Sandbox-Router-Error: upstream_closed\r\n\r\n{}"


class TestWhatAClientMakesOfAnAnswer:
    @pytest.mark.parametrize(
        ("ask", "answer", "outcome"),
        [
            (ASK, WHOLE, ("ok", True)),
            (ASK, WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1), ("ok", False)),
            (ASK, b"HTTP/1.1 103 Early Hints\r\nX-Nonce: n1\r\n\r\n" + WHOLE, ("ok", True)),
            (ASK, OPEN + BODY, ("ok", False)),
            (ASK, OPEN + BODY[:-1], ("truncated", False)),
            (ASK, CHUNKS + b"14\r\n" + BODY[20:] + b"\r\n0\r\n\r\n", ("ok", True)),
            (ASK, CHUNKS, ("truncated", False)),
            (ASK, CHUNKS + b"0\r\n\r\n", ("wrong: a false end", False)),
            (CHUNKED, OPEN + BODY[:20], ("wrong: a false end", False)),
            (ASK, WHOLE[:-1], ("truncated", False)),
            (ASK, WHOLE[:-1] + b"!", ("wrong: another body, 40 bytes", False)),
            (ASK, WHOLE.replace(b"box1", b"box2"), ("wrong: cross-talk, the answer of box2 to n1", False)),
            (ASK, WHOLE.replace(b"n1", b"n2"), ("wrong: cross-talk, the answer of box1 to n2", False)),
            (ASK, WHOLE.replace(b"200", b"500"), ("wrong: status 500", False)),
            (ASK, REFUSED, ("upstream_closed", True)),
            (ASK, b"", ("no reply", False)),
            (ASK, b"HTTP/1.1", ("wrong: half a head", False)),
        ],
    )
    async def test_it_is_told_from_what_it_should_be(
        self, ask: Ask, answer: bytes, outcome: tuple[str, bool]
    ) -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(answer)
        reader.feed_eof()
        assert await read_reply(reader, ask) == outcome


class TestWhatItNotices:
    @pytest.mark.parametrize("fault", sorted(FAULTS))
    @pytest.mark.parametrize("outcome", ["wrong: cross-talk", "no reply", "internal_error", "bad_request"])
    def test_some_outcomes_have_no_excuse(self, fault: str, outcome: str) -> None:
        ledger = Ledger()
        ledger.judge(Ask("execute", "box1", "n", "/", fault=fault), outcome, troubled=True)
        assert len(ledger.violations) == 1

    @pytest.mark.parametrize(
        ("fault", "troubled", "outcome", "violations"),
        [
            ("", False, "ok", 0),
            ("", False, "upstream_closed", 1),
            ("", True, "upstream_closed", 0),
            ("reset-body", False, "truncated", 0),
            ("reset-body", False, "ok", 1),
            ("trickle", False, "truncated", 1),
        ],
    )
    def test_a_fault_excuses_its_own_exchange(
        self, fault: str, troubled: bool, outcome: str, violations: int
    ) -> None:
        ledger = Ledger()
        ledger.judge(Ask("execute", "box1", "n", "/", fault=fault), outcome, troubled=troubled)
        assert len(ledger.violations) == violations

    def test_every_fault_has_its_outcome_and_every_kind_its_share(self) -> None:
        assert set().union(*FAULTS_OF.values()) <= set(FAULTS)
        assert set(FAULTS_OF) < set(WEIGHTS)

    async def test_trouble_is_remembered_for_a_while(self) -> None:
        box = BoxProcess("box1", "127.0.0.1")
        assert not box.was_troubled(0.0)
        with box.trouble():
            assert box.in_trouble
            assert box.was_troubled(1e12)
        end = box.troubles[0][1]
        assert box.was_troubled(end - SETTLED / 2)
        assert not box.was_troubled(end + 0.001)

    @pytest.mark.parametrize(("last", "found"), [(109, []), (120, ["resident grew from 100 to 120"])])
    def test_growth_is_a_fault(self, last: int, found: list[str]) -> None:
        prober = Prober(("", 0), {}, took={"/healthz": [0.001]})
        rest = Sample(0.0, 100, 10, 2, {"tasks": 3})
        result = Result(Plan(12.0, seed=0), Ledger(), rest, prober)
        result.samples = [Sample(at, 100 if at < 9 else last, 10, 2, {"tasks": 3}) for at in range(12)]
        assert result.drifted() == found

    def test_a_slow_answer_and_an_open_descriptor_are_faults(self) -> None:
        prober = Prober(("", 0), {}, took={"/healthz": [0.001, 0.3]}, failures=["/healthz: refused"])
        rest = Sample(0.0, 100, 10, 2, {})
        result = Result(Plan(12.0, seed=0), Ledger(), rest, prober, [rest] * 12)
        assert "the router did not come to rest" in result.wrong()
        result.last = Sample(12.0, 100, 11, 2, {})
        assert result.wrong() == ["health: /healthz: refused", "descriptors left open: 1"]
        result.samples = [Sample(float(at), 100, 10, 2, {}) for at in range(12)]
        assert result.drifted() == ["an answer took 0.300 s"]
