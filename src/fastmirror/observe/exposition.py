"""Metrics as text for Prometheus, in slices short enough for the loop.

prometheus-client is imported when the first scrape comes: it loads an HTTP client, an HTTP server and mail parsers
(about 4 MiB and 20 ms), which a node that nobody scrapes need not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from fastmirror.observe.instruments import BUCKETS, Cell, Distribution, Family

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Source: Prometheus, "Exposition formats", text format 0.0.4."""

_BOUNDS: Final = (*(str(bound) for bound in BUCKETS), "+Inf")


class _One:
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def render(families: Iterable[Family[Any]]) -> Iterator[bytes]:
    """The text of one metric after the other, ours first, then the process's (``process_*``). The loop may do other
    work between two slices.
    """
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    for family in families:
        yield generate_latest(_One(_convert(family)))
    for metric in ProcessCollector(registry=CollectorRegistry()).collect():
        yield generate_latest(_One(metric))


def _convert(family: Family[Any]) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=list(family.labels))
        for values, series in family:
            histogram.add_metric(values, list(_cumulated(series)), series.total)
        return histogram
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric: CounterMetricFamily | GaugeMetricFamily = make(family.name, family.help, labels=list(family.labels))
    for values, series in family:
        metric.add_metric(values, _current(series))
    return metric


def _current(cell: Cell) -> float:
    return cell.current()


def _cumulated(series: Distribution) -> Iterator[tuple[str, float]]:
    so_far = 0
    for bound, count in zip(_BOUNDS, series.counts, strict=True):
        so_far += count
        yield bound, so_far
