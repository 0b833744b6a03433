"""Which connections are taken, and which of them goes when there are too many. Pure; the numbers come in."""

from __future__ import annotations

from collections import Counter
from typing import Final

SLOW_RATE: Final = 16 * 1024
"""Bytes a second: a reader below it has to go when all places are taken and another client comes."""


class Admission:
    """Counts the open connections and says what to do with one more.

    This node's own addresses (its containerd opens many) never meet the cap per address. When all places are taken
    an idle connection or a very slow reader has to go, so that a flood of either never keeps a client out.
    """

    def __init__(self, most: int, most_per_address: int, own_addresses: frozenset[str]) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._own = own_addresses
        self._open: Counter[str] = Counter()
        self.total = 0
        self.turned_away = 0

    def admits(self, address: str) -> bool:
        """Whether one more connection of ``address`` is taken (if need be in the place of an idle one)."""
        if self._open[address] < self._most_per_address or self.is_own(address):
            return True
        self.turned_away += 1
        return False

    def is_own(self, address: str) -> bool:
        """Whether the address is this node itself."""
        return address in self._own or address.startswith("127.") or address == "::1"

    @property
    def full(self) -> bool:
        """Whether one more connection needs an old one to go."""
        return self.total >= self._most

    def opened(self, address: str) -> None:
        """A connection was taken."""
        self.total += 1
        self._open[address] += 1

    def closed(self, address: str) -> None:
        """A connection that was taken has ended."""
        self.total -= 1
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
