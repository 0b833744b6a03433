"""The bytes of a chunk list: what is accepted as one, however it is cut up."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmirror.chunks.chunklist import (
    ALGORITHMS,
    DEFAULT,
    HEADER_BYTES,
    MOST_PIECES,
    PIECE,
    ListReader,
    Shape,
    encode,
    piece_count,
    piece_span,
)
from fastmirror.oci.span import Span

algorithms = st.sampled_from(list(ALGORITHMS.values()))
sizes = st.one_of(st.integers(0, 40 * PIECE), st.sampled_from([0, 1, PIECE - 1, PIECE, PIECE + 1]))


def hashes(shape: Shape) -> list[bytes]:
    return [bytes([number % 256]) * shape.algorithm.hash_bytes for number in range(shape.pieces)]


def test_the_header_is_what_the_protocol_says() -> None:
    shape = Shape(3 * PIECE + 1)
    header = b"FMCHUNKS" + bytes([1, 1, 32, 20]) + bytes(4) + struct.pack(">Q", 3 * PIECE + 1)
    assert (shape.header(), HEADER_BYTES, shape.length) == (header, 24, 24 + 4 * 32)
    assert encode(shape, hashes(shape)) == header + b"".join(hashes(shape))
    assert [Shape(0, algorithm).header()[9:11] for algorithm in ALGORITHMS.values()] == [
        b"\1\x20",
        b"\2\x20",
        b"\3\x10",
    ]


def test_a_gigabyte_takes_32_kilobytes() -> None:
    assert Shape(1 << 30).length == 32 * 1024 + 24


def test_pieces_cover_the_content_and_the_last_may_be_short() -> None:
    size = 2 * PIECE + 5
    spans = [piece_span(index, size) for index in range(piece_count(size))]
    assert spans == [Span(0, PIECE), Span(PIECE, 2 * PIECE), Span(2 * PIECE, size)]
    assert piece_count(0) == 0


def test_contents_beyond_the_limit_have_no_list() -> None:
    assert Shape(MOST_PIECES * PIECE).fits
    huge = Shape(MOST_PIECES * PIECE + 1)
    assert not huge.fits
    assert not ListReader(huge).feed(huge.header())
    with pytest.raises(ValueError, match="no list"):
        encode(huge, hashes(huge))


@given(size=sizes, algorithm=algorithms, cuts=st.lists(st.integers(0, 2000), max_size=10))
def test_a_list_is_read_the_same_however_it_arrives(size: int, algorithm, cuts: list[int]) -> None:
    shape = Shape(size, algorithm)
    content = encode(shape, hashes(shape))
    reader = ListReader(shape)
    places = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    for start, stop in itertools.pairwise(places):
        assert not reader.whole or stop == start
        assert reader.feed(content[start:stop])
        assert reader.hashes == hashes(shape)[: max(0, stop - HEADER_BYTES) // algorithm.hash_bytes]
    assert reader.whole
    assert len(content) == shape.length


@given(size=sizes, algorithm=algorithms, extra=st.binary(min_size=1, max_size=40), at_once=st.booleans())
def test_more_than_the_list_is_refused(size: int, algorithm, extra: bytes, at_once: bool) -> None:
    shape = Shape(size, algorithm)
    reader = ListReader(shape)
    content = encode(shape, hashes(shape))
    if at_once:
        assert not reader.feed(content + extra)
    else:
        assert reader.feed(content)
        assert not reader.feed(extra)
    assert not reader.feed(b"")
    assert reader.hashes == (hashes(shape) if not at_once else [])


@given(at=st.integers(0, HEADER_BYTES - 1), flip=st.integers(1, 255), cut=st.integers(0, HEADER_BYTES))
def test_a_header_with_any_other_byte_is_refused_for_good(at: int, flip: int, cut: int) -> None:
    shape = Shape(5 * PIECE)
    content = bytearray(encode(shape, hashes(shape)))
    content[at] ^= flip
    reader = ListReader(shape)
    assert not (reader.feed(bytes(content[:cut])) and reader.feed(bytes(content[cut:])))
    assert not reader.feed(b"")
    assert (reader.whole, reader.hashes) == (False, [])


def test_a_list_of_another_size_or_algorithm_is_refused() -> None:
    reader = ListReader(Shape(PIECE))
    assert not reader.feed(encode(Shape(PIECE - 1), [bytes(32)]))
    assert not ListReader(Shape(PIECE, ALGORITHMS["sha256"])).feed(encode(Shape(PIECE), [bytes(32)]))


def test_what_is_encoded_has_to_fit() -> None:
    for wrong in ([], [bytes(31)], [bytes(32), bytes(32)]):
        with pytest.raises(ValueError, match="no list"):
            encode(Shape(PIECE), wrong)


def test_only_hashes_that_nobody_can_forge_are_safe() -> None:
    assert {name for name, algorithm in ALGORITHMS.items() if algorithm.safe} == {"blake3", "sha256"}
    assert DEFAULT.safe
