"""Half-open byte ranges inside a blob of known size. Source: RFC 9110 section 14."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fastmirror.errors import RangeNotSatisfiable

# At most 40 digits a number: int() is quadratic in digits and refuses more than 4300 of them.
_RANGE: Final = re.compile(rb"bytes=(?:([0-9]{1,40})-([0-9]{1,40})?|-([0-9]{1,40}))", re.ASCII)


class Span(NamedTuple):
    """Bytes ``[start, stop)``."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def content_range(self, size: int) -> str:
        """The value of ``Content-Range`` for this span of a blob of ``size`` bytes."""
        return f"bytes {self.start}-{self.stop - 1}/{size}"


def parse_range(value: bytes, size: int) -> Span | None:
    """What a ``Range`` header selects from a blob of ``size`` bytes.

    Returns   the span, or None where the header is to be ignored (empty, no ``=``, another unit than bytes).
    Raises    RangeNotSatisfiable for a span outside the blob, and for what is malformed or has several ranges
              (RFC 9110 lets a server refuse those; a 206 that means something else than was asked corrupts a pull).
    """
    if not value or b"=" not in value or not value.lower().startswith(b"bytes="):
        return None
    match = _RANGE.fullmatch(b"bytes=" + value[6:])
    if match is None:
        raise RangeNotSatisfiable(size)
    first, last, suffix = match.groups()
    if suffix is not None:
        start, stop = max(0, size - int(suffix)), size
    else:
        start = int(first)
        stop = size if last is None else min(int(last) + 1, size)
    if start >= stop:
        raise RangeNotSatisfiable(size)
    return Span(start, stop)


def span_for(range_value: bytes | None, if_range: bytes | None, etag: bytes, size: int) -> Span | None:
    """The span to answer with 206, or None for the whole blob with 200.

    ``if_range`` counts only as a strong ETag equal to ``etag`` (RFC 9110 section 13.1.5).
    Raises RangeNotSatisfiable.
    """
    if range_value is None or (if_range is not None and if_range != etag):
        return None
    return parse_range(range_value, size)
