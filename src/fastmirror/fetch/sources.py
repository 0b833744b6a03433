"""Which peer gives the next bytes of one content. Pure; takes ``now``."""

from __future__ import annotations

from collections import Counter
from typing import Final

from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.peerbook import PeerBook
from fastmirror.oci.digest import Digest
from fastmirror.routing import Holder, Peer

TRIES: Final = 3  # of one peer for one content; further ones only if the last one brought bytes


class Sources:
    """The holders of one digest and what became of asking them.

    ``contributors`` are the peers whose bytes are in what there is so far, with how many bytes.
    """

    def __init__(self, digest: Digest, book: PeerBook) -> None:
        self.contributors: Counter[Peer] = Counter()
        self._digest = digest
        self._book = book
        self._tries: dict[Peer, int] = {}
        self._sizes: dict[Peer, int] = {}
        self._spent: set[Peer] = set()

    def add(self, holder: Holder, size: int | None) -> bool:
        """A holder was found; False if it is none, because its size is not the ``size`` that is known."""
        if size is not None and holder.size not in (None, size):
            return False
        self._tries.setdefault(holder.peer, 0)
        if holder.size is not None:
            self._sizes[holder.peer] = holder.size
        return True

    def told(self, peer: Peer) -> int | None:
        """The size that the peer itself told of, where it did: it has to keep to it."""
        return self._sizes.get(peer)

    def next(self, now: float) -> Peer | None:
        """Whom to ask now: the least tried, of these the best in the book; None if nobody is left."""
        open_ = [
            peer
            for peer, tries in self._tries.items()
            if peer not in self._spent and tries < TRIES and self._book.trusted(peer, self._digest, now)
        ]
        ranked = sorted(self._book.rank(open_, self._digest, now), key=self._tries.__getitem__)
        return next((peer for peer in ranked if self._book.admits(peer, now)), None)

    def ended(self, peer: Peer, outcome: PeerOutcome, received: int) -> None:
        """A try of ``peer`` is over. One that brought nothing is the last of this peer for this content."""
        self._tries[peer] = self._tries.get(peer, 0) + 1
        if received or outcome is PeerOutcome.GOT:
            self.contributors[peer] += received
        else:
            self._spent.add(peer)

    def restart(self) -> None:
        """All bytes are thrown away."""
        self.contributors.clear()
