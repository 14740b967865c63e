"""The benchmark's DNS: a name for every sandbox, in a process of its own.

``python -m bench.dns --listen 127.0.0.1:PORT``
"""

from __future__ import annotations

import argparse
import re
from typing import Final

from bench.serving import Address, parse_address, serve_until_signal
from fastrouter.demo.dns import DnsServer

NAME: Final = re.compile(r"sandbox-(\d{1,5})\.default\.svc\.cluster\.local", re.IGNORECASE)
# Long, against the 5 s of a cluster's DNS: what is measured is the steady state of the data path. With a
# short TTL a round over 1,000 sandboxes would measure 200 questions a second too, on the other core.
TTL: Final = 300
PER_BLOCK: Final = 250


def sandbox_address(number: int) -> str:
    """The loopback address of a sandbox: each has its own, all reach one process."""
    return f"127.1.{number // PER_BLOCK}.{number % PER_BLOCK + 1}"


def zone(name: str) -> list[str] | None:
    """Answer for sandbox names, and for no other."""
    found = NAME.fullmatch(name.rstrip("."))
    return [sandbox_address(int(found[1]))] if found and int(found[1]) < 256 * PER_BLOCK else None


def main(arguments: list[str] | None = None) -> None:
    """Run the DNS server until a signal."""
    parser = argparse.ArgumentParser(prog="bench.dns", description=__doc__)
    parser.add_argument("--listen", type=parse_address, required=True, metavar="HOST:PORT")
    options = parser.parse_args(arguments)
    server = DnsServer(zone, ttl=TTL, record=False)

    async def listen() -> Address:
        await server.start(*options.listen)
        return parse_address(server.address)

    serve_until_signal(listen)


if __name__ == "__main__":
    main()
