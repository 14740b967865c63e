"""``python -m fastrouter`` is ``fastrouter``."""

import sys

from fastrouter.cli import main

if __name__ == "__main__":
    sys.exit(main())
