"""Counters, gauges and histograms with closed label sets, cheap enough for the path of a request.

All series of a metric exist from the start, so that a rate over the first event is right. A label value outside the
declared set is a bug: KeyError. Everything is written from the loop's thread.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final, Generic, Literal, TypeVar

LabelValues = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds, from a local answer to the transfer of a large layer."""


class Cell:
    """One series of a counter or gauge. Keep it at hand where it is counted often."""

    __slots__ = ("_read", "value")

    def __init__(self) -> None:
        self.value: float = 0
        self._read: Callable[[], float] | None = None

    def inc(self, by: float = 1) -> None:
        """Add to the value; gauges may go down again with a negative ``by``."""
        self.value += by

    def set(self, value: float) -> None:
        """Replace the value of a gauge."""
        self.value = value

    def follow(self, read: Callable[[], float]) -> None:
        """From now on show what ``read()`` gives at each scrape: for what is counted elsewhere."""
        self._read = read

    def current(self) -> float:
        """The value as a scrape shows it."""
        return self.value if self._read is None else self._read()


class Distribution:
    """One series of a histogram: observations per bucket (not cumulated), the last one without an upper bound."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


Series = TypeVar("Series", bound=Cell | Distribution)


class Family(Generic[Series]):
    """One metric: its name, meaning and series. ``labels`` maps each label's name to all the values it can have."""

    def __init__(
        self, kind: Kind, name: str, help: str, make: Callable[[], Series], labels: dict[str, LabelValues]
    ) -> None:
        self.kind = kind
        self.name = "fastmirror_" + name
        self.help = help
        self.labels = labels
        self._series: dict[LabelValues, Series] = {values: make() for values in itertools.product(*labels.values())}

    def at(self, *values: str) -> Series:
        """The series with these label values, in the order of ``labels``."""
        return self._series[values]

    def __iter__(self) -> Iterator[tuple[LabelValues, Series]]:
        return iter(self._series.items())
