"""Ranges against an oracle that was written from RFC 9110 section 14 alone."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from fastmirror.errors import RangeNotSatisfiable
from fastmirror.oci.span import Span, parse_range, span_for

SIZES = st.integers(min_value=0, max_value=1 << 40)
NUMBERS = st.one_of(st.integers(0, 3000), st.integers(0, 1 << 66))
DIGITS = "0123456789"


def oracle(value: str, size: int) -> tuple[int, int] | str:
    """``ignored``, ``416``, or the first byte and the one behind the last."""
    unit, equals, ranges = value.partition("=")
    if not equals or unit.lower() != "bytes":
        return "ignored"
    first, dash, last = ranges.partition("-")
    if not dash or any(char not in DIGITS for char in first + last) or not first + last:
        return "416"
    if max(len(first), len(last)) > 40:
        return "416"
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
    return (start, stop) if 0 <= start < stop <= size else "416"


def ours(value: str, size: int) -> tuple[int, int] | str:
    try:
        span = parse_range(value.encode("latin-1"), size)
    except RangeNotSatisfiable as error:
        return "416" if error.size == size else "416 with another size"
    return "ignored" if span is None else (span.start, span.stop)


@given(NUMBERS, NUMBERS, SIZES)
@example(0, 0, 1)
@example(2047, 2047, 2048)
@example(2048, 2048, 2048)
def test_first_and_last(first: int, last: int, size: int) -> None:
    assert ours(f"bytes={first}-{last}", size) == oracle(f"bytes={first}-{last}", size)


@given(NUMBERS, SIZES)
def test_open_ended_and_suffix(number: int, size: int) -> None:
    for value in (f"bytes={number}-", f"bytes=-{number}", f"Bytes={number}-", f"bytes={number:050d}-"):
        assert ours(value, size) == oracle(value, size)


@given(st.text(alphabet=st.sampled_from("0123456789-=,bytes BYTES\t+_.xxe\xb2\xd9"), max_size=30), SIZES)
@example("bytes=\xd9\xa1-", 100)
@example("bytes=1_0-2_0", 100)
@example("bytes=+0-5", 100)
@example("bytes=--5", 100)
@example("bytes=", 100)
@example("", 100)
def test_anything_that_looks_like_a_range(value: str, size: int) -> None:
    assert ours(value, size) == oracle(value, size)


@given(st.binary(max_size=200), SIZES)
def test_any_bytes_give_a_span_inside_the_blob_or_nothing(value: bytes, size: int) -> None:
    try:
        span = parse_range(value, size)
    except RangeNotSatisfiable:
        return
    assert span is None or 0 <= span.start < span.stop <= size


@given(st.integers(1, 5000), st.integers(1, 1 << 40))
def test_numbers_of_any_length_are_refused_and_not_computed(digits: int, size: int) -> None:
    assert ours("bytes=" + "9" * digits + "-", size) in ("416", oracle("bytes=" + "9" * digits + "-", size))


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(0, 1000))
def test_content_range_says_what_the_span_is(start: int, length: int, more: int) -> None:
    span = Span(start, start + length)
    text = span.content_range(start + length + more)
    unit, _, rest = text.partition(" ")
    first, _, last = rest.partition("/")[0].partition("-")
    assert (unit, int(first), int(last) + 1) == ("bytes", span.start, span.stop)
    assert int(rest.partition("/")[2]) == start + length + more
    assert len(span) == length


@given(st.binary(max_size=40), st.one_of(st.none(), st.binary(max_size=40)), st.binary(min_size=1, max_size=20))
def test_a_range_counts_only_without_if_range_or_with_our_own_strong_etag(
    value: bytes, if_range: bytes | None, etag: bytes
) -> None:
    def outcome(*arguments: bytes | None) -> object:
        try:
            return span_for(arguments[0], arguments[1], etag, 1000)
        except RangeNotSatisfiable:
            return "416"

    assert outcome(None, if_range) is None
    assert outcome(value, etag) == outcome(value, None)
    if if_range is not None and if_range != etag:
        assert outcome(value, if_range) is None
