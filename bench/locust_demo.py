"""`python -m bench.locust_demo`: the demo with as many sandboxes as a locust run asks for, on free ports.

`fastrouter demo` itself has five sandboxes on port 8888, and may be running already.
"""

from __future__ import annotations

import argparse
import os
import sys

from fastrouter import config, supervisor
from fastrouter.demo.run import run_demo


def main() -> int:
    """Run until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sandboxes", type=int, default=5)
    parser.add_argument("--sandbox-port", type=int, required=True, help="the port of every sandbox")
    parser.add_argument("--port", default="0", help="of the router; 0 takes a free one")
    chosen = parser.parse_args()
    effective = config.load({"port": chosen.port}, os.environ, lambda *_args, **_more: None)
    return supervisor.run(run_demo(effective, sandboxes=chosen.sandboxes, sandbox_port=chosen.sandbox_port))


if __name__ == "__main__":
    sys.exit(main())
