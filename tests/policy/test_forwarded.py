"""Who a client is behind proxies."""

from __future__ import annotations

import ipaddress

import pytest

from fastrouter.policy.forwarded import client_address, is_trusted

NETWORKS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("fd00::1", True),
        ("fe80::1", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_a_proxy_is_trusted_by_its_network(address: str, trusted: bool) -> None:
    assert is_trusted(address, NETWORKS) is trusted
    assert not is_trusted(address, ())


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("1.1.1.1", b"2.2.2.2", "1.1.1.1"),  # an untrusted peer may write what it likes
        ("10.0.0.1", b"2.2.2.2", "2.2.2.2"),
        ("10.0.0.1", b"9.9.9.9, 2.2.2.2", "2.2.2.2"),  # what the client wrote itself does not count
        ("10.0.0.1", b"9.9.9.9, 2.2.2.2 ,10.0.0.2", "2.2.2.2"),
        ("10.0.0.1", b"9.9.9.9,unknown", "unknown"),
        ("10.0.0.1", b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", b" , ", "10.0.0.1"),
        ("10.0.0.1", b"", "10.0.0.1"),
    ],
)
def test_the_rightmost_hop_that_is_not_trusted_is_the_client(peer: str, chain: bytes, client: str) -> None:
    assert client_address(peer, chain, NETWORKS) == client
