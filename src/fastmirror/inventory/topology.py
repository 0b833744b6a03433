"""Whom a node of the inventory connects to, lets go, and goes to see. Pure; takes ``now``."""

from __future__ import annotations

from typing import Final

from fastmirror.inventory import messages as m
from fastmirror.inventory.facts import Dial
from fastmirror.inventory.giving import Giving
from fastmirror.inventory.member import Member, State
from fastmirror.inventory.overlay import chosen, complete

STEP_SECONDS: Final = 1.0
YIELD_SECONDS: Final = 0.5  # the node with the larger id leaves dialling to the other one for that long
SETTLE_SECONDS: Final = 5.0  # what was chosen stays connected for at least that long
AUDIT_SECONDS: Final = 10.0
DIALS: Final = 8


class Topology(Giving):
    """The part of :class:`fastmirror.inventory.node.Inventory` that decides about connections."""

    _audit_at = 0.0
    _chosen: set[bytes] = set()  # noqa: RUF012 - replaced, never changed
    _chosen_of: list[bytes] | None = None  # the nodes that it was chosen of

    def _step(self, now: float) -> None:
        self._step_at = now + STEP_SECONDS * self._dice.uniform(0.9, 1.1)
        self.members.forget(now)
        for member in self.members.invented(now):
            self._lose(member, "never found where it says that it is", now)
        self._wanted = {owner: asked for owner, asked in self._wanted.items() if now < asked[1]}
        sound = self.members.sound
        full = {owner for owner in sound if (one := self.members.get(owner)) and one.full_until > now}
        if full or sound is not self._chosen_of:
            self._chosen, self._chosen_of = chosen(self.me, sound, full, self.degree), sound
        picked = self._chosen
        self._connect(picked, now)
        if not complete(self.degree, len(sound)):
            self._thin_out(picked, now)
            if now >= self._audit_at:
                self._audit(now)
        self.members.begin_meetings(now)

    def _connect(self, picked: set[bytes], now: float) -> None:
        dials = sum(member.dialling for member in self.members)
        everybody = complete(self.degree, len(self.members.sound))
        wanted = [member for owner in picked if (member := self.members.get(owner))]
        for one in self.members:  # those that were linked here are looked for, too
            gone = one.state is State.LOST or (one.doubted and one.live)
            if gone and one.adjacent and one.owner not in picked:
                wanted.append(one)
        for member in wanted:
            if member.owner in self._by_owner or member.dialling:
                continue
            at = max(member.dial_at, member.since + YIELD_SECONDS if everybody and member.owner < self.me else 0.0)
            if now < at:
                self._step_at = min(self._step_at, at)
            elif dials < DIALS:
                dials += self._dial(member, now)

    def _dial(self, member: Member, now: float) -> bool:
        hosts = self.members.dialable(member.card)
        if not hosts or not member.card.router_port:
            self.not_linked(member.owner, "no address that may be dialled (--peer-cidr)", now)
            return False
        member.dialling = True
        self.facts.append(Dial(member.owner, hosts, member.card.router_port))
        return True

    def _thin_out(self, picked: set[bytes], now: float) -> None:
        """End links that this node made and does not choose any more, and the youngest of too many others."""
        for link in [link for link in self.links.values() if link.outbound and link.owner not in picked]:
            if now - link.since > SETTLE_SECONDS and len(self.links) > 1:
                self._drop_link(link, "pruned", m.PRUNED)
        others = sorted((link for link in self.links.values() if not link.outbound), key=lambda link: link.since)
        for link in others[self.degree :]:
            if now - link.since > SETTLE_SECONDS and not self._neighbour(link.owner):
                self._drop_link(link, "full", m.FULL)

    def _audit(self, now: float) -> None:
        """Meet one node that is not linked here again: if nobody watches it, this finds out that it is gone."""
        self._audit_at = now + AUDIT_SECONDS * self._dice.uniform(0.5, 1.5)
        far = [
            one for one in self.members if one.live and one.host and not one.meeting and one.owner not in self._by_owner
        ]
        if far:
            self.members.meet(self._dice.choice(far), now)
