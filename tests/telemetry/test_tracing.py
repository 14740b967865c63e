"""Spans of real requests, at a real OTLP receiver."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from fastrouter.telemetry.tracing import Tracer
from tests.otlp import Receiver, attributes, receiver
from tests.support import Stage, Visit, always, eventually, ok, request, stage

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@asynccontextmanager
async def traced(collector: Receiver, **settings: object) -> AsyncIterator[Stage]:
    """Run a router that traces, and send all of its spans at the end."""
    tracer = Tracer(collector.url, "1.2.3")
    async with stage(otel_endpoint=collector.url, tracer=tracer, **settings) as router:
        yield router
        await eventually(lambda: router.server.metrics.requests > 0)
    await asyncio.to_thread(tracer.close)


def names(span: Span) -> list[str]:
    return [event.name for event in span.events]


def fields(raw: bytes, name: str) -> list[str]:
    return re.findall(rf"(?im)^{name}: ([^\r]*)\r$", raw.decode("latin-1"))


async def test_a_request_is_a_server_span_with_its_events(collector: Receiver) -> None:
    async with traced(collector, request_id=True) as router:
        box = await router.sandbox(always(ok(b"12345")), namespace="team")
        client = await router.client()
        for _ in range(2):
            await client.send(request(box, b"X-Sandbox-Namespace: team", method=b"POST", body=b"123"))
            await client.response()
    assert collector.paths == ["/v1/traces"]
    assert collector.services == {"fastrouter"}
    fresh, reused = sorted(collector.spans, key=lambda span: span.start_time_unix_nano)
    assert (fresh.kind, fresh.name) == (Span.SPAN_KIND_SERVER, "POST")
    assert names(fresh) == ["dns", "dial", "first_byte", "transfer"]
    assert names(reused) == ["first_byte", "transfer"]
    times = [fresh.start_time_unix_nano, *(event.time_unix_nano for event in fresh.events)]
    assert times == sorted(times)
    assert times[-1] == fresh.end_time_unix_nano
    told = attributes(fresh)
    assert (told["http.request.method"], told["http.response.status_code"]) == ("POST", 200)
    assert (told["sandbox.id"], told["sandbox.namespace"]) == ("box", "team")
    assert (told["http.request.body.size"], told["http.response.body.size"]) == (3, 5)
    assert (told["connection.reused"], attributes(reused)["connection.reused"]) == (False, True)
    assert fields(box.received, "x-request-id")[0] == told["http.request_id"]
    assert fresh.status.code == Status.STATUS_CODE_UNSET
    assert fresh.parent_span_id == b""


async def test_the_clients_trace_is_taken_over_and_passed_on(collector: Receiver) -> None:
    async with traced(collector) as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        given = (b"TraceParent: 00-%b-%b-01" % (TRACE.encode(), PARENT.encode()), b"tracestate: a=1, b=2")
        await client.send(request(box, *given))
        await client.response()
        (line,) = router.access_lines()
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert fields(box.received, "traceparent") == [f"00-{TRACE}-{span.span_id.hex()}-01"]
    assert fields(box.received, "tracestate") == ["a=1,b=2"]
    assert line["trace_id"] == TRACE


async def test_what_the_client_does_not_sample_is_passed_on_and_not_sent(collector: Receiver) -> None:
    async with traced(collector) as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box, b"traceparent: 00-%b-%b-00" % (TRACE.encode(), PARENT.encode())))
        await client.response()
    assert collector.spans == []
    (told,) = fields(box.received, "traceparent")
    assert told.startswith(f"00-{TRACE}-")
    assert told.endswith("-00")


async def test_a_malformed_trace_begins_a_new_one(collector: Receiver) -> None:
    async with traced(collector) as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box, b"traceparent: forged", b"tracestate: a=1"))
        await client.response()
        (line,) = router.access_lines()
    (span,) = collector.spans
    (told,) = fields(box.received, "traceparent")
    assert re.fullmatch(f"00-{span.trace_id.hex()}-{span.span_id.hex()}-0[13]", told)  # 2: a random trace id
    assert line["trace_id"] == span.trace_id.hex()


async def test_a_failure_is_an_error_with_its_reason(collector: Receiver) -> None:
    async with traced(collector) as router:
        client = await router.client()
        await client.send(request(1, name=b"nobody"))
        assert (await client.error())[2] == "dns_not_found"
    (span,) = collector.spans
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "dns_not_found"
    assert attributes(span)["http.response.status_code"] == 502
    assert "first_byte" not in names(span)


async def test_an_address_is_not_looked_up(collector: Receiver) -> None:
    async with traced(collector) as router:
        router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
        await (await router.client()).send(request(1))
        await eventually(lambda: router.server.metrics.requests == 1)
    assert "dns" not in names(collector.spans[0])


async def test_off_the_clients_fields_pass_as_they_are() -> None:
    async with stage() as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box, b"traceparent: forged", b"tracestate: a=1, b=2"))
        await client.response()
    assert fields(box.received, "traceparent") == ["forged"]
    assert fields(box.received, "tracestate") == ["a=1, b=2"]


async def test_what_a_client_names_its_request_is_cut_in_a_span(collector: Receiver) -> None:
    async with traced(collector, request_id=True) as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        for given in (b"\xe4" * 5000, b"a"):
            await client.send(request(box, b"X-Request-ID: " + given))
            await client.response()
        await eventually(lambda: router.server.metrics.requests == 2)
    long, short = (str(attributes(span)["http.request_id"]) for span in sorted_by_start(collector.spans))
    assert (len(long), short) == (256, "a")


async def test_a_flood_of_malformed_tracestates_is_no_flood_of_lines(
    collector: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    async with traced(collector) as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(
            request(box, b"traceparent: 00-%b-%b-01" % (TRACE.encode(), PARENT.encode()), b"tracestate: @@@")
        )
        await client.response()
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_a_sandbox_that_says_nothing_has_no_first_byte(collector: Receiver) -> None:
    async def silent(visit: Visit) -> None:
        await visit.gone()

    async with traced(collector, proxy_timeout=0.3) as router:
        box = await router.sandbox(silent)
        client = await router.client()
        await client.send(request(box))
        assert (await client.error())[0] == 504
    assert "first_byte" not in names(collector.spans[0])


def sorted_by_start(spans: list[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: span.start_time_unix_nano)
