"""The rules: plain values."""

from __future__ import annotations

from fastrouter.policy.rules import Rules


def test_the_defaults_add_nothing_and_trust_nobody() -> None:
    rules = Rules()
    assert not any([rules.trusts_proxies, rules.honour_pod_ip, rules.request_ids, rules.traces])
    assert (rules.credentials, rules.longest_body, rules.scheme) == (b"", 0, b"http")
    assert rules.drops == {b"authorization"}
