"""The other nodes as this one sees them: versions, who is there, where they were met, and what look-ups may know."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from fastmirror.inventory.card import Card, Verify, Version
from fastmirror.inventory.facts import Changed, Down, Fact, Meet, Up
from fastmirror.inventory.keys import KeySet
from fastmirror.inventory.member import Member, State
from fastmirror.inventory.messages import Listed

MAX_MEMBERS: Final = 8192
MAX_UNMET: Final = 1024
MAX_UNMET_KEYS: Final = 1 << 22
"""Keys of all nodes that were not met yet: 32 MiB."""

MAX_UNPROVED: Final = 64
DOUBT_SECONDS: Final = 120.0
MAX_PER_HOST: Final = 8
"""Nodes that are believed to be at one address: one machine cannot outvote a cluster."""

MEETINGS: Final = 4
FORGET_SECONDS: Final = 900.0
_MEET_BACKOFF: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Members:
    """All that is known of others. Appends what it has to tell to ``facts``; ``refused`` counts what was not believed.

    ``losses`` counts how often one that was there was found gone. ``allowed`` says whether an address may be dialled.
    """

    def __init__(self, facts: list[Fact], verify: Verify, allowed: Callable[[str], bool], dice: random.Random) -> None:
        self.refused: Counter[str] = Counter()
        self.losses = 0
        self._facts = facts
        self._verify = verify
        self._allowed = allowed
        self._dice = dice
        self._members: dict[bytes, Member] = {}
        self._view: int | None = 0
        self._live: list[bytes] | None = []
        self._sound: list[bytes] | None = []
        self._many = False
        self._claimed = 0  # at least as many keys as unmet nodes have
        self._due: list[Member] = []  # to be met, the next one last
        self._meetings = 0

    def get(self, owner: bytes) -> Member | None:
        """What is known of a node."""
        return self._members.get(owner)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    @property
    def live(self) -> list[bytes]:
        """The ids of those that are there."""
        if self._live is None:
            self._live = [owner for owner, member in self._members.items() if member.state is State.LIVE]
        return self._live

    @property
    def sound(self) -> list[bytes]:
        """The ids of those that are there and not doubted, nor among many that were neither met nor linked yet.

        What is decided about connections goes by them, so that invented nodes change nothing.
        """
        if self._sound is None:
            sound = [member for owner in self.live if not (member := self._members[owner]).doubted]
            proved = [member.card.owner for member in sound if member.host or member.adjacent]
            self._many = len(sound) - len(proved) > MAX_UNPROVED
            self._sound = proved if self._many else [member.card.owner for member in sound]
        return self._sound

    def doubt(self, member: Member, doubted: bool, now: float) -> None:
        """Note whether a node is where it says that it is."""
        if doubted is not member.doubted:
            member.doubted, member.doubted_at, self._sound = doubted, now, None
        elif self._many:
            self._sound = None  # it may have been proved just now

    def invented(self, now: float) -> list[Member]:
        """Nodes that were not found where they say that they are, for so long that they must be taken for gone."""
        return [member for member in self if member.doubted and member.live and now - member.doubted_at > DOUBT_SECONDS]

    def view(self) -> int:
        """All live nodes and their versions as one number: two nodes that know the same have the same."""
        if self._view is None:
            self._view = sum(_part(self._members[owner]) for owner in self.live) % 2**64
        return self._view

    def listed(self) -> tuple[Listed, ...]:
        """All live nodes with their versions."""
        members = self._members
        return tuple([(owner, members[owner].card.version) for owner in self.live])

    def differing(self, listed: Iterable[Listed]) -> list[Listed]:
        """Those of a view that are not known here as live at that very version: a few of thousands."""
        members, live = self._members, State.LIVE
        found = []
        for entry in listed:
            member = members.get(entry[0])
            if member is None or member.card.version != entry[1] or member.state is not live:
                found.append(entry)
        return found

    def dialable(self, card: Card) -> tuple[str, ...]:
        """The addresses of a card that may be dialled; the others are counted."""
        hosts = tuple(host for host in card.hosts if self._allowed(host))
        self.refused["address"] += len(card.hosts) - len(hosts)
        return hosts

    # ---- versions

    def learn(self, card: Card, keys: KeySet, now: float, direct: bool) -> Member | None:
        """Take over a newer version; None if it is not believed (``refused`` says why)."""
        member = self._members.get(card.owner)
        if (member is None or not member.host) and not self._room(direct, len(keys), member is None):
            self.refused["room"] += 1
            return None
        if not card.genuine(self._verify):
            self.refused["signature"] += 1
            return None
        if member is None:
            member = self._members[card.owner] = Member(card, keys, State.LIVE, now)
        else:
            self._replace(member, card, keys, now)
        self._touch()
        if card.left:
            self.lose(member, State.LEFT, "said good-bye", now)
        return member

    def _replace(self, member: Member, card: Card, keys: KeySet, now: float) -> None:
        before, had = member.card, member.keys
        member.card, member.keys = card, keys
        if member.state is not State.LIVE:
            member.state, member.since = State.LIVE, now
        if member.host and member.host not in card.hosts:
            self._retract(member, "moved")
            member.host = ""
        if not member.offered:
            self.offer(member)
        elif (before.peer_port, before.token, before.name, before.zone) != _offered(card):
            self._facts.append(Up(card, member.host, keys))
        elif keys is not had:
            old, new = set(had), set(keys)
            self._facts.append(Changed(card.owner, tuple(new - old), tuple(old - new)))

    def amend(self, member: Member, card: Card, add: tuple[int, ...], drop: tuple[int, ...]) -> bool:
        """Take over a change of the version that is known; False if it does not lead to what the card says."""
        if not card.genuine(self._verify):
            self.refused["signature"] += 1
            return False
        if add and not (member.host or member.adjacent or self._room(False, len(add), False)):
            self.refused["room"] += 1
            return False
        keys = member.keys.changed(add, drop) if add or drop else member.keys
        if keys.root != card.root:
            return False
        before = member.card
        member.card, member.keys = card, keys
        self._touch()
        if member.offered:
            if (before.peer_port, before.token, before.name, before.zone) != _offered(card):
                self._facts.append(Up(card, member.host, keys))
            elif add or drop:
                self._facts.append(Changed(card.owner, add, drop))
        return True

    def _room(self, direct: bool, keys: int, new: bool) -> bool:
        """Whether one more unmet node, or more keys of one, may be held."""
        if direct:
            return len(self._members) < MAX_MEMBERS + MAX_UNMET
        self._claimed += keys
        if len(self._members) < MAX_UNMET and self._claimed <= MAX_UNMET_KEYS:
            return True  # without counting
        unmet = [len(member.keys) for member in self if not member.host and member.state is State.LIVE]
        self._claimed = sum(unmet) + keys
        room = not new or (len(self._members) < MAX_MEMBERS and len(unmet) < MAX_UNMET)
        return room and self._claimed <= MAX_UNMET_KEYS

    # ---- coming and going

    def revive(self, member: Member, now: float) -> None:
        """It is there after all: it answers on a connection."""
        if member.state is State.LOST and member.keys.root == member.card.root:
            member.state, member.since = State.LIVE, now
            self._touch()
            self.offer(member)

    def lose(self, member: Member, state: State, why: str, now: float) -> None:
        """It is gone; its keys are not found from now on. Those of one that was never met are not even kept."""
        if not (member.host or member.adjacent):
            member.keys = KeySet()
        self.losses += member.live and state is State.LOST
        member.state, member.since = state, now
        member.failure, member.failed_at = why, now
        member.host, member.failed_meets, member.meet_at, member.doubted = "", 0, 0.0, False
        self._touch()
        self._retract(member, why)

    def offer(self, member: Member) -> None:
        """Let look-ups know it, if it is there and was met."""
        if member.live and member.host and not member.offered:
            member.offered = True
            self._facts.append(Up(member.card, member.host, member.keys))

    def _retract(self, member: Member, why: str) -> None:
        if member.offered:
            member.offered = False
            self._facts.append(Down(member.owner, why))

    def forget(self, now: float) -> None:
        """Drop what has been gone for long."""
        old = [m.owner for m in self if not m.live and now - m.since > FORGET_SECONDS and not m.meeting]
        for owner in old:
            del self._members[owner]

    # ---- meeting

    def met(self, owner: bytes, host: str, now: float) -> None:
        """It proved to be at this address."""
        member = self._members.get(owner)
        if member is None:
            return
        self._meetings -= member.meeting
        member.meeting = False
        if not member.live or host not in member.card.hosts or member.host == host:
            return
        if sum(other.host == host for other in self) >= MAX_PER_HOST:
            self.refused["crowd"] += 1
            member.failed_meets += 1
            member.meet_at = now + _MEET_BACKOFF[-1]
            self.doubt(member, True, now)
            return
        if member.host:
            self._retract(member, "moved")
        member.host, member.failed_meets = host, 0
        self.doubt(member, False, now)
        self.offer(member)

    def not_met(self, owner: bytes, why: str, now: float) -> Member | None:
        """It did not prove to be where it says. Gives back the member if it was believed to be there."""
        member = self._members.get(owner)
        if member is None:
            return None
        self._meetings -= member.meeting
        member.meeting = False
        member.failure, member.failed_at = why, now
        delay = _MEET_BACKOFF[min(member.failed_meets, len(_MEET_BACKOFF) - 1)]
        member.failed_meets += 1
        member.meet_at = now + delay * self._dice.uniform(0.8, 1.2)
        if not member.host:
            self.doubt(member, True, now)
        return member if member.host and member.live else None

    def begin_meetings(self, now: float) -> None:
        """Ask for meetings with live nodes that were not met yet, a few at a time, those that failed before last."""
        due = [m for m in self if not m.host and m.state is State.LIVE and not m.meeting and now >= m.meet_at]
        self._due = sorted(due, key=lambda member: -member.failed_meets)
        self.go_on_meeting(now)

    def go_on_meeting(self, now: float) -> None:
        """Ask for the next meetings, if some have ended."""
        while self._due and self._meetings < MEETINGS:
            member = self._due.pop()
            if not member.host and member.live and not member.meeting:
                self.meet(member, now)

    def meet(self, member: Member, now: float) -> bool:
        """Ask for a meeting with one node; False if it has no address that may be dialled."""
        hosts = self.dialable(member.card)
        if not hosts or not member.card.router_port:
            self.not_met(member.owner, "no address that may be dialled (--peer-cidr)", now)
            return False
        member.meeting = True
        self._meetings += 1
        self._facts.append(Meet(member.owner, hosts, member.card.router_port))
        return True

    def _touch(self) -> None:
        self._view = self._live = self._sound = None


def _offered(card: Card) -> tuple[int, bytes, str, str]:
    return card.peer_port, card.token, card.name, card.zone


def _part(member: Member) -> int:
    if member.part is None or member.part[0] != member.version:
        member.part = member.version, view_of(member.owner, member.version)
    return member.part[1]


def view_of(owner: bytes, version: Version) -> int:
    """One node's part of the view: the first 8 bytes of a SHA-256 over id, epoch and sequence, as a number."""
    data = owner + version.epoch.to_bytes(8, "big") + version.sequence.to_bytes(8, "big")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def views(listed: Iterable[Listed]) -> int:
    """The sum of all parts, modulo 2 ** 64."""
    return sum(view_of(owner, version) for owner, version in listed) % 2**64
