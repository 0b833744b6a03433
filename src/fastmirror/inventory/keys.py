"""Fingerprints of what a node has: 64 bits for each digest and each tag, in sorted sets with a hash of the whole."""

from __future__ import annotations

import hashlib
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final, Self

from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference

KEY_BYTES: Final = 8
_SWAP: Final = sys.byteorder == "big"


def fingerprint(key: Digest | Reference) -> int:
    """The first 8 bytes of the digest's value, or of the SHA-256 of ``registry/repository:tag``, as a number."""
    if isinstance(key, Digest):
        return int(key[7:23], 16)
    return int.from_bytes(hashlib.sha256(str(key).encode("ascii")).digest()[:KEY_BYTES], "big")


def pack(keys: Iterable[int]) -> bytes:
    """Fingerprints as they travel: 8 bytes each, little-endian, in the order given."""
    packed = array("Q", keys)
    if _SWAP:
        packed.byteswap()
    return packed.tobytes()


def unpack(data: bytes | memoryview) -> array[int]:
    """The fingerprints of packed ones. Raises ValueError for a length that is not a multiple of 8."""
    keys = array("Q")
    keys.frombytes(data)
    if _SWAP:
        keys.byteswap()
    return keys


class KeySet:
    """A sorted set. It never changes: :meth:`changed` gives another one."""

    __slots__ = ("_keys", "root")

    def __init__(self, keys: Iterable[int] = ()) -> None:
        self._set(array("Q", sorted(set(keys))))

    @classmethod
    def _of(cls, ordered: array[int]) -> Self:
        made = cls.__new__(cls)
        made._set(ordered)
        return made

    def _set(self, ordered: array[int]) -> None:
        self._keys = ordered
        self.root = hashlib.sha256(self.packed()).digest()
        """SHA-256 of the packed keys: two sets are equal if their roots are."""

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Self | None:
        """The set that was packed; None if the keys are not in ascending order without repetition."""
        keys = unpack(data)
        previous = -1
        for key in keys:
            if key <= previous:
                return None
            previous = key
        return cls._of(keys)

    def packed(self) -> bytes:
        """All keys in ascending order, as they travel."""
        return pack(self._keys)

    def changed(self, add: Iterable[int], drop: Iterable[int]) -> Self:
        """This set with some keys more and some less; those already there or already missing are passed over."""
        keys = self._keys[:]
        for key in drop:
            at = bisect_left(keys, key)
            if at < len(keys) and keys[at] == key:
                del keys[at]
        for key in add:
            at = bisect_left(keys, key)
            if at == len(keys) or keys[at] != key:
                keys.insert(at, key)
        return self._of(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: int) -> bool:
        at = bisect_left(self._keys, key)
        return at < len(self._keys) and self._keys[at] == key

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySet) and self._keys == other._keys

    __hash__ = None  # type: ignore[assignment]  # sets are compared, never looked up
