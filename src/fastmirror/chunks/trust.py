"""What is believed of one content's pieces, and who is to blame where peers disagree. Pure.

Peers say what the hash of a piece is in two ways: by a list, and by sending bytes that have it. Bytes of several peers
in one piece (one died in the middle of it) say nothing about any of them.

Rules   A hash is *proven* when two peers say it and they outnumber all who say otherwise; who says otherwise is
        convicted. A peer whose bytes are not what its own list says is convicted without any other.
        A piece is *believed* when its bytes have the proven hash, or when nobody says otherwise and nobody is left who
        could. Bytes that do not have the proven hash are refused.
        What convicted peers say counts nowhere, from then on.
        Everything else stays open until the digest of the whole is compared: if that is right all of it was, if not
        the open pieces are tried as one list after the other has them.

Holds   No wrong piece is believed, and no honest peer convicted, as long as an honest peer was asked for its list
        (and has not failed) and no wrong hash of a piece is told by more peers than the honest ones that were heard
        of it, or by one peer alone where only one honest was. With nobody but one peer to say anything its word is
        taken: what is wrong then is found by the digest of the whole.

Source: docs/protocol.md, "Who is believed".
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import Final, NamedTuple

from fastmirror.routing import Peer

VOICES: Final = 2
"""Peers that have to say the same."""
LISTS: Final = 2
"""Lists that are wanted while nobody disagrees: with them every piece has two voices, whoever sends it."""
_TRIES: Final = 8  # refused bytes of one piece, until what one list says of it is given up
_MOST_REFUSED: Final = 64  # refused bytes of one piece, until the content is given up


class Fault(enum.Enum):
    """What convicts a peer."""

    CONTRADICTED = "its bytes are not what its own list says"
    OUTVOTED = "two or more peers, and more than agree with it, say otherwise"
    DISPROVED = "the content has its digest with other bytes than this peer's"


class Convicted(NamedTuple):
    """Nothing of this peer is to be used any more."""

    peer: Peer
    fault: Fault


class Refused(NamedTuple):
    """The bytes of this piece have to come again, from others than these peers where there are any."""

    piece: int
    peers: frozenset[Peer]


class _Held(NamedTuple):
    hash: bytes
    sources: frozenset[Peer]


class Trust:
    """The state of one content of ``count`` pieces.

    Reports    ``expect``, ``told``, ``late``, ``ended`` (lists), ``holds`` (bytes), ``whole`` (the digest of it all),
               and ``sought``, when there is nobody left to be asked for a list.
    Rulings    :meth:`take` gives what follows from them, each once.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.frontier = 0  # pieces before it are believed
        self.hopeless = False  # the digest is wrong, and nothing else can be tried
        self.convicted: dict[Peer, Fault] = {}
        self._seeking = True
        self._lists: dict[Peer, list[bytes]] = {}
        self._waiting: set[Peer] = set()
        self._sent: dict[int, dict[Peer, bytes]] = {}
        self._held: dict[int, _Held] = {}
        self._believed = bytearray(count)
        self._ahead: list[int] = []
        self._open: set[int] = set()  # held, and neither believed nor refused
        self._disputed: set[int] = set()  # peers say different things, and none of it is proven
        self._required: dict[int, bytes] = {}
        self._tried: set[tuple[tuple[int, bytes], ...]] = set()
        self._refusals: Counter[int] = Counter()
        self._rulings: list[Convicted | Refused] = []
        self._changed = False

    # ---- what is asked

    @property
    def complete(self) -> bool:
        """Whether there are bytes for every piece that were not refused."""
        return len(self._held) == self.count

    @property
    def undecided(self) -> bool:
        """Whether there are bytes for every piece, and only the digest of the whole can tell if all are right."""
        return self.complete and any(not self._pending(index) for index in self._open)

    @property
    def wants_list(self) -> bool:
        """Whether the list of one more peer would help: fewer than two are whole or on their way, or they disagree."""
        usable = sum(
            peer in self._waiting or len(hashes) >= self.count
            for peer, hashes in self._lists.items()
            if peer not in self.convicted
        )
        return usable < LISTS or any(not self._awaited(index) for index in self._open | self._disputed)

    def believed(self, index: int) -> bool:
        """Whether the bytes of this piece may be shown."""
        return bool(self._believed[index])

    def take_ahead(self) -> list[int]:
        """The pieces beyond the frontier that were believed since the last call."""
        ahead, self._ahead = self._ahead, []
        return [index for index in ahead if index > self.frontier]

    def take(self) -> list[Convicted | Refused]:
        """What was ruled since the last call, in order."""
        rulings, self._rulings = self._rulings, []
        return rulings

    # ---- what peers say

    def expect(self, peer: Peer) -> None:
        """Its list was asked for: pieces wait for what it will say."""
        if peer not in self._lists:
            self._lists[peer] = []
            self._waiting.add(peer)

    def told(self, peer: Peer, hashes: list[bytes]) -> None:
        """The next entries of its list, after those that were told before."""
        known = self._lists.setdefault(peer, [])
        first = len(known)
        known += hashes
        if len(known) >= self.count:
            self._waiting.discard(peer)
        others = [said for other, said in self._lists.items() if other != peer and other not in self.convicted]
        for index in range(first, min(len(known), self.count)):
            # Nothing to do for most: a long list that was kept comes all at once, and the loop has to wait.
            bytes_came = index in self._held or index in self._sent
            if bytes_came or any(index < len(said) and said[index] != known[index] for said in others):
                self._compare(peer, index)
                self._rule(index)
        self._again()

    def ended(self, peer: Peer) -> None:
        """Its list is whole, or ended before. What it said stays said; without a word it is forgotten."""
        self._waiting.discard(peer)
        if not self._lists.get(peer):
            self._lists.pop(peer, None)
        self._changed = True
        self._again()

    def waits_for(self, peer: Peer) -> tuple[int, int]:
        """How many entries this peer's list has told, and the last piece that is held and waits for it (-1: none)."""
        told = len(self._lists.get(peer, ()))
        if peer not in self._waiting or peer in self.convicted:
            return told, -1
        return told, max((index for index in self._open if index >= told), default=-1)

    def late(self, peer: Peer) -> None:
        """Do not wait for what its list has not told; what it still tells counts. ``again`` follows, once the next
        one is expected.
        """
        self._waiting.discard(peer)
        self._changed = True

    def again(self) -> None:
        """Look again at what is not settled."""
        self._again()

    def sought(self) -> None:
        """Nobody is left whose list could be asked for. It may be said before the lists that were asked for have come.

        Until then a piece that only one peer vouches for stays open: somebody who disagrees may still be found.
        """
        self._seeking = False
        self._changed = True
        self._again()

    def holds(self, index: int, hash: bytes, sources: frozenset[Peer]) -> None:
        """All bytes of a piece that was not held are there and have this hash; they came from these peers."""
        assert index not in self._held, "bytes that are held are not written again"
        self._held[index] = _Held(hash, sources)
        if len(sources) == 1:
            (peer,) = sources
            earlier = self._sent.setdefault(index, {}).setdefault(peer, hash)
            if earlier != hash:
                self._convict(peer, Fault.CONTRADICTED)
            self._compare(peer, index)
        self._rule(index)
        self._again()

    # ---- the digest of the whole

    def whole(self, right: bool) -> None:
        """The digest of all bytes that are held was compared. If it is wrong, refusals follow, or ``hopeless``."""
        if right:
            for index in list(self._open):
                self._believe(index)
            self._disprove()
        else:
            self._try_another()

    def _disprove(self) -> None:
        for index, held in self._held.items():
            for peer, said in self._votes(index).items():
                if said != held.hash:
                    self._convict(peer, Fault.DISPROVED)

    def _try_another(self) -> None:
        """Require of the open pieces what one list says of them, another one each time."""
        indices = sorted(self._open)
        self._tried.add(tuple((index, self._held[index].hash) for index in indices))
        self._required = {}
        for peer, hashes in self._lists.items():
            if peer in self.convicted or not indices or len(hashes) <= indices[-1]:
                continue
            wanted = tuple((index, hashes[index]) for index in indices)
            if wanted not in self._tried:
                self._tried.add(wanted)
                self._required = dict(wanted)
                for index in indices:
                    self._refusals[index] = 0
                    self._rule(index)
                return
        self.hopeless = True

    # ---- the rules

    def _votes(self, index: int) -> dict[Peer, bytes]:
        votes = {peer: hashes[index] for peer, hashes in self._lists.items() if index < len(hashes)}
        votes.update(self._sent.get(index, {}))
        return {peer: said for peer, said in votes.items() if peer not in self.convicted}

    def _pending(self, index: int) -> bool:
        """Whether somebody may still say something of this piece."""
        return self._seeking or self._awaited(index)

    def _awaited(self, index: int) -> bool:
        """Whether a list that was asked for has not come to this piece yet."""
        return any(len(self._lists[peer]) <= index for peer in self._waiting if peer not in self.convicted)

    def _compare(self, peer: Peer, index: int) -> None:
        """Convict a peer whose bytes are not what its list says."""
        hashes, sent = self._lists.get(peer, ()), self._sent.get(index, {}).get(peer)
        if sent is not None and index < len(hashes) and hashes[index] != sent:
            self._convict(peer, Fault.CONTRADICTED)

    def _rule(self, index: int) -> None:
        votes = self._votes(index)
        proven = _proven(votes)
        if proven is not None:
            for peer, said in votes.items():
                if said != proven:
                    self._convict(peer, Fault.OUTVOTED)
        if proven is None and len(set(votes.values())) > 1 and not self._believed[index]:
            self._disputed.add(index)
        else:
            self._disputed.discard(index)
        held = self._held.get(index)
        if held is None or self._believed[index]:
            return
        self._open.add(index)
        lone = proven is None and not self._pending(index) and len(set(votes.values())) <= 1
        wanted = next(iter(votes.values()), None) if lone else proven
        if lone and wanted is None and self.convicted.keys().isdisjoint(held.sources):
            wanted = held.hash  # nobody has a list: there is nothing to compare with
        if wanted == held.hash:
            self._believe(index)
        elif lone or wanted is not None or self._required.get(index, held.hash) != held.hash:
            self._refuse(index, held)

    def _again(self) -> None:
        """Look again at what is not settled when what counts has changed."""
        while self._changed:
            self._changed = False
            for index in self._open | self._disputed:
                self._rule(index)

    def _convict(self, peer: Peer, fault: Fault) -> None:
        if peer not in self.convicted:
            self.convicted[peer] = fault
            self._rulings.append(Convicted(peer, fault))
            self._changed = True

    def _believe(self, index: int) -> None:
        self._open.discard(index)
        self._disputed.discard(index)
        self._required.pop(index, None)
        self._believed[index] = 1
        self._ahead.append(index)
        while self.frontier < self.count and self._believed[self.frontier]:
            self.frontier += 1

    def _refuse(self, index: int, held: _Held) -> None:
        self._open.discard(index)
        del self._held[index]
        self._rulings.append(Refused(index, held.sources))
        self._refusals[index] += 1
        if index in self._required and self._refusals[index] >= _TRIES:
            del self._required[index]
        if self._refusals[index] >= _MOST_REFUSED:
            self.hopeless = True


def _proven(votes: dict[Peer, bytes]) -> bytes | None:
    """The hash that two or more say, and more than all who say otherwise together."""
    if len(votes) < VOICES:
        return None
    ((said, most),) = Counter(votes.values()).most_common(1)
    return said if most >= VOICES and 2 * most > len(votes) else None
