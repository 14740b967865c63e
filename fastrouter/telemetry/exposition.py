"""The metrics page: a snapshot in Prometheus' text format or in OpenMetrics, as the scraper likes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from fastrouter.telemetry.families import FAMILIES, PROCESS, Family
from fastrouter.telemetry.snapshot import Histogram, Labels, Snapshot

# What a scraper gets that asks for nothing in particular, or for nonsense.
_PLAIN: Final = ""


def exposition(snapshot: Snapshot, accept: str) -> tuple[str, bytes]:
    """Return content type and page for a scraper with this ``Accept`` header."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        encode, content_type = choose_encoder(_PLAIN)
    return content_type, encode(_Page(snapshot))


class _Page(Collector):
    """All families in the order of their table, their samples in the order of their labels.

    Counters carry no ``_created``: a counter that begins anew shows in its value, and the extra series double
    the page.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Return every family, those included in which nothing has happened yet."""
        for family in FAMILIES:
            if family.kind == "histogram":
                yield _histogram(family, self._snapshot.histograms.get(family.name))
                continue
            told = self._snapshot.values.get(family.name, {})
            # What the system does not tell is left out: it is not zero.
            if told or not family.name.startswith(PROCESS):
                yield _plain(family, told)


def _plain(family: Family, told: dict[Labels, float]) -> Metric:
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.stem, family.help, labels=family.labels)
    known = family.known if family.labels else [()]
    for labels, value in sorted({**dict.fromkeys(known, 0.0), **told}.items()):
        metric.add_metric(labels, value)
    return metric


def _histogram(family: Family, told: Histogram | None) -> Metric:
    """Return the buckets as Prometheus wants them: each with all that is below it."""
    told = told or Histogram([0] * (len(family.buckets) + 1))
    bounds = [*map(floatToGoString, family.buckets), "+Inf"]
    metric = HistogramMetricFamily(family.stem, family.help)
    metric.add_metric([], list(zip(bounds, accumulate(told.counts), strict=True)), told.sum)
    return metric
