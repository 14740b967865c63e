"""Names -> addresses, asked of a real DNS server through c-ares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiodns
import pycares
import pytest

from fastrouter.demo.dns import NEGATIVE_TTL, DnsServer
from fastrouter.errors import DNS_FAILURE, DNS_NOT_FOUND
from fastrouter.net import resolver as resolver_module
from fastrouter.net.resolver import (
    NEGATIVE_SECONDS,
    PROBE_SECONDS,
    STALE_SECONDS,
    NameFailureError,
    NameNotFoundError,
    Resolver,
)
from tests.support import eventually, free_port, request, stage

NAME = "box.default.svc.cluster.local"


class Clock:
    """Stands in for the module `time`; c-ares keeps its own."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(resolver_module, "time", clock)
    return clock


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    zone: dict[str, list[str]] = {NAME: ["127.0.0.1", "127.0.0.2"]}
    async with DnsServer(zone, ttl=5) as server:
        yield server


@pytest.fixture
async def resolver(dns: DnsServer) -> AsyncIterator[Resolver]:
    resolver = Resolver([dns.address])
    yield resolver
    await resolver.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a silent server be given up after a tenth of a second."""
    monkeypatch.setattr(resolver_module, "_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(resolver_module, "_TRIES", 1)


def zone(dns: DnsServer) -> dict[str, list[str]]:
    assert isinstance(dns.zone, dict)
    return dns.zone


class TestQuestions:
    async def test_the_answer_is_all_addresses(self, resolver: Resolver) -> None:
        assert sorted(await resolver.resolve(NAME)) == ["127.0.0.1", "127.0.0.2"]

    async def test_one_question_and_no_search_list(self, dns: DnsServer, resolver: Resolver) -> None:
        await resolver.resolve(NAME)
        with pytest.raises(NameNotFoundError):
            await resolver.resolve("unknown")
        assert [name for name, _ in dns.questions] == [NAME, "unknown"]

    async def test_the_name_leaves_with_a_trailing_dot(
        self, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        query = aiodns.DNSResolver.query_dns

        def record(self: aiodns.DNSResolver, host: str, kind: str) -> asyncio.Future[pycares.DNSResult]:
            asked.append(host)
            return query(self, host, kind)

        monkeypatch.setattr(aiodns.DNSResolver, "query_dns", record)
        await resolver.resolve(NAME)
        assert asked == [NAME + "."]

    async def test_many_who_ask_share_one_question(self, dns: DnsServer, resolver: Resolver) -> None:
        answers = await asyncio.gather(*[resolver.resolve(NAME) for _ in range(100)])
        assert len({tuple(answer) for answer in answers}) == 1
        assert dns.questions == [(NAME, "A")]

    async def test_one_who_leaves_does_not_take_the_question_along(
        self, dns: DnsServer, resolver: Resolver
    ) -> None:
        first, second = (asyncio.create_task(resolver.resolve(NAME)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second
        assert first.cancelled()
        assert dns.questions == [(NAME, "A")]

    async def test_a_failure_that_all_have_left_is_nobodys(
        self, dns: DnsServer, resolver: Resolver, caplog: pytest.LogCaptureFixture
    ) -> None:
        waiter = asyncio.create_task(resolver.resolve("nobody"))
        await asyncio.sleep(0)
        waiter.cancel()
        await eventually(lambda: "asking=0" in repr(resolver))
        assert caplog.records == []

    async def test_a_name_with_ipv6_only_is_found(self, dns: DnsServer, resolver: Resolver) -> None:
        zone(dns)["six"] = ["::1"]
        assert await resolver.resolve("six") == ["::1"]
        assert dns.questions == [("six", "A"), ("six", "AAAA")]

    async def test_a_name_without_addresses_is_not_found(self, dns: DnsServer, resolver: Resolver) -> None:
        zone(dns)["empty"] = []
        with pytest.raises(NameNotFoundError) as caught:
            await resolver.resolve("empty")
        assert caught.value.cause is DNS_NOT_FOUND


class TestMemory:
    async def test_an_answer_lives_as_long_as_its_ttl(
        self, dns: DnsServer, resolver: Resolver, clock: Clock
    ) -> None:
        await resolver.resolve(NAME)
        zone(dns)[NAME] = ["127.0.0.3"]
        clock.now += 4.9
        assert len(await resolver.resolve(NAME)) == 2
        clock.now += 0.1
        assert await resolver.resolve(NAME) == ["127.0.0.3"]
        assert len(dns.questions) == 2

    async def test_a_ttl_of_zero_is_not_kept(self, dns: DnsServer, resolver: Resolver) -> None:
        dns.ttl = 0
        for address in ("127.0.0.3", "127.0.0.4"):
            zone(dns)[NAME] = [address]
            assert await resolver.resolve(NAME) == [address]

    async def test_with_keep_off_every_call_asks(self, dns: DnsServer) -> None:
        resolver = Resolver([dns.address], keep=False)
        for address in ("127.0.0.3", "127.0.0.4", "127.0.0.5"):
            zone(dns)[NAME] = [address]
            assert await resolver.resolve(NAME) == [address]
        assert len(dns.questions) == 3
        await resolver.close()

    async def test_no_such_name_is_kept_a_second_at_most(
        self, dns: DnsServer, resolver: Resolver, clock: Clock
    ) -> None:
        # The SOA record would let it be kept longer, and c-ares does.
        assert NEGATIVE_TTL > NEGATIVE_SECONDS
        for name in ("new", "newer"):
            for _ in range(3):
                with pytest.raises(NameNotFoundError):
                    await resolver.resolve(name)
        assert [name for name, _ in dns.questions] == ["new", "newer"]
        zone(dns)["new"] = zone(dns)["newer"] = ["127.0.0.9"]
        clock.now += NEGATIVE_SECONDS
        assert await resolver.resolve("new") == ["127.0.0.9"]
        assert await resolver.resolve("newer") == ["127.0.0.9"]

    async def test_forget_asks_anew(self, dns: DnsServer, resolver: Resolver) -> None:
        await resolver.resolve(NAME)
        zone(dns)[NAME] = ["127.0.0.3"]
        resolver.forget(NAME)
        resolver.forget("never heard of")
        assert await resolver.resolve(NAME) == ["127.0.0.3"]

    async def test_the_number_of_names_is_bounded(
        self, dns: DnsServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resolver_module, "_MAX_NAMES", 3)
        for number in range(5):
            zone(dns)[f"n{number}"] = ["127.0.0.1"]
            await resolver.resolve(f"n{number}")
        assert repr(resolver) == "<Resolver names=3 asking=0 questions=5>"
        await resolver.resolve("n4")
        assert resolver.questions == 5


class TestFailures:
    @pytest.mark.usefixtures("impatient")
    @pytest.mark.parametrize("mode", ["servfail", "silent"])
    async def test_the_last_answer_is_served_while_the_server_fails(
        self, dns: DnsServer, resolver: Resolver, clock: Clock, mode: str
    ) -> None:
        good = await resolver.resolve(NAME)
        dns.mode = "servfail" if mode == "servfail" else "silent"
        clock.now += 60
        assert await resolver.resolve(NAME) == good
        asked = dns.asked
        assert await resolver.resolve(NAME) == good
        assert dns.asked == asked  # a failing server is not pressed
        dns.mode = "answer"
        zone(dns)[NAME] = ["127.0.0.3"]
        clock.now += NEGATIVE_SECONDS
        assert await resolver.resolve(NAME) == ["127.0.0.3"]

    @pytest.mark.usefixtures("impatient")
    async def test_a_channel_that_was_made_at_a_bad_moment_is_replaced(
        self, dns: DnsServer, resolver: Resolver
    ) -> None:
        # Out of files, c-ares finds no resolv.conf, and would ask 127.0.0.1 as long as its channel lives.
        resolver._servers = [f"127.0.0.1:{free_port()}"]
        with pytest.raises(NameFailureError):
            await resolver.resolve(NAME)
        resolver._servers = [dns.address]
        assert await resolver.resolve(NAME) == ["127.0.0.1", "127.0.0.2"]

    @pytest.mark.usefixtures("impatient")
    async def test_a_forgotten_answer_is_the_last_resort_too(
        self, dns: DnsServer, resolver: Resolver
    ) -> None:
        good = await resolver.resolve(NAME)
        resolver.forget(NAME)
        dns.mode = "servfail"
        assert await resolver.resolve(NAME) == good

    @pytest.mark.usefixtures("impatient")
    async def test_an_answer_that_is_too_old_is_not_served(
        self, dns: DnsServer, resolver: Resolver, clock: Clock
    ) -> None:
        await resolver.resolve(NAME)
        dns.mode = "servfail"
        clock.now += STALE_SECONDS + 6
        with pytest.raises(NameFailureError):
            await resolver.resolve(NAME)

    @pytest.mark.usefixtures("impatient")
    async def test_stale_answers_end_though_they_are_served_again_and_again(
        self, dns: DnsServer, resolver: Resolver, clock: Clock
    ) -> None:
        await resolver.resolve(NAME)
        dns.mode = "servfail"
        for _ in range(12):
            clock.now += STALE_SECONDS / 10
            if clock.now > 1000 + STALE_SECONDS + 10:
                with pytest.raises(NameFailureError):
                    await resolver.resolve(NAME)
                return
            await resolver.resolve(NAME)
        pytest.fail("served for ever")

    @pytest.mark.usefixtures("impatient")
    @pytest.mark.parametrize("mode", ["servfail", "silent"])
    async def test_a_failing_server_and_nothing_known_is_a_failure(
        self, dns: DnsServer, resolver: Resolver, mode: str
    ) -> None:
        dns.mode = "servfail" if mode == "servfail" else "silent"
        with pytest.raises(NameFailureError) as caught:
            await resolver.resolve(NAME)
        assert caught.value.cause is DNS_FAILURE
        dns.mode = "answer"
        assert await resolver.resolve(NAME)  # a failure is not kept

    async def test_a_server_that_is_gone_is_a_failure(self) -> None:
        async with DnsServer({}) as dns:
            address = dns.address
        resolver = Resolver([address])
        with pytest.raises(NameFailureError):
            await resolver.resolve(NAME)
        await resolver.close()

    async def test_close_gives_up_open_questions(self, dns: DnsServer) -> None:
        dns.mode = "silent"
        resolver = Resolver([dns.address])
        waiter = asyncio.create_task(resolver.resolve(NAME))
        await eventually(lambda: dns.asked > 0)
        await resolver.close()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await eventually(lambda: "asking=0" in repr(resolver))


class TestProbes:
    @pytest.mark.parametrize("name", [NAME, "no.such.name", "empty"])
    async def test_any_answer_shows_that_dns_answers(
        self, dns: DnsServer, resolver: Resolver, name: str
    ) -> None:
        zone(dns)["empty"] = []
        assert await resolver.probe(name) == ""
        assert dns.questions == [(name, "A")]

    @pytest.mark.usefixtures("impatient")
    async def test_a_server_that_fails_does_not_answer(self, dns: DnsServer, resolver: Resolver) -> None:
        dns.mode = "servfail"
        assert "server" in (await resolver.probe(NAME)).lower()

    @pytest.mark.usefixtures("impatient")
    async def test_nor_does_a_silent_one(self, dns: DnsServer, resolver: Resolver) -> None:
        dns.mode = "silent"
        assert "timeout" in (await resolver.probe(NAME)).lower()

    async def test_nor_does_one_that_is_gone(self) -> None:
        async with DnsServer({}) as dns:
            address = dns.address
        resolver = Resolver([address])
        assert "contact" in (await resolver.probe(NAME)).lower()
        await resolver.close()

    async def test_a_probe_has_its_own_limit(
        self, dns: DnsServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resolver_module, "PROBE_SECONDS", 0.1)
        dns.mode = "silent"
        assert await resolver.probe(NAME) == "no answer within 0.1 s"

    async def test_an_answer_that_is_known_proves_nothing(
        self, dns: DnsServer, resolver: Resolver, clock: Clock
    ) -> None:
        await resolver.resolve(NAME)
        assert await resolver.probe(NAME) == ""
        dns.mode = "servfail"
        clock.now += PROBE_SECONDS
        assert await resolver.probe(NAME) != ""
        assert await resolver.resolve(NAME)  # and what is known is still served
        dns.mode = "answer"
        assert await resolver.probe(NAME) != ""  # kept
        clock.now += PROBE_SECONDS
        assert await resolver.probe(NAME) == ""

    async def test_however_many_probe_there_is_one_question(
        self, dns: DnsServer, resolver: Resolver, clock: Clock
    ) -> None:
        assert set(await asyncio.gather(*[resolver.probe(NAME) for _ in range(100)])) == {""}
        clock.now += PROBE_SECONDS - 0.01
        await resolver.probe(NAME)
        assert dns.asked == 1
        clock.now += 0.01
        await resolver.probe(NAME)
        assert dns.asked == 2

    async def test_one_who_leaves_does_not_take_the_probe_along(
        self, dns: DnsServer, resolver: Resolver
    ) -> None:
        first, second = (asyncio.create_task(resolver.probe(NAME)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == ""
        assert first.cancelled()
        assert dns.asked == 1

    async def test_close_ends_a_probe_and_its_waiters_hear_of_it(self, dns: DnsServer) -> None:
        dns.mode = "silent"
        resolver = Resolver([dns.address])
        waiter = asyncio.create_task(resolver.probe(NAME))
        await eventually(lambda: dns.asked > 0)
        await resolver.close()
        assert await waiter == "the router has stopped asking"

    async def test_a_probe_is_no_lookup(self, dns: DnsServer) -> None:
        told: list[str] = []
        resolver = Resolver([dns.address], told=lambda outcome, _: told.append(outcome))
        await resolver.probe(NAME)
        assert (resolver.questions, told) == (0, [])
        await resolver.close()


class TestReplies:
    @pytest.mark.usefixtures("impatient")
    @pytest.mark.parametrize(("mode", "reason"), [("answer", "dns_not_found"), ("servfail", "dns_failure")])
    async def test_a_name_that_does_not_resolve_is_a_502_that_names_the_sandbox(
        self, mode: str, reason: str
    ) -> None:
        async with stage() as router:
            router.dns.mode = "answer" if mode == "answer" else "servfail"
            client = await router.client()
            await client.send(request(1, name=b"ghost-7"))
            assert await client.error() == (502, "Could not connect to the backend sandbox: ghost-7", reason)
