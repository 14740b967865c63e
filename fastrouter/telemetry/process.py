"""What the system says of this process, by the names that every Prometheus client uses."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastrouter.telemetry.snapshot import Snapshot


def tell_process(snapshot: Snapshot) -> None:
    """Put processor time, memory and open files of this process into its snapshot.

    Each process tells its own, and ``merged`` adds them up: a label with the pid would leave a series behind
    for every worker that ever ran. Without /proc, as on macOS, what only /proc knows is left out.
    """
    values = snapshot.values
    values["process_cpu_seconds"] = {(): time.process_time()}
    values["process_start_time_seconds"] = {(): snapshot.started}
    values["process_max_fds"] = {(): float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])}
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        files = _open_files()
    except OSError:
        return
    values["process_resident_memory_bytes"] = {(): float(pages * resource.getpagesize())}
    values["process_open_fds"] = {(): float(files)}


def _open_files() -> int:
    # Linux tells the number as the folder's size since 6.2. To list 20,000 entries stops the loop for 10 ms.
    folder = Path("/proc/self/fd")
    return folder.stat().st_size or len([*folder.iterdir()]) - 1  # less the one that reads the folder
