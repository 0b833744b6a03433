"""One node of the inventory: what it does with what it hears, and when it speaks by itself. Pure; takes ``now``."""

from __future__ import annotations

import math
from typing import Final

from fastmirror.inventory import messages as m
from fastmirror.inventory.card import Card, Version
from fastmirror.inventory.facts import Close, Renew, Send
from fastmirror.inventory.keys import KeySet
from fastmirror.inventory.links import CONFIRM_SECONDS
from fastmirror.inventory.member import Link
from fastmirror.inventory.topology import Topology
from fastmirror.inventory.wire import BadFrame

PROBE_SECONDS: Final = 0.5
ANSWER_SECONDS: Final = 0.8  # until the others are told that a node does not answer
GIVE_UP_SECONDS: Final = 1.6  # until it counts as gone
LATE_SECONDS: Final = 0.4  # a turn this late means that we were stuck, not the others
FULL_SECONDS: Final = 10.0
RELAYS: Final = 10  # so that one node in 20,000 does not hear of it this way (e ** -10)
RELAY_SECONDS: Final = 0.02
RELAY_SECONDS_OF_MANY: Final = 0.1
MANY: Final = 256
SUSPECTS: Final = 512  # of one link at once
SUSPECTS_PER_SECOND: Final = 20.0
CONTESTS: Final = 3  # times in a while that somebody overrules our own version, until it must be a clone
CONTEST_SECONDS: Final = 30.0
WARN_SECONDS: Final = 0.5
MAX_WANTED: Final = 2 * m.MAX_LISTED


class Inventory(Topology):
    """The state machine. ``facts`` says what to do and what has happened; ``wake`` when :meth:`tick` is due."""

    _probe_at = 0.0
    _passed_at = -math.inf
    _passing: tuple[tuple[int, bytes, bytes], ...] = ()
    _round: tuple[int, ...] = ()
    _contests: tuple[float, ...] = ()

    # ---- what is heard

    def heard(self, number: int, kind: int, payload: bytes, now: float) -> None:
        """A frame came on a link. A broken one ends the link."""
        link = self.links.get(number)
        if link is None:
            if number in self._waiting and kind == 10:
                self.facts.append(Close(number, "ended"))
            return
        self.heard_frames += 1
        link.heard_at, link.deadline, link.told = now, None, False
        try:
            message = m.parse(kind, payload)
        except BadFrame as error:
            self.members.refused["frame"] += 1
            self._turn_out(link, str(error), now)
            return
        match message:
            case m.Ping(nonce, view):
                self._send(link, m.Pong(nonce, self.view()))
                self._compare(link, view)
            case m.Pong(nonce, view):
                if nonce == link.nonce:
                    link.round_trip = now - link.asked_at
                self._compare(link, view)
            case m.Snapshot(card, keys):
                self._learn(link, card, keys, now)
            case m.Delta():
                self._amend(link, message, now)
            case m.Bye(card):
                self._learn(link, card, KeySet(), now)
            case _:
                self._heard_of_others(link, message, now)

    def _heard_of_others(self, link: Link, message: m.Message | None, now: float) -> None:
        match message:
            case m.Suspect(owner, version):
                self._suspected(link, owner, version, now)
            case m.View(listed, answer):
                self._viewed(link, listed, answer, now)
            case m.Want(listed):
                self._wanted_by(link, listed, now)
                self._keep_giving(now)
            case m.Part(reason):
                self._parted(link, reason, now)
            case _:
                return  # Hello again, Flights, and what later versions send

    def _learn(self, link: Link, card: Card, keys: KeySet, now: float) -> None:
        owner = card.owner
        self._wanted.pop(owner, None)
        if owner == self.me:
            self._contested(card.version, now)
            return
        member = self.members.get(owner)
        direct = link.owner == owner
        if member is not None and card.version <= member.version:
            if not member.live:
                self._send(link, m.Suspect(owner, member.version))
            return
        known = member is not None and member.live
        member = self.members.learn(card, keys, now, direct)
        if member is None:
            if not card.genuine(self._verify):  # else there was no room for it, which is not this link's fault
                self._turn_out(link, "what it passes on is not genuine", now)
            return
        if direct:
            member.adjacent = True
            if link.host and member.live:
                self.members.met(owner, link.host, now)
        if card.left or not known or not self._everybody_linked():
            self._pass_on(link, card, now)
        self._soon(now)

    def _pass_on(self, source: Link, card: Card, now: float) -> None:
        if card.left:
            data = m.Bye(card).encode()
            self._relay(source, card.owner, data, now)
        else:
            self._tell(card.owner, now)

    def _amend(self, link: Link, delta: m.Delta, now: float) -> None:
        card = delta.card
        self.deltas_in += 1
        if card.owner == self.me:
            self._contested(card.version, now)
            return
        member = self.members.get(card.owner)
        if member is None or card.version > member.version:
            fits = member is not None and member.live and member.version == (card.version.epoch, delta.base)
            if fits and member is not None and self.members.amend(member, card, delta.add, delta.drop):
                if not self._everybody_linked():
                    self._relay(link, card.owner, delta.encode(), now)
                return
            self.resyncs += 1
            self._want(link, card.owner, card.version, now)
        elif not member.live:
            self._send(link, m.Suspect(card.owner, member.version))

    def _relay(self, source: Link, owner: bytes, data: bytes, now: float) -> None:
        """Pass a frame on: the first at once, those that follow soon after it together."""
        self._passing = (*self._passing, (source.number, owner, data))
        if now >= self._passed_at + self._gather():
            self._pass(now)
        else:
            self._wake_by(self._passed_at + self._gather())

    def _gather(self) -> float:
        return RELAY_SECONDS if len(self.members.sound) <= MANY else RELAY_SECONDS_OF_MANY

    def _pass(self, now: float) -> None:
        """Send what is to be passed on to some links; the others learn of it through the views."""
        self._passed_at = now
        links = list(self.links.values())
        for link in links if len(links) <= RELAYS + 1 else self._dice.sample(links, RELAYS):
            frames = [d for source, owner, d in self._passing if source != link.number and owner != link.owner]
            if frames:
                self.facts.append(Send(link.number, b"".join(frames)))
        self._passing = ()

    def _compare(self, link: Link, view: int) -> None:
        """Exchange whole views when two answers in a row show that they differ."""
        link.differs = link.differs + 1 if view != self.view() else 0
        if link.differs >= 2:
            link.differs = 0
            self._send(link, m.View(self._listed(), True))

    def _viewed(self, link: Link, listed: tuple[m.Listed, ...], answer: bool, now: float) -> None:
        wanted: list[m.Listed] = []
        for owner, version in self.members.differing(listed):
            if owner == self.me:
                if version > self.ledger.version:
                    self._contested(version, now)
                continue
            member = self.members.get(owner)
            if member is None or version > member.version:
                asked = self._wanted.get(owner)
                if len(self._wanted) < MAX_WANTED and (asked is None or asked[0] < version or now >= asked[1]):
                    self._wanted[owner] = (version, now + CONFIRM_SECONDS)
                    wanted.append((owner, member.version if member else Version(0, 0)))
            elif not member.live:
                self._send(link, m.Suspect(owner, member.version))
        if wanted:
            self._send(link, m.Want(tuple(wanted)))
        if answer:
            self._send(link, m.View(self._listed(), False))

    def _parted(self, link: Link, reason: int, now: float) -> None:
        member = self.members.get(link.owner)
        if reason == m.FULL and member is not None:
            member.full_until = now + FULL_SECONDS
        if reason == m.CLONE:
            self.facts.append(Renew())
        self.facts.append(Close(link.number, m.REASONS.get(reason, "ended")))
        self.unlinked(link.number, m.REASONS.get(reason, "ended"), True, now)

    # ---- who is gone

    def _suspected(self, source: Link, owner: bytes, version: Version, now: float) -> None:
        used, since = source.suspects
        used = max(0.0, used - (now - since) * SUSPECTS_PER_SECOND) + 1
        source.suspects = (used, now)
        if used > SUSPECTS:
            self.members.refused["suspicion"] += 1
            return
        if owner == self.me:
            if not self._left:
                self.ledger.renew(version, now)
                self._wake_by(self.ledger.due)
            return
        member = self.members.get(owner)
        if member is None or not member.live:
            return
        link = self._by_owner.get(owner)
        if version < member.version:
            self._send(source, m.View(((owner, member.version),), False))
        elif link is not None:
            if link is not source and now - member.warned_at > WARN_SECONDS:
                member.warned_at = now
                self._send(link, m.Suspect(owner, version))
            link.told = True
            self._ask(link, now, CONFIRM_SECONDS)
        else:
            self._lose(member, "another node found it gone", now, source)

    def _contested(self, version: Version, now: float) -> None:
        """Somebody has a version of this node that this process never made, or not yet."""
        if version < self.ledger.version or (version == self.ledger.version):
            return
        self._contests = (*(at for at in self._contests if now - at < CONTEST_SECONDS), now)
        if len(self._contests) > CONTESTS:
            self._contests = ()
            self.facts.append(Renew())
        self.ledger.renew(version, now)
        self._wake_by(self.ledger.due)

    # ---- what this node has

    def change(self, add: set[int], drop: set[int], now: float) -> None:
        """This node's keys change."""
        self.ledger.change(add, drop, now)
        self._wake_by(self.ledger.due)

    def replace(self, keys: set[int], now: float) -> None:
        """This node's keys are exactly these."""
        self.ledger.replace(keys, now)
        self._wake_by(self.ledger.due)

    def set_token(self, token: bytes, now: float) -> None:
        """This node's peer listener wants another token from now on."""
        self.ledger.set_token(token, now)
        self._wake_by(self.ledger.due)

    def leave(self, now: float) -> None:
        """Say good-bye to everybody; the links end."""
        if self._left:
            return
        self._left = True
        self._probe_at = self._step_at = math.inf
        data = m.Bye(self.ledger.leave()).encode()
        for link in list(self.links.values()):
            self.facts.append(Send(link.number, data))
            self._drop_link(link, "leaving", m.LEAVING)

    # ---- time

    def tick(self, now: float) -> None:
        """Do what is due; :attr:`wake` is set anew."""
        late = now - self.wake
        self.wake = math.inf
        if late > LATE_SECONDS:
            self._forgive(late)
        if now >= self.ledger.due:
            self._flush(now)
        if now >= self._news_at:
            self._spread()
        if self._passing and now >= self._passed_at + self._gather():
            self._pass(now)
        self._keep_giving(now)
        self._judge(now)
        if now >= self._probe_at:
            self._probe(now)
        if now >= self._step_at:
            self._step(now)
        for when in (self.ledger.due, self._news_at, self._probe_at, self._step_at):
            self._wake_by(when)
        for link in self.links.values():
            if link.deadline is not None:
                told_at = math.inf if link.told else link.asked_at + ANSWER_SECONDS
                self._wake_by(min(link.deadline, told_at))
        for waiting in self._waiting.values():
            self._wake_by(waiting.until)
        if self._passing:
            self._wake_by(self._passed_at + self._gather())

    def _forgive(self, late: float) -> None:
        for link in self.links.values():
            if link.deadline is not None:
                link.deadline += late
                link.asked_at += late
        for waiting in self._waiting.values():
            waiting.until += late

    def _flush(self, now: float) -> None:
        told = self.ledger.flush(now)
        if told is None:
            return
        self.deltas_out += 1
        data = told.encode()
        for link in self.links.values():
            self.facts.append(Send(link.number, data))

    def _spread(self) -> None:
        self._news_at = math.inf
        fresh = [member for owner in self._news if (member := self.members.get(owner)) and member.live]
        self._news.clear()
        if fresh:
            data = m.View(tuple((member.owner, member.version) for member in fresh), False).encode()
            for link in self.links.values():
                self.facts.append(Send(link.number, data))

    def _judge(self, now: float) -> None:
        for link in list(self.links.values()):
            if link.deadline is None:
                continue
            if now >= link.deadline:
                self.facts.append(Close(link.number, "does not answer"))
                self.unlinked(link.number, "does not answer", False, now)
            elif not link.told and now >= link.asked_at + ANSWER_SECONDS:
                link.told = True
                self._ping(link)
                member = self.members.get(link.owner)
                if member is not None and member.live:
                    suspicion = m.Suspect(member.owner, member.version)
                    for other in self.links.values():
                        if other is not link:
                            self._send(other, suspicion)
        for number, waiting in list(self._waiting.items()):
            old = self._by_owner.get(waiting.hello.card.owner)
            if old is not None and old.heard_at >= waiting.since:
                del self._waiting[number]
                self._close(number, "a clone", m.CLONE)

    def _probe(self, now: float) -> None:
        self._probe_at = now + PROBE_SECONDS * self._dice.uniform(0.8, 1.2)
        if not self._round:
            numbers = list(self.links)
            self._dice.shuffle(numbers)
            self._round = tuple(numbers)
        while self._round:
            number, self._round = self._round[0], self._round[1:]
            if number in self.links:
                self._ask(self.links[number], now, GIVE_UP_SECONDS)
                return
