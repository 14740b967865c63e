"""Routing headers -> Target."""

from __future__ import annotations

import pytest

from fastrouter.errors import (
    DUPLICATE_HEADER,
    INVALID_NAMESPACE,
    INVALID_PORT,
    INVALID_SANDBOX_ID,
    MISSING_SANDBOX_ID,
    Cause,
    RouterError,
)
from fastrouter.policy.target import ROUTING_HEADERS, PoolKey, Target, resolve_target

Pairs = dict[str, str] | list[tuple[str, str]]


def target(pairs: Pairs, cluster_domain: str = "cluster.local") -> Target:
    items = pairs.items() if isinstance(pairs, dict) else pairs
    fields = tuple(
        (name.lower().encode("ascii"), name.encode("ascii"), value.encode("latin-1")) for name, value in items
    )
    return resolve_target(fields, cluster_domain)


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
