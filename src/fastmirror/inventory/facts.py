"""What the inventory of a node asks of the one who runs it, and what it tells: plain values, in order."""

from __future__ import annotations

from typing import NamedTuple

from fastmirror.inventory.card import Card
from fastmirror.inventory.keys import KeySet


class Send(NamedTuple):
    """Put this frame on a link."""

    link: int
    data: bytes


class Close(NamedTuple):
    """End a link after what was to be sent on it."""

    link: int
    why: str


class Dial(NamedTuple):
    """Connect to this node at one of these addresses, to stay."""

    owner: bytes
    hosts: tuple[str, ...]
    port: int


class Meet(NamedTuple):
    """Find out whether this node answers at one of these addresses; the first at which it does counts."""

    owner: bytes
    hosts: tuple[str, ...]
    port: int


class Up(NamedTuple):
    """This node is there, answers HTTP at ``host`` and its card's ``peer_port``, and has these keys.

    Told again when any of it but the keys has changed.
    """

    card: Card
    host: str
    keys: KeySet


class Changed(NamedTuple):
    """Keys of a node that is up."""

    owner: bytes
    add: tuple[int, ...]
    drop: tuple[int, ...]


class Down(NamedTuple):
    """This node is not there any more, nor is anything that it had."""

    owner: bytes
    why: str


class Renew(NamedTuple):
    """Another process has this node's identity: take a new one."""


Fact = Send | Close | Dial | Meet | Up | Changed | Down | Renew
