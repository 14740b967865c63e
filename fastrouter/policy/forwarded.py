"""Who a client is when proxies stand before the router (X-Forwarded-For, TRUSTED_PROXY_CIDRS)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_trusted(address: str, networks: Sequence[Network]) -> bool:
    """Tell whether an address belongs to a trusted proxy; what is no address does not."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any((mapped or parsed) in network for network in networks)


def client_address(peer: str, chain: bytes, networks: Sequence[Network]) -> str:
    """Return the client's address: the peer, or behind trusted proxies the rightmost hop that is none.

    ``chain`` is the inbound ``X-Forwarded-For``. Each hop was added by the one right of it, so the chain
    counts from the right for as long as the hops are trusted; what a client wrote itself never does.
    """
    if not is_trusted(peer, networks):
        return peer
    hops = [hop.strip() for hop in chain.decode("latin-1").split(",") if hop.strip()]
    for hop in reversed(hops):
        if not is_trusted(hop, networks):
            return hop
    return hops[0] if hops else peer
