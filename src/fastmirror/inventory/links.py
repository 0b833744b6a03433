"""The connections of one node of the inventory, and what their beginning and end mean. Pure; takes ``now``."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastmirror.inventory import messages as m
from fastmirror.inventory.card import Verify, Version
from fastmirror.inventory.facts import Close, Fact, Renew, Send
from fastmirror.inventory.ledger import Ledger
from fastmirror.inventory.member import Link, Member, State
from fastmirror.inventory.members import Members, view_of
from fastmirror.inventory.overlay import SLACK, complete, predecessor, successor

CONFIRM_SECONDS: Final = 1.0
"""What a node that others hold for gone, or a second one with its id, gets to show that it is there."""

NEWS_SECONDS: Final = 0.02
SOON_SECONDS: Final = 0.05
INTRODUCTIONS: Final = 6
WANT_SECONDS: Final = 2.0
DIAL_BACKOFF: Final = (0.1, 0.3, 1.0, 2.0, 4.0)


@dataclass
class _Waiting:
    """A second process with the id of a linked node: is it a restart or a clone?"""

    hello: m.Hello
    outbound: bool
    host: str
    since: float
    until: float


class Links:
    """The part of :class:`fastmirror.inventory.node.Inventory` that looks after links.

    Each event may append to ``facts``, which the caller takes and does, in order.

    ``wake`` is when :meth:`tick` must be called next. Links are numbers of the caller's; it tells the outcome of each
    Dial (``linked`` or ``not_linked``) and Meet (``met`` or ``not_met``), and of each link's end (``unlinked``).
    """

    def __init__(
        self, ledger: Ledger, degree: int, verify: Verify, allowed: Callable[[str], bool], dice: random.Random
    ) -> None:
        self.facts: list[Fact] = []
        self.me = ledger.card.owner
        self.instance = dice.getrandbits(64)
        self.ledger = ledger
        self.degree = degree
        self.members = Members(self.facts, verify, allowed, dice)
        self.links: dict[int, Link] = {}
        self.wake = 0.0
        self.heard_frames = 0
        self.deltas_in = self.deltas_out = self.resyncs = 0
        self._dice = dice
        self._verify = verify
        self._by_owner: dict[bytes, Link] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._wanted: dict[bytes, tuple[Version, float]] = {}
        self._news: set[bytes] = set()
        self._news_at = math.inf
        self._step_at = 0.0
        self._left = False

    # ---- links

    def hello(self) -> m.Hello:
        """What this node says first on each connection."""
        return m.Hello(self.instance, self.ledger.card)

    def linked(self, number: int, hello: m.Hello, outbound: bool, host: str, now: float) -> None:
        """Hellos were exchanged, and the other side is who its card says. ``host`` is where we dialled it, or ""."""
        card = hello.card
        if card.owner == self.me:
            self._close(number, "this node itself" if hello.instance == self.instance else "a clone", m.CLONE)
            if hello.instance != self.instance and outbound:
                self.facts.append(Renew())
            return
        if self._left or hello.version < m.VERSION or not card.genuine(self._verify):
            self._close(number, "refused", m.LEAVING)
            return
        old = self._by_owner.get(card.owner)
        if old is not None and old.instance != hello.instance:
            self._waiting[number] = _Waiting(hello, outbound, host, now, now + CONFIRM_SECONDS)
            self._ask(old, now, CONFIRM_SECONDS)
            self._wake_by(now + CONFIRM_SECONDS)
            return
        if old is not None:
            dialler, former = (self.me if o else card.owner for o in (outbound, old.outbound))
            if former < dialler:
                self._close(number, "duplicate", m.DUPLICATE)
                return
        elif not outbound and self._full(card.owner):
            self._send_away(number)
            return
        self._accept(number, hello, outbound, host, now)
        if old is not None:  # only now: its id is linked without a gap, and a clone that waits goes on waiting
            self._drop_link(old, "duplicate", m.DUPLICATE)

    def _full(self, owner: bytes) -> bool:
        return len(self.links) >= self.degree + SLACK and not self._neighbour(owner)

    def _send_away(self, number: int) -> None:
        """Refuse a link, but tell of some others, as the one who came may know nobody else."""
        sound = self.members.sound
        for owner in self._dice.sample(sound, min(INTRODUCTIONS, len(sound))):
            member = self.members.get(owner)
            if member is not None:
                self.facts.append(Send(number, m.Snapshot(member.card, member.keys).encode()))
        self._close(number, "full", m.FULL)

    def _neighbour(self, owner: bytes) -> bool:
        """Whether that node is next to this one on the ring."""
        sound = self.members.sound
        return owner in (predecessor(self.me, sound), successor(self.me, sound))

    def _accept(self, number: int, hello: m.Hello, outbound: bool, host: str, now: float) -> None:
        card = hello.card
        link = self.links[number] = Link(number, card.owner, hello.instance, outbound, now)
        link.host = host if outbound else ""
        self._by_owner[card.owner] = link
        member = self.members.get(card.owner)
        have = Version(0, 0)
        if member is not None:
            member.adjacent, member.dialling, member.failed_dials = True, False, 0
            have = member.version
            if member.version == card.version:
                self.members.revive(member, now)
            if member.version >= card.version and not member.live:
                self._send(link, m.Suspect(card.owner, member.version))  # its clock went back: it must overrule this
            if outbound and host:
                self.members.met(card.owner, host, now)
            self.members.doubt(member, False, now)
        if have < card.version:
            self._send(link, m.Want(((card.owner, have),)))
        self._send(link, m.View(self._listed(), False))
        if not complete(self.degree, len(self.members.sound) + 1) and member is None:
            self._tell(card.owner, now)
        self._soon(now)

    def unlinked(self, number: int, why: str, graceful: bool, now: float) -> None:
        """A link is over. Not ``graceful``: the other side may be gone."""
        self._waiting.pop(number, None)
        link = self.links.pop(number, None)
        if link is None:
            return
        if self._by_owner.get(link.owner) is link:
            del self._by_owner[link.owner]
            member = self.members.get(link.owner)
            if member is not None and not graceful:
                member.failure, member.failed_at = why, now
                if member.live:
                    self._lose(member, why, now)
            for waiting in [n for n, w in self._waiting.items() if w.hello.card.owner == link.owner]:
                held = self._waiting.pop(waiting)
                self._accept(waiting, held.hello, held.outbound, held.host, now)
        self._soon(now)

    def _lose(self, member: Member, why: str, now: float, source: Link | None = None) -> None:
        self.members.lose(member, State.LOST, why, now)
        member.dial_at = now + DIAL_BACKOFF[0]
        if self._everybody_linked():
            return  # the others see for themselves
        suspicion = m.Suspect(member.owner, member.version)
        for link in self.links.values():
            if link is not source:
                self._send(link, suspicion)

    def not_linked(self, owner: bytes, why: str, now: float) -> None:
        """A Dial came to nothing."""
        member = self.members.get(owner)
        if member is not None:
            member.dialling = False
            delay = DIAL_BACKOFF[min(member.failed_dials, len(DIAL_BACKOFF) - 1)]
            member.failed_dials += 1
            member.dial_at = now + delay * self._dice.uniform(0.8, 1.2)
            member.failure, member.failed_at = why, now
            self._wake_by(member.dial_at)
            if member.live and member.host and not member.meeting and owner not in self._by_owner:
                self.members.meet(member, now)  # nobody here watches it: is it there at all?

    def met(self, owner: bytes, host: str, now: float) -> None:
        """A Meet ended well."""
        self.members.met(owner, host, now)
        self._next_meetings(now)

    def not_met(self, owner: bytes, why: str, now: float) -> None:
        """A Meet ended badly; who was met before and is linked to nobody here is gone."""
        member = self.members.not_met(owner, why, now)
        if owner in self._by_owner:
            if (linked := self.members.get(owner)) is not None:
                self.members.doubt(linked, False, now)
        elif member is not None:
            self._lose(member, why, now)
        self._next_meetings(now)

    def _next_meetings(self, now: float) -> None:
        self._soon(now)
        if not self._left:
            self.members.go_on_meeting(now)

    # ---- small steps

    def _everybody_linked(self) -> bool:
        """Whether this node is connected to every other one that is there."""
        return len(self._by_owner) >= len(self.members.sound)

    def _listed(self) -> tuple[m.Listed, ...]:
        return ((self.me, self.ledger.version), *self.members.listed())

    def _ask(self, link: Link, now: float, seconds: float) -> None:
        """Let a node show within ``seconds`` that it is there; a question that is open already stays so."""
        if link.deadline is None:
            link.deadline, link.asked_at = now + seconds, now
            self._ping(link)
        link.deadline = min(link.deadline, now + seconds)
        self._wake_by(link.deadline)

    def _ping(self, link: Link) -> None:
        link.nonce = self._dice.getrandbits(64)
        self._send(link, m.Ping(link.nonce, self.view()))

    def view(self) -> int:
        """This node's view of all as one number (see ``members.view_of``)."""
        return (self.members.view() + view_of(self.me, self.ledger.version)) % 2**64

    def _tell(self, owner: bytes, now: float) -> None:
        """Let all links know the version of this node, together with others that are told soon."""
        self._news.add(owner)
        self._news_at = min(self._news_at, now + NEWS_SECONDS)
        self._wake_by(self._news_at)

    def _want(self, link: Link, owner: bytes, version: Version, now: float) -> None:
        asked = self._wanted.get(owner)
        if asked is not None and asked[0] >= version and now < asked[1]:
            return
        self._wanted[owner] = (version, now + WANT_SECONDS)
        member = self.members.get(owner)
        self._send(link, m.Want(((owner, member.version if member else Version(0, 0)),)))

    def _send(self, link: Link, message: m.Message) -> None:
        self._send_data(link, message.encode())

    def _send_data(self, link: Link, data: bytes) -> None:
        self.facts.append(Send(link.number, data))

    def _close(self, number: int, why: str, reason: int) -> None:
        self.facts.append(Send(number, m.Part(reason).encode()))
        self.facts.append(Close(number, why))

    def _turn_out(self, link: Link, why: str, now: float) -> None:
        """End a link because of what the other side does."""
        if (member := self.members.get(link.owner)) is not None:
            member.failure, member.failed_at = why, now
        self._drop_link(link, why, m.PRUNED)

    def _drop_link(self, link: Link, why: str, reason: int) -> None:
        """End a link in good order; its node is well as far as we know."""
        self._close(link.number, why, reason)
        self.unlinked(link.number, why, True, link.heard_at)

    def _soon(self, now: float) -> None:
        if self._left:
            return
        self._step_at = min(self._step_at, now + SOON_SECONDS)
        self._wake_by(self._step_at)

    def _wake_by(self, when: float) -> None:
        self.wake = min(self.wake, when)
