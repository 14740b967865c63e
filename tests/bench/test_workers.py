"""One worker and two: what is computed, and a short run for real."""

from __future__ import annotations

import os
import re
import time

import pytest

from bench import workers
from bench.workers import Measure


def test_two_workers_that_share_evenly_are_worth_two() -> None:
    one = Measure(1, rate=10_000, cpu=(2.0,), parent_cpu=0.0, seconds=2.0)
    two = Measure(2, rate=11_000, cpu=(1.1, 1.1), parent_cpu=0.02, seconds=2.0)
    assert one.cost == pytest.approx(100.0)
    assert one.capacity == pytest.approx(10_000)
    assert two.capacity == pytest.approx(20_000)  # the rate does not count: the machine was shared


def test_the_busiest_one_is_full_first() -> None:
    two = Measure(2, rate=10_000, cpu=(1.5, 0.5), parent_cpu=0.0, seconds=2.0)
    assert two.busiest == 0.75
    assert two.capacity == pytest.approx(10_000 / 0.75)
    assert str(two) == (
        "2 workers: 10,000 req/s, 100.0 us of CPU a request, busiest worker 75%, "
        "parent 0.0% of a core, capacity 13,333 req/s"
    )


def test_cpu_time_is_that_of_the_process_itself() -> None:
    before = workers.cpu_seconds(os.getpid())
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert 0.05 <= workers.cpu_seconds(os.getpid()) - before < 1.0


def test_a_short_run_tells_both_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    assert workers.main(["--seconds", "0.3", "--rounds", "1"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"\n1 worker: .*busiest worker 100%", told)
    assert re.search(r"\n2 workers: ", told)
    assert re.search(r"measured: \d\.\d\d times one worker\ncounted out: \d\.\d\d times", told)
