"""The frames of /fastmirror/inventory/1.0.0, each with the bytes it is on the wire. Source: docs/inventory.md."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from fastmirror.inventory.card import MAX_KEYS, Card, Version, read_card
from fastmirror.inventory.keys import KEY_BYTES, KeySet, pack, unpack
from fastmirror.inventory.wire import BadFrame, Reader, Writer, frame

PROTOCOL: Final = "/fastmirror/inventory/1.0.0"
VERSION: Final = 1
MAX_LISTED: Final = 8192
MAX_FLIGHTS: Final = 1024

# reasons of PART
DUPLICATE, FULL, PRUNED, LEAVING, CLONE = 1, 2, 3, 4, 5
REASONS: Final = {DUPLICATE: "duplicate", FULL: "full", PRUNED: "pruned", LEAVING: "leaving", CLONE: "clone"}


class Hello(NamedTuple):
    """The first frame of both sides. ``instance`` is drawn at each start: it tells a clone from a restart."""

    instance: int
    card: Card
    version: int = VERSION

    def encode(self) -> bytes:
        """The frame."""
        return frame(1, Writer().u16(self.version).u64(self.instance).raw(self.card.encode()).done())


class Snapshot(NamedTuple):
    """All that a node has."""

    card: Card
    keys: KeySet

    def encode(self) -> bytes:
        """The frame."""
        return frame(2, self.card.encode() + self.keys.packed())


class Delta(NamedTuple):
    """What has changed since the sequence ``base`` of the same epoch; the card is that after the change."""

    card: Card
    base: int
    add: tuple[int, ...]
    drop: tuple[int, ...]

    def encode(self) -> bytes:
        """The frame."""
        writer = Writer().raw(self.card.encode()).u64(self.base).u32(len(self.add))
        return frame(3, writer.raw(pack(self.add)).raw(pack(self.drop)).done())


class Bye(NamedTuple):
    """A node leaves: a card with the flag LEFT."""

    card: Card

    def encode(self) -> bytes:
        """The frame."""
        return frame(4, self.card.encode())


class Ping(NamedTuple):
    """Are you there? And the sender's view of all nodes as one number."""

    nonce: int
    view: int

    def encode(self) -> bytes:
        """The frame."""
        return frame(5, Writer().u64(self.nonce).u64(self.view).done())


class Pong(NamedTuple):
    """The answer to the Ping with this nonce."""

    nonce: int
    view: int

    def encode(self) -> bytes:
        """The frame."""
        return frame(6, Writer().u64(self.nonce).u64(self.view).done())


class Suspect(NamedTuple):
    """The sender believes that this node at this version is gone. Answered by a newer version, if it is not."""

    owner: bytes
    version: Version

    def encode(self) -> bytes:
        """The frame."""
        return frame(7, Writer().short(self.owner).u64(self.version.epoch).u64(self.version.sequence).done())


Listed = tuple[bytes, Version]


class View(NamedTuple):
    """Nodes that are there as far as the sender knows, with the version it has of each.

    ``answer``: the sender gave the whole view and wants the receiver's.
    """

    listed: tuple[Listed, ...]
    answer: bool

    def encode(self) -> bytes:
        """The frame."""
        return frame(8, Writer().u8(self.answer).raw(_list(self.listed)).done())


class Want(NamedTuple):
    """Send me these nodes' snapshots; the versions are those that the sender has."""

    listed: tuple[Listed, ...]

    def encode(self) -> bytes:
        """The frame."""
        return frame(9, _list(self.listed))


class Part(NamedTuple):
    """The sender ends this connection, and is well."""

    reason: int

    def encode(self) -> bytes:
        """The frame."""
        return frame(10, bytes((self.reason,)))


class Flight(NamedTuple):
    """One blob on its way to the sender: how many of its bytes are there."""

    key: int
    size: int
    have: int


class Flights(NamedTuple):
    """All blobs on their way to the sender, which replaces what it said before. Never passed on."""

    flights: tuple[Flight, ...]

    def encode(self) -> bytes:
        """The frame."""
        writer = Writer().u16(len(self.flights))
        for flight in self.flights:
            writer.raw(pack((flight.key,))).u64(flight.size).u64(flight.have)
        return frame(11, writer.done())


Message = Hello | Snapshot | Delta | Bye | Ping | Pong | Suspect | View | Want | Part | Flights


@functools.cache
def _entry(size: int) -> struct.Struct:
    """An entry of a list whose owner's id has this many bytes."""
    return struct.Struct(f">B{size}sQQ")


def _list(listed: Iterable[Listed]) -> bytes:
    entries = tuple(listed)
    parts = [_entry(len(owner)).pack(len(owner), owner, *version) for owner, version in entries]
    return Writer().u16(len(entries)).raw(b"".join(parts)).done()


def _read_list(reader: Reader) -> tuple[Listed, ...]:
    count = reader.u16()
    if count > MAX_LISTED:
        raise BadFrame(f"a list of {count} nodes")
    data = reader.rest()
    if count and data:
        entry = _entry(data[0])
        if len(data) >= count * entry.size and set(data[: count * entry.size : entry.size]) == {data[0]}:
            # the usual case, ten times faster: all ids have one length
            whole = data[: count * entry.size]
            return tuple((owner, Version(epoch, last)) for _, owner, epoch, last in entry.iter_unpack(whole))
    slow = Reader(data)
    return tuple((slow.short(), Version(slow.u64(), slow.u64())) for _ in range(count))


def _hello(reader: Reader) -> Hello:
    version, instance = reader.u16(), reader.u64()
    return Hello(instance, read_card(reader), version)


def _snapshot(reader: Reader) -> Snapshot:
    card = read_card(reader)
    data = reader.rest()
    if len(data) != card.key_count * KEY_BYTES:
        raise BadFrame("a snapshot with more or fewer keys than its card says")
    keys = KeySet.parse(data)
    if keys is None or keys.root != card.root:
        raise BadFrame("a snapshot whose keys are not those of its card")
    return Snapshot(card, keys)


def _delta(reader: Reader) -> Delta:
    card, base, count = read_card(reader), reader.u64(), reader.u32()
    if count > MAX_KEYS:
        raise BadFrame(f"a change of {count} keys")
    add = tuple(unpack(reader.raw(count * KEY_BYTES)))
    rest = reader.rest()
    if len(rest) % KEY_BYTES or len(rest) > MAX_KEYS * KEY_BYTES:
        raise BadFrame("a change with an odd end")
    return Delta(card, base, add, tuple(unpack(rest)))


def _flights(reader: Reader) -> Flights:
    count = reader.u16()
    if count > MAX_FLIGHTS:
        raise BadFrame(f"{count} blobs on their way")
    return Flights(tuple(Flight(unpack(reader.raw(KEY_BYTES))[0], reader.u64(), reader.u64()) for _ in range(count)))


_PARSERS: Final[dict[int, Callable[[Reader], Message]]] = {
    1: _hello,
    2: _snapshot,
    3: _delta,
    4: lambda reader: Bye(read_card(reader)),
    5: lambda reader: Ping(reader.u64(), reader.u64()),
    6: lambda reader: Pong(reader.u64(), reader.u64()),
    7: lambda reader: Suspect(reader.short(), Version(reader.u64(), reader.u64())),
    8: lambda reader: View(answer=bool(reader.u8()), listed=_read_list(reader)),
    9: lambda reader: Want(_read_list(reader)),
    10: lambda reader: Part(reader.u8()),
    11: _flights,
}


def parse(kind: int, payload: bytes) -> Message | None:
    """The message of a frame; None for a kind that this version does not know, which is skipped. Raises BadFrame.

    What stands behind the end of a known message is ignored where its length does not follow from the frame's: later
    versions append there.
    """
    parser = _PARSERS.get(kind)
    return None if parser is None else parser(Reader(payload))
