"""Which peers may be asked for one content. Pure; takes ``now``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.peerbook import PeerBook
from fastmirror.fetch.sizes import agreed, is_empty
from fastmirror.oci.digest import Digest
from fastmirror.routing import Holder, Peer

ENOUGH_NEAR: Final = 2  # with so many holders in this node's zone those in other zones are left alone
TRIES: Final = 3  # of one peer for one content that end without all that was asked for, one after the other

_MAY_COME_BACK: Final = frozenset({PeerOutcome.UNREACHABLE, PeerOutcome.STALLED, PeerOutcome.BUSY})


class Sources:
    """The holders of one digest and what became of asking them.

    ``contributors`` are the peers whose bytes are in what there is so far, with how many bytes. ``size`` is that of
    the content in bytes, where it is known and not only told: what one holder tells is a claim, no more.
    """

    def __init__(self, digest: Digest, book: PeerBook, size: int | None = None) -> None:
        self.contributors: Counter[Peer] = Counter()
        self.size = size
        self._digest = digest
        self._book = book
        self._failures: dict[Peer, int] = {}
        self._sizes: dict[Peer, int | None] = {}  # None: another one than it was asked for
        self._refused: set[int] = set()
        self._tries: Counter[int] = Counter()
        self._spent: set[Peer] = set()

    def add(self, holder: Holder) -> bool:
        """A holder was found; False if it is none, because its size is not the known one, or cannot be right."""
        if holder.size is not None:
            self._sizes[holder.peer] = holder.size
            if self.size not in (None, holder.size) or (not holder.size and not is_empty(self._digest)):
                return False
        self._failures.setdefault(holder.peer, 0)
        return True

    def likely_size(self, now: float) -> int | None:
        """The known size, else the next one to be tried of those that were told; None if nobody has told one.

        First those that were tried least, then what most of those say that may be asked, then the smallest.
        """
        if self.size is not None:
            return self.size
        told = Counter(size for peer in self._open(now) if (size := self._sizes.get(peer)) is not None)
        return min(told, key=lambda size: (self._tries[size], -told[size], size), default=None)

    def tried(self, size: int) -> None:
        """Content of this size is being fetched."""
        self._tries[size] += 1

    def refuse(self, size: int) -> None:
        """There is no room for so much: who tells this size is not asked."""
        self._refused.add(size)

    def agreed_size(self, now: float) -> int | None:
        """The known size, else the one that holders agree on; None if they do not, or none has told one."""
        if self.size is not None:
            return self.size
        return agreed(self._claims(now))

    def disputed(self, now: float) -> bool:
        """Whether holders tell different sizes, and it is not known which one is right."""
        return self.agreed_size(now) is None and len(set(self._claims(now))) > 1

    def doubtful(self, now: float) -> bool:
        """Whether nothing may be shown before all of it is verified: holders tell different sizes, or all that may be
        asked have given or told something wrong before.
        """
        open_ones = self._open(now)
        return self.disputed(now) or (bool(open_ones) and not any(map(self._book.believed, open_ones)))

    def prove(self, size: int) -> list[Peer]:
        """The content has its digest with this size; those that have told another one."""
        self.size = size
        return [peer for peer, told in self._sizes.items() if told != size]

    def ready(self, size: int | None, now: float, present: Collection[Peer] = ()) -> list[Peer]:
        """Who may be asked for content of this size (None: of any) besides those that are, the best first.

        Those of other zones only if there are not enough in this one; those that were left alone only if nobody else
        is there.
        """
        peers = [
            peer
            for peer in self._open(now)
            if peer not in present and (size is None or (self._sizes.get(peer) or size) == size)
        ]
        ranked = self._book.rank(peers, self._digest, now)
        live = [peer for peer in ranked if self._book.live(peer, now)]
        near = [peer for peer in live if not self._book.far(peer)]
        if len(near) + sum(not self._book.far(peer) for peer in present) >= ENOUGH_NEAR:
            return near
        return live if live or present else [peer for peer in ranked if self._book.would_admit(peer, now)]

    def differs(self, peer: Peer) -> None:
        """It has the content with another size than it was asked for. What it has told itself still holds."""
        self._sizes.setdefault(peer, None)

    def ended(self, peer: Peer, outcome: PeerOutcome, received: int) -> bool:
        """A request is over. Whether the peer may be asked for more at once; some may be later, see :meth:`ready`."""
        if outcome is PeerOutcome.DIFFERS:
            self.differs(peer)
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
            self._spent = {peer for peer in self._spent if self._sizes.get(peer) is not None}

    def _claims(self, now: float) -> list[int | None]:
        """What counts of what holders have told: nothing is no size of something."""
        return [size for peer, size in self._sizes.items() if size != 0 and self._book.trusted(peer, self._digest, now)]

    def _open(self, now: float) -> list[Peer]:
        return [
            peer
            for peer, failures in self._failures.items()
            if peer not in self._spent
            and failures < TRIES
            and self._sizes.get(peer) not in self._refused
            and self._book.trusted(peer, self._digest, now)
        ]
