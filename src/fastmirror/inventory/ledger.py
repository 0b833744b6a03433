"""What this node announces: its own keys and card, and changes to them, a few at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from fastmirror.inventory.card import LEFT, MAX_KEYS, Card, Sign, Version
from fastmirror.inventory.keys import KeySet
from fastmirror.inventory.messages import Delta, Snapshot

GATHER_SECONDS: Final = 0.020
"""The first change goes out at once; what follows within this time goes out together at its end."""

MAX_CHANGE: Final = 16_384
"""Keys of a Delta; larger changes are told as a Snapshot."""


class Ledger:
    """The node's own state. ``card`` is signed and always that of ``keys``; ``refused`` counts keys beyond the limit.

    :meth:`change` only notes; :meth:`flush`, due at ``due``, makes the next version.
    """

    def __init__(self, card: Card, sign: Sign) -> None:
        self.keys = KeySet()
        self.refused = 0
        self.due = math.inf
        self._sign = sign
        self._add: set[int] = set()
        self._drop: set[int] = set()
        self._renewed = False
        self._flushed_at = -math.inf
        self.card = card._replace(key_count=0, root=self.keys.root, flags=0).signed(sign)

    @property
    def version(self) -> Version:
        """The version that others should have."""
        return self.card.version

    def snapshot(self) -> Snapshot:
        """All of it, as it was told last."""
        return Snapshot(self.card, self.keys)

    def change(self, add: Iterable[int], drop: Iterable[int], now: float) -> None:
        """Note changes; the later of two for the same key counts."""
        for key in drop:
            self._add.discard(key)
            self._drop.add(key)
        for key in add:
            self._drop.discard(key)
            self._add.add(key)
        if self._add or self._drop:
            self.due = min(self.due, max(now, self._flushed_at + GATHER_SECONDS))

    def replace(self, keys: Iterable[int], now: float) -> None:
        """Note what must change for the keys to be exactly these."""
        wanted = set(keys)
        self._add.clear()
        self._drop.clear()
        current = set(self.keys)
        self.change(wanted - current, current - wanted, now)

    def set_token(self, token: bytes, now: float) -> None:
        """Note another token for the peer listener."""
        if token != self.card.token:
            self.card = self.card._replace(token=token)
            self._renewed = True
            self.due = min(self.due, now)

    def renew(self, over: Version, now: float) -> None:
        """Note that the next version must be newer than ``over``: others hold it against this node."""
        if over >= self.version:
            if over.epoch > self.version.epoch:
                self.card = self.card._replace(version=Version(over.epoch + 1, 0))
            self._renewed = True
            self.due = now

    def flush(self, now: float) -> Delta | Snapshot | None:
        """Make the next version of what was noted, and what tells others of it; None if nothing has changed."""
        self.due = math.inf
        add = sorted(key for key in self._add if key not in self.keys)
        drop = sorted(key for key in self._drop if key in self.keys)
        self._add.clear()
        self._drop.clear()
        room = MAX_KEYS - len(self.keys) + len(drop)
        if len(add) > room:
            self.refused += len(add) - room
            add = add[:room]
        if not (add or drop or self._renewed):
            return None
        self._flushed_at = now
        self._renewed = False
        before = self.version
        self.keys = self.keys.changed(add, drop)
        self._sign_next()
        if len(add) + len(drop) > MAX_CHANGE:
            return self.snapshot()
        return Delta(self.card, before.sequence, tuple(add), tuple(drop))

    def leave(self) -> Card:
        """The last card of this epoch: nothing is here any more."""
        self.keys = KeySet()
        self.due = math.inf
        self._sign_next(LEFT)
        return self.card

    def _sign_next(self, flags: int = 0) -> None:
        version = Version(self.version.epoch, self.version.sequence + 1)
        self.card = self.card._replace(
            version=version, flags=flags, key_count=len(self.keys), root=self.keys.root
        ).signed(self._sign)
