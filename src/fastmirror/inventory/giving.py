"""What a node of the inventory gives to those that ask for what it knows: no faster than they may be sent it. Pure."""

from __future__ import annotations

from typing import Final

from fastmirror.inventory import messages as m
from fastmirror.inventory.links import Links
from fastmirror.inventory.member import Link

GIVE_BYTES_PER_SECOND: Final = 4 << 20  # what the other side reads of a link
GIVE_AT_ONCE: Final = 2 << 20
GIVE_SECONDS: Final = 0.1


class Giving(Links):
    """The part of :class:`fastmirror.inventory.node.Inventory` that answers WANT."""

    def _wanted_by(self, link: Link, listed: tuple[m.Listed, ...], now: float) -> None:
        for owner, version in listed:
            if len(link.wants) < m.MAX_LISTED:
                link.wants[owner] = version
        self._give(link, now)

    def _give(self, link: Link, now: float) -> None:
        """Send what is wanted on a link, as much as may be sent by now; the rest follows."""
        sent, at = link.given
        sent = max(0.0, sent - (now - at) * GIVE_BYTES_PER_SECOND)
        while link.wants and sent < GIVE_AT_ONCE:
            owner = next(iter(link.wants))
            version = link.wants.pop(owner)
            snapshot = None
            if owner == self.me:
                if self.ledger.version > version:
                    snapshot = self.ledger.snapshot()
            elif (member := self.members.get(owner)) is not None and member.live and member.version > version:
                snapshot = m.Snapshot(member.card, member.keys)
            if snapshot is not None:
                data = snapshot.encode()
                sent += len(data)
                self._send_data(link, data)
        link.given = sent, now

    def _keep_giving(self, now: float) -> None:
        for link in self.links.values():
            if link.wants:
                self._give(link, now)
                if link.wants:
                    self._wake_by(now + GIVE_SECONDS)
