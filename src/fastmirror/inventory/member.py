"""A node as another one sees it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from fastmirror.inventory.card import Card, Version
from fastmirror.inventory.keys import KeySet


class State(enum.Enum):
    """Whether a member counts as being there."""

    LIVE = "live"
    LOST = "lost"  # believed gone; only a newer version of its own, or meeting it, brings it back
    LEFT = "left"  # said good-bye


class Link:
    """A connection on which hellos were exchanged. Times in seconds.

    ``deadline`` is when the node counts as gone unless it says anything before; None while nothing was asked.
    ``host`` is where we dialled it, "" if it dialled us.
    """

    def __init__(self, number: int, owner: bytes, instance: int, outbound: bool, now: float) -> None:
        self.number = number
        self.owner = owner
        self.instance = instance
        self.outbound = outbound
        self.since = now
        self.heard_at = now
        self.host = ""
        self.asked_at = 0.0
        self.deadline: float | None = None
        self.nonce = 0
        self.told = False  # the others were told that it does not answer
        self.suspects = (0.0, 0.0)  # of the limit on its suspicions: what it has used, and when
        self.round_trip: float | None = None
        self.wants: dict[bytes, Version] = {}  # nodes that it asked for and did not get yet, with what it has of them
        self.given = (0.0, 0.0)  # of the limit on what it is given: bytes, and when
        self.differs = 0  # answers in a row whose view was not ours


@dataclass(slots=True)
class Member:
    """One other node. ``host`` is where it was met; it is offered to look-ups only while it is live and was met."""

    card: Card
    keys: KeySet
    state: State
    since: float
    host: str = ""
    meeting: bool = False
    meet_at: float = 0.0
    failed_meets: int = 0
    offered: bool = False
    doubted_at: float = 0.0
    doubted: bool = False  # it was not found where it says that it is, and is not linked
    adjacent: bool = False  # was linked to us: it is ours to look for it when it is lost
    dialling: bool = False
    dial_at: float = 0.0
    failed_dials: int = 0
    full_until: float = 0.0
    failure: str = ""
    failed_at: float = 0.0
    warned_at: float = field(default=-1e9)  # a suspicion was handed on to it
    part: tuple[Version, int] | None = None  # of the view, for this version

    @property
    def owner(self) -> bytes:
        """Its peer id."""
        return self.card.owner

    @property
    def version(self) -> Version:
        """The version that is known of it."""
        return self.card.version

    @property
    def live(self) -> bool:
        """Whether it counts as being there."""
        return self.state is State.LIVE
