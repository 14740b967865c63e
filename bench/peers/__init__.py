"""The programs that fastrouter is measured against, each set up as its users would, and as fast as we can.

All of them route by the same headers, use the same DNS server, keep connections on both sides where they can,
stream in both directions, write one access log line a request to stdout, and run on one core.
"""

from bench.peers.catalog import PEERS, Peer, Place

__all__ = ["PEERS", "Peer", "Place"]
