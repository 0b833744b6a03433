"""Sets of bytes as sorted, disjoint, half-open spans. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from fastmirror.oci.span import Span


class SpanSet:
    """Bytes of one content. Iterating gives the spans in order; neighbours are always merged."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, *spans: Span) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for span in spans:
            self.add(span)

    def __iter__(self) -> Iterator[Span]:
        return map(Span, self._starts, self._stops)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpanSet) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def count(self) -> int:
        """How many bytes are in the set."""
        return sum(self._stops) - sum(self._starts)

    def add(self, span: Span) -> None:
        """Put bytes in; those that are in already do no harm. An empty span changes nothing."""
        start, stop = span
        if start >= stop:
            return
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def remove(self, span: Span) -> None:
        """Take bytes out; those that are not in do no harm."""
        start, stop = span
        if start >= stop:
            return
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last:
            return
        starts, stops = [], []
        if self._starts[first] < start:
            starts.append(self._starts[first])
            stops.append(start)
        if self._stops[last - 1] > stop:
            starts.append(stop)
            stops.append(self._stops[last - 1])
        self._starts[first:last] = starts
        self._stops[first:last] = stops

    def first(self) -> Span | None:
        """The span that begins first, or None if the set is empty."""
        return Span(self._starts[0], self._stops[0]) if self._starts else None

    def reach(self, position: int) -> int:
        """How far the bytes from ``position`` on are in without a gap; ``position`` itself if the next one is not."""
        at = bisect_right(self._starts, position) - 1
        return max(position, self._stops[at]) if at >= 0 else position
