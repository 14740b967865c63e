"""Routing headers -> Target."""

from __future__ import annotations

import re

import pytest

from fastrouter.errors import (
    DUPLICATE_HEADER,
    INVALID_NAMESPACE,
    INVALID_PORT,
    INVALID_SANDBOX_ID,
    INVALID_TARGET_IP,
    INVALID_TARGET_IP_FORMAT,
    MISSING_SANDBOX_ID,
    Cause,
    RouterError,
)
from fastrouter.policy.target import (
    ROUTING_HEADERS,
    PoolKey,
    Target,
    Targets,
    pod_address,
    resolve_target,
    timeout_of,
)
from fastrouter.wire.fields import Fields

Pairs = dict[str, str] | list[tuple[str, str]]


def fields_of(pairs: Pairs) -> Fields:
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return tuple(
        (name.lower().encode("ascii"), name.encode("ascii"), value.encode("latin-1")) for name, value in items
    )


def target(pairs: Pairs, cluster_domain: str = "cluster.local", *, honour_pod_ip: bool = False) -> Target:
    return resolve_target(fields_of(pairs), cluster_domain, honour_pod_ip=honour_pod_ip)


def fault(pairs: Pairs) -> RouterError:
    with pytest.raises(RouterError) as caught:
        target(pairs)
    return caught.value


def test_an_id_alone_goes_to_the_default_namespace_and_port() -> None:
    found = target({"X-Sandbox-ID": "box"})
    assert found == Target(PoolKey("box", "default", 8888), "box.default.svc.cluster.local")
    assert found.port == 8888
    assert found.authority == b"box.default.svc.cluster.local:8888"


def test_all_three_headers_and_the_cluster_domain_make_the_name() -> None:
    pairs = {"x-sandbox-id": "a-1", "X-SANDBOX-NAMESPACE": "team-b", "X-Sandbox-Port": "3000"}
    found = target(pairs, cluster_domain="prod.example")
    assert found.host == "a-1.team-b.svc.prod.example"
    assert found.authority == b"a-1.team-b.svc.prod.example:3000"
    assert found.key == PoolKey("a-1", "team-b", 3000)


class TestTargets:
    def test_equal_targets_are_one_object_and_others_are_not(self) -> None:
        targets = Targets()
        first = targets.one(target({"X-Sandbox-ID": "box"}))
        assert targets.one(target({"x-sandbox-id": "box", "X-Sandbox-Port": "8888"})) is first
        assert targets.one(target({"X-Sandbox-ID": "box", "X-Sandbox-Port": "8889"})) is not first
        assert Targets().one(target({"X-Sandbox-ID": "box"})) is not first

    def test_what_nobody_holds_is_forgotten(self) -> None:
        targets = Targets()
        held = targets.one(target({"X-Sandbox-ID": "held"}))
        for number in range(1000):
            targets.one(target({"X-Sandbox-ID": f"box-{number}"}))
        assert repr(targets) == "<Targets 1>"
        assert targets.one(target({"X-Sandbox-ID": "held"})) is held


LABELS = ["a", "0", "a-b", "a--b", "1-2", "a" * 63]
NO_LABELS = ["-a", "a-", "-", "A", "a.b", "a_b", "a b", "a/b", "a:b", "a\t", "é", "a" * 64, "*", "a@b", "a\n"]


@pytest.mark.parametrize("label", LABELS)
def test_a_label_names_a_sandbox_and_a_namespace(label: str) -> None:
    found = target({"X-Sandbox-ID": label, "X-Sandbox-Namespace": label})
    assert found.host == f"{label}.{label}.svc.cluster.local"


@pytest.mark.parametrize("value", NO_LABELS)
def test_what_is_no_label_names_nothing(value: str) -> None:
    assert fault({"X-Sandbox-ID": value}).cause is INVALID_SANDBOX_ID
    assert fault({"X-Sandbox-ID": "box", "X-Sandbox-Namespace": value}).cause is INVALID_NAMESPACE


@pytest.mark.parametrize("pairs", [{}, {"X-Sandbox-ID": ""}, {"X-Sandbox-Namespace": "a"}])
def test_an_absent_or_empty_id_is_missing(pairs: dict[str, str]) -> None:
    assert fault(pairs).cause is MISSING_SANDBOX_ID


def test_an_empty_namespace_is_malformed_not_absent() -> None:
    assert fault({"X-Sandbox-ID": "box", "X-Sandbox-Namespace": ""}).cause is INVALID_NAMESPACE


@pytest.mark.parametrize(
    ("value", "port"), [("1", 1), ("80", 80), ("65535", 65535), ("0080", 80), ("0" * 20 + "1", 1)]
)
def test_a_port_is_ascii_digits(value: str, port: int) -> None:
    assert target({"X-Sandbox-ID": "box", "X-Sandbox-Port": value}).port == port


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        "00",
        "65536",
        "99999",
        "100000",
        "+80",
        "-80",
        " 80",
        "80 ",
        "8_0",
        "8.0",
        "0x50",
        "http",
        "²",
        "8\n",
    ],
)
def test_anything_else_is_no_port(value: str) -> None:
    assert fault({"X-Sandbox-ID": "box", "X-Sandbox-Port": value}).cause is INVALID_PORT


@pytest.mark.parametrize("name", ROUTING_HEADERS.values())
def test_two_values_of_a_routing_header_are_refused_by_its_name(name: str) -> None:
    error = fault([("X-Sandbox-ID", "box"), (name, "1"), (name.lower(), "2")])
    assert error.cause is DUPLICATE_HEADER
    assert error.detail("") == f"Duplicate {name} header."


def test_one_value_said_twice_is_one() -> None:
    pairs = [
        ("X-Sandbox-ID", "box"),
        ("x-sandbox-id", "box"),
        ("X-Sandbox-Port", "80"),
        ("X-Sandbox-Port", "80"),
    ]
    assert target(pairs).key == PoolKey("box", "default", 80)


@pytest.mark.parametrize(
    ("pairs", "cause"),
    [
        ([("X-Sandbox-Port", "1"), ("X-Sandbox-Port", "2")], DUPLICATE_HEADER),
        ([("X-Sandbox-Namespace", "!"), ("X-Sandbox-Port", "!")], MISSING_SANDBOX_ID),
        ([("X-Sandbox-ID", "!"), ("X-Sandbox-Namespace", "!")], INVALID_SANDBOX_ID),
        ([("X-Sandbox-ID", "a"), ("X-Sandbox-Namespace", "!"), ("X-Sandbox-Port", "!")], INVALID_NAMESPACE),
    ],
)
def test_the_first_fault_in_the_order_of_the_contract_is_told(
    pairs: list[tuple[str, str]], cause: Cause
) -> None:
    assert fault(pairs).cause is cause


def test_keys_differ_by_id_namespace_and_port_and_by_nothing_else() -> None:
    box = {"X-Sandbox-ID": "box"}
    keys = {
        target(pairs).key
        for pairs in (
            box,
            {**box, "X-Other": "1"},
            {**box, "X-Sandbox-Namespace": "default", "X-Sandbox-Port": "08888"},
            {**box, "X-Sandbox-Port": "80"},
            {**box, "X-Sandbox-Namespace": "other"},
            {"X-Sandbox-ID": "bo"},
        )
    }
    assert len(keys) == 4


ADDRESSES = [
    ("10.1.2.3", "10.1.2.3", b"10.1.2.3:8888"),
    ("255.255.255.254", "255.255.255.254", b"255.255.255.254:8888"),
    ("fd00::1", "fd00::1", b"[fd00::1]:8888"),
    ("[fd00::1]", "fd00::1", b"[fd00::1]:8888"),
    ("FD00:0:0:0:0:0:0:1", "fd00::1", b"[fd00::1]:8888"),
    ("64:ff9b::a01:203", "64:ff9b::a01:203", b"[64:ff9b::a01:203]:8888"),
]


@pytest.mark.parametrize(("value", "host", "authority"), ADDRESSES)
def test_an_address_is_dialled_in_its_plain_form_and_is_the_host(
    value: str, host: str, authority: bytes
) -> None:
    found = target({"X-Sandbox-ID": "box", "X-Sandbox-Pod-IP": value}, honour_pod_ip=True)
    assert (found.host, found.authority) == (host, authority)
    assert found.key == PoolKey("box", "default", 8888, host)


@pytest.mark.parametrize("value", ["10.1.2.3", "127.0.0.1", "nonsense", ""])
def test_an_address_that_is_not_honoured_plays_no_part(value: str) -> None:
    assert target({"X-Sandbox-ID": "box", "X-Sandbox-Pod-IP": value}) == target({"X-Sandbox-ID": "box"})


def test_without_an_address_the_name_is_dialled() -> None:
    assert target({"X-Sandbox-ID": "box"}, honour_pod_ip=True) == target({"X-Sandbox-ID": "box"})


def test_an_address_keeps_the_keys_of_sandboxes_apart() -> None:
    pod = ("X-Sandbox-Pod-IP", "10.1.2.3")
    keys = {target([("X-Sandbox-ID", name), pod], honour_pod_ip=True).key for name in ("one", "two")}
    assert len(keys) == 2


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"box",
        b"10.1.2",
        b"10.1.2.256",
        b"010.1.2.3",
        b"10.1.2.3:80",
        b"10.1.2.3/32",
        b"167838211",
        b"[10.1.2.3]",
        b"[fd00::1",
        b"fd00::1]",
        b"[]",
        b"fd00::1::2",
        b"fd00::1%eth0",
        b"[fe80::1%1]",
        b"10.1.2.\xb3",
    ],
)
def test_what_is_no_address_is_malformed(value: bytes) -> None:
    with pytest.raises(RouterError) as refused:
        pod_address(value)
    assert refused.value.cause is INVALID_TARGET_IP_FORMAT


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.0.9", "169.254.169.254", "224.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    "form", ["{}", "::ffff:{}", "[::ffff:{}]", "::{}", "::ffff:0:{}", "64:ff9b::{}", "64:ff9b:1::{}"]
)
def test_an_address_of_a_forbidden_class_is_refused_in_every_form(address: str, form: str) -> None:
    with pytest.raises(RouterError) as refused:
        pod_address(form.format(address).encode("ascii"))
    assert refused.value.cause is INVALID_TARGET_IP


@pytest.mark.parametrize("value", [b"::1", b"::", b"fe80::1", b"febf::1", b"ff02::1", b"0:0:0:0:0:0:0:1"])
def test_an_ipv6_address_of_a_forbidden_class_is_refused(value: bytes) -> None:
    with pytest.raises(RouterError) as refused:
        pod_address(value)
    assert refused.value.cause is INVALID_TARGET_IP


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("59.999", 59.999), ("5.", 5.0), (".5", 0.5), ("007", 7.0), ("180", 180.0), ("180.1", 180.0)],
)
def test_a_timeout_is_decimal_seconds_up_to_the_longest(value: str, seconds: float) -> None:
    assert timeout_of(fields_of({"X-Sandbox-Timeout": value}), 180.0) == seconds


def test_an_absent_timeout_is_none() -> None:
    assert timeout_of((), 180.0) is None


@pytest.mark.parametrize(
    "value", ["", "0", "0.0", "-1", "+1", "1e3", "inf", "nan", "1_0", " 1", ".", "\xb2", "9" * 400]
)
def test_what_is_no_time_is_told(value: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(value)}$"):
        timeout_of(fields_of({"X-Sandbox-Timeout": value}), 180.0)
