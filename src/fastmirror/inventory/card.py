"""What a node says of itself, signed, so that others can pass it on and nobody can invent it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

from fastmirror.inventory.wire import BadFrame, Reader, Writer

SIGNED_WITH: Final = b"fastmirror-inventory-card-1:"
LEFT: Final = 1
"""Flag: this node says good-bye; nothing it had is there any more."""

MAX_KEYS: Final = 65_536
MAX_HOSTS: Final = 8
MAX_NAME: Final = 63
MAX_EXTRA: Final = 1024

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes, bytes], bool]
"""Whether a signature (third) over bytes (second) is that of a node (first)."""


class Version(NamedTuple):
    """Which of two states of one node is newer: the epoch grows with each start, the sequence with each change."""

    epoch: int
    sequence: int


class Card(NamedTuple):
    """One node at one version: who it is, where it says that it can be reached, what all its keys together hash to.

    ``owner`` is the binary libp2p peer id, ``hosts`` are addresses in text form, the best first, ``token`` is what the
    node's peer listener wants to see (empty: nothing), ``extra`` what later versions append to the body: it is signed
    and passed on as it is.
    """

    owner: bytes
    version: Version
    flags: int
    name: str
    zone: str
    hosts: tuple[str, ...]
    router_port: int
    peer_port: int
    token: bytes
    key_count: int
    root: bytes
    extra: bytes = b""
    signature: bytes = b""

    @property
    def left(self) -> bool:
        """Whether this is the node's last word in this epoch."""
        return bool(self.flags & LEFT)

    def body(self) -> bytes:
        """What is signed."""
        writer = Writer().short(self.owner).u64(self.version.epoch).u64(self.version.sequence).u8(self.flags)
        writer.short(self.name.encode()).short(self.zone.encode()).u8(len(self.hosts))
        for host in self.hosts:
            writer.short(socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host))
        writer.u16(self.router_port).u16(self.peer_port).short(self.token).u32(self.key_count).raw(self.root)
        return writer.raw(self.extra).done()

    def signed(self, sign: Sign) -> Card:
        """The same with a signature."""
        return self._replace(signature=sign(SIGNED_WITH + self.body()))

    def genuine(self, verify: Verify) -> bool:
        """Whether its owner signed it."""
        return verify(self.owner, SIGNED_WITH + self.body(), self.signature)

    def encode(self) -> bytes:
        """As it travels: length of the body, body, signature (64 bytes)."""
        body = self.body()
        return Writer().u16(len(body)).raw(body).raw(self.signature).done()


def read_card(reader: Reader) -> Card:
    """The next card of a frame; its signature is not looked at. Raises BadFrame for what no honest node sends."""
    body = Reader(reader.raw(reader.u16()))
    signature = reader.raw(64)
    owner = body.short()
    version = Version(body.u64(), body.u64())
    flags = body.u8()
    name, zone = _text(body.short()), _text(body.short())
    count_hosts = body.u8()
    if count_hosts > MAX_HOSTS:
        raise BadFrame(f"a node with {count_hosts} addresses")
    hosts = tuple(_host(body.short()) for _ in range(count_hosts))
    ports = body.u16(), body.u16()
    token = body.short()
    count, root = body.u32(), body.raw(32)
    if count > MAX_KEYS:
        raise BadFrame(f"a node with {count} keys")
    extra = body.rest()
    if len(extra) > MAX_EXTRA:
        raise BadFrame("a card that is too long")
    return Card(owner, version, flags, name, zone, hosts, *ports, token, count, root, extra, signature)


def _host(packed: bytes) -> str:
    if len(packed) not in (4, 16):
        raise BadFrame(f"an address of {len(packed)} bytes")
    return str(ipaddress.ip_address(packed))


def _text(data: bytes) -> str:
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise BadFrame("a name that is not ASCII") from None
    if len(text) > MAX_NAME or not text.isprintable():
        raise BadFrame("a name that is too long or cannot be printed")
    return text
