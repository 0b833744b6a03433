"""Lists of piece hashes, as they go over the wire. Pure.

Format   24 bytes of header, then the hash of each piece in order and nothing else, so that the length of all of it is
         known when the size of the content is:

         =====  =====  ====================================================
         at     bytes  what
         =====  =====  ====================================================
         0      8      ``FMCHUNKS``
         8      1      version: 1
         9      1      algorithm: 1 blake3, 2 sha256, 3 xxh3-128
         10     1      bytes of one hash: 32, 32, 16
         11     1      binary logarithm of the piece size: 20
         12     4      zero
         16     8      size of the content in bytes, big-endian
         =====  =====  ====================================================

The last piece is as long as what is left; an empty content has no piece.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from fastmirror.oci.span import Span

PIECE_BITS: Final = 20
PIECE: Final = 1 << PIECE_BITS
"""Bytes of a piece; the last one may be shorter."""
MOST_PIECES: Final = 1 << 16
"""Larger contents (64 GiB) have no list."""
VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sBBBBIQ")
HEADER_BYTES: Final = _HEADER.size
_MAGIC: Final = b"FMCHUNKS"


class Algorithm(NamedTuple):
    """How pieces are hashed: its name in requests and settings, its number in lists, and the bytes of a hash.

    ``safe`` if nobody can make two pieces with one hash; else it only finds accidents.
    """

    name: str
    number: int
    hash_bytes: int
    safe: bool


ALGORITHMS: Final = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("blake3", 1, 32, True),
        Algorithm("sha256", 2, 32, True),
        Algorithm("xxh3-128", 3, 16, False),
    )
}
DEFAULT: Final = ALGORITHMS["blake3"]


def piece_count(size: int) -> int:
    """How many pieces a content of ``size`` bytes has."""
    return (size + PIECE - 1) >> PIECE_BITS


def piece_span(index: int, size: int) -> Span:
    """The bytes of a piece of a content of ``size`` bytes."""
    start = index << PIECE_BITS
    return Span(start, min(start + PIECE, size))


class Shape(NamedTuple):
    """All that is known of a list before its first hash: which content's size, which algorithm."""

    size: int
    algorithm: Algorithm = DEFAULT

    @property
    def pieces(self) -> int:
        """Hashes in the list."""
        return piece_count(self.size)

    @property
    def fits(self) -> bool:
        """Whether a content of this size has a list at all."""
        return 0 <= self.pieces <= MOST_PIECES

    @property
    def length(self) -> int:
        """Bytes of the whole list."""
        return HEADER_BYTES + self.pieces * self.algorithm.hash_bytes

    def header(self) -> bytes:
        """The first bytes of the list."""
        algorithm = self.algorithm
        return _HEADER.pack(_MAGIC, VERSION, algorithm.number, algorithm.hash_bytes, PIECE_BITS, 0, self.size)


class ListReader:
    """Takes a list apart while it arrives. ``hashes`` has those that are there, from piece 0 on; it only grows.

    Only the list of exactly that shape is accepted; its own header has no say in how much is read.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.hashes: list[bytes] = []
        self._header = shape.header()
        self._rest = b""
        self._taken = 0
        self._begun = False
        self._good = shape.fits

    @property
    def whole(self) -> bool:
        """Whether every hash is there."""
        return self._begun and len(self.hashes) == self.shape.pieces

    def feed(self, data: bytes) -> bool:
        """Take the next bytes. False, for good, if this is no such list or more than one."""
        self._taken += len(data)
        self._good = self._good and self._taken <= self.shape.length
        self._rest += data if self._good else b""
        if not self._begun:
            self._good = self._good and self._header.startswith(self._rest[:HEADER_BYTES])
            if not self._good or len(self._rest) < HEADER_BYTES:
                return self._good
            self._begun = True
            self._rest = self._rest[HEADER_BYTES:]
        step = self.shape.algorithm.hash_bytes
        ready = len(self._rest) - len(self._rest) % step
        self.hashes += [self._rest[at : at + step] for at in range(0, ready, step)]
        self._rest = self._rest[ready:]
        return self._good


def encode(shape: Shape, hashes: list[bytes]) -> bytes:
    """A whole list. Raises ValueError if these are not the hashes of such a content."""
    step = shape.algorithm.hash_bytes
    if not shape.fits or len(hashes) != shape.pieces or any(len(each) != step for each in hashes):
        raise ValueError(f"{len(hashes)} hashes are no list of {shape.pieces} pieces with {step} bytes each")
    return shape.header() + b"".join(hashes)
