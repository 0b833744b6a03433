"""Which peers may be asked for one content. Pure; takes ``now``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.peerbook import PeerBook
from fastmirror.oci.digest import Digest
from fastmirror.routing import Holder, Peer

ENOUGH_NEAR: Final = 2  # with so many holders in this node's zone those in other zones are left alone
TRIES: Final = 3  # of one peer for one content that end without all that was asked for, one after the other

_MAY_COME_BACK: Final = frozenset({PeerOutcome.UNREACHABLE, PeerOutcome.STALLED, PeerOutcome.BUSY})


class Sources:
    """The holders of one digest and what became of asking them.

    ``contributors`` are the peers whose bytes are in what there is so far, with how many bytes. ``size`` is that of
    the content in bytes, where it is known and not only told.
    """

    def __init__(self, digest: Digest, book: PeerBook, size: int | None = None) -> None:
        self.contributors: Counter[Peer] = Counter()
        self.size = size
        self._digest = digest
        self._book = book
        self._failures: dict[Peer, int] = {}
        self._sizes: dict[Peer, int] = {}
        self._spent: set[Peer] = set()

    def add(self, holder: Holder) -> bool:
        """A holder was found; False if it is none, because its size is not the known one."""
        if self.size is not None and holder.size not in (None, self.size):
            return False
        self._failures.setdefault(holder.peer, 0)
        if holder.size is not None:
            self._sizes[holder.peer] = holder.size
        return True

    def likely_size(self, now: float) -> int | None:
        """The known size, else what most of those say that may be asked; None if nobody has said it."""
        if self.size is not None:
            return self.size
        told = Counter(self._sizes[peer] for peer in self._open(now) if peer in self._sizes)
        return max(told, key=lambda size: told[size]) if told else None

    def ready(self, size: int | None, now: float, present: Collection[Peer] = ()) -> list[Peer]:
        """Who may be asked for content of this size (None: of any) besides those that are, the best first.

        Those of other zones only if there are not enough in this one; those that were left alone only if nobody else
        is there.
        """
        peers = [
            peer
            for peer in self._open(now)
            if peer not in present and (size is None or self._sizes.get(peer, size) == size)
        ]
        ranked = self._book.rank(peers, self._digest, now)
        live = [peer for peer in ranked if self._book.live(peer, now)]
        near = [peer for peer in live if not self._book.far(peer)]
        if len(near) + sum(not self._book.far(peer) for peer in present) >= ENOUGH_NEAR:
            return near
        return live if live or present else [peer for peer in ranked if self._book.would_admit(peer, now)]

    def ended(self, peer: Peer, outcome: PeerOutcome, received: int) -> bool:
        """A request is over. Whether the peer may be asked for more at once; some may be later, see :meth:`ready`."""
        if outcome is PeerOutcome.GOT:
            self._failures[peer] = 0
        elif outcome is not PeerOutcome.LEFT:
            self._failures[peer] = self._failures.get(peer, 0) + 1
            if not received and outcome not in _MAY_COME_BACK:
                self._spent.add(peer)
        stays = outcome in (PeerOutcome.GOT, PeerOutcome.LEFT) or (outcome is PeerOutcome.TRUNCATED and received > 0)
        return stays and self._failures.get(peer, 0) < TRIES

    def restart(self) -> None:
        """All bytes are thrown away. Who has told no size may have refused another one's, and is asked again."""
        self.contributors.clear()
        if self.size is None:
            self._spent &= self._sizes.keys()

    def _open(self, now: float) -> list[Peer]:
        return [
            peer
            for peer, failures in self._failures.items()
            if peer not in self._spent and failures < TRIES and self._book.trusted(peer, self._digest, now)
        ]
