"""Whom to be connected to: everybody up to the degree, above it a ring and some others at random. Pure functions."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable
from typing import Final

LEAST_DEGREE: Final = 4
SLACK: Final = 8
"""Connections beyond the degree that are accepted for the moment: whoever joins knows nobody else yet."""


def complete(degree: int, others: int) -> bool:
    """Whether everybody is connected to everybody with this many other nodes."""
    return others <= degree


def successor(me: bytes, others: Iterable[bytes]) -> bytes | None:
    """The next one on the ring of all ids."""
    ring = sorted(others)
    return ring[bisect_right(ring, me) % len(ring)] if ring else None


def predecessor(me: bytes, others: Iterable[bytes]) -> bytes | None:
    """The one before on the ring of all ids."""
    ring = sorted(others)
    return ring[bisect_right(ring, me) - 1] if ring else None


def chosen(me: bytes, others: Collection[bytes], full: Collection[bytes], degree: int) -> set[bytes]:
    """Whom this node connects to.

    Above the degree: its successor, so that there is one ring of all, and for the rest of half the degree those that
    a hash of both ids puts first; they choose as many, which makes the degree on average. Few choices change when a
    node comes or goes. Who is ``full`` is passed over.
    """
    if complete(degree, len(others)):
        return set(others)
    picked = {successor(me, others)} - {None}
    ranked = sorted((other for other in others if other not in full), key=lambda other: _lot(me, other))
    for other in ranked:
        if len(picked) >= max(2, degree // 2):
            break
        picked.add(other)
    return {other for other in picked if other is not None}


def _lot(me: bytes, other: bytes) -> bytes:
    return hashlib.blake2b(me + other, digest_size=8).digest()
