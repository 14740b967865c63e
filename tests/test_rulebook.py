"""The rules that follow from the settings."""

from __future__ import annotations

from fastrouter.policy.rules import Rules
from fastrouter.rulebook import rules_of
from fastrouter.settings import Settings


def test_the_defaults_are_those_of_an_unconfigured_router() -> None:
    assert rules_of(Settings(request_id=False))._replace(targets=None) == Rules()
    assert rules_of(Settings())._replace(targets=None) == Rules(request_ids=True)


def test_no_two_routers_share_targets() -> None:
    # What a target holds belongs to one pool.
    assert rules_of(Settings()).targets is not rules_of(Settings()).targets


def test_the_pod_address_counts_where_authorization_is_decided() -> None:
    assert rules_of(Settings(auth_token="t")).honour_pod_ip
    assert rules_of(Settings(allow_unauthenticated=True)).honour_pod_ip
    assert not rules_of(Settings()).honour_pod_ip


def test_credentials_for_the_router_stop_at_the_router() -> None:
    assert rules_of(Settings(auth_token="t")).drops == {b"authorization"}
    assert rules_of(Settings(auth_token="t", forward_authorization=True)).drops == {b"authorization"}
    moved = rules_of(Settings(auth_token="t", auth_header="X-Router-Authorization"))
    assert (moved.credentials, moved.drops) == (
        b"x-router-authorization",
        frozenset({b"x-router-authorization"}),
    )


def test_authorization_goes_on_only_where_it_is_asked_for() -> None:
    assert rules_of(Settings()).drops == {b"authorization"}
    assert rules_of(Settings(forward_authorization=True)).drops == frozenset()


def test_h2c_is_never_among_the_upgrades() -> None:
    assert rules_of(Settings(upgrade_protocols=("h2c", "websocket", "echo"))).upgrades == {
        b"websocket",
        b"echo",
    }
