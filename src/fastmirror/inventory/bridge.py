"""What the data plane and the router process tell each other over their socket: frames of a length and msgpack.

Both ends are of one version: the data plane starts the router from its own installation. Keys are packed (see
``keys.pack``).
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

LENGTH: Final = struct.Struct(">I")
MAX_MESSAGE: Final = 4 << 20


class Start(msgspec.Struct, tag="start", frozen=True):
    """To the router, first: all its settings. ``epoch`` is the last one this node used, 0 if unknown."""

    listen_host: str
    listen_port: int
    peer_host: str
    peer_port: int
    bootstrap: list[str]
    peer_cidr: list[str]
    data_dir: str
    secret_file: str
    allowed_ids: list[str]
    degree: int
    name: str
    zone: str
    epoch: int
    log_level: str


class Publish(msgspec.Struct, tag="publish", frozen=True):
    """To the router: this node's keys are exactly these."""

    keys: bytes


class Change(msgspec.Struct, tag="change", frozen=True):
    """To the router: this node has these keys more and those less."""

    add: bytes
    drop: bytes


class Leave(msgspec.Struct, tag="leave", frozen=True):
    """To the router: say good-bye to everybody. Answered by Gone."""


class Alive(msgspec.Struct, tag="alive", frozen=True):
    """To the router: are you there? Answered by the same."""

    number: int


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """From the router: it listens."""

    peer_id: str
    listen: str
    epoch: int


class Tokens(msgspec.Struct, tag="tokens", frozen=True):
    """From the router: the tokens that this node's peer listener accepts from now on."""

    accepted: list[bytes]


class NodeUp(msgspec.Struct, tag="up", frozen=True):
    """From the router: this node is there, with exactly these keys."""

    owner: bytes
    name: str
    zone: str
    host: str
    port: int
    token: bytes
    keys: bytes


class NodeChanged(msgspec.Struct, tag="changed", frozen=True):
    """From the router: a node that is up has these keys more and those less."""

    owner: bytes
    add: bytes
    drop: bytes


class NodeDown(msgspec.Struct, tag="down", frozen=True):
    """From the router: this node is gone."""

    owner: bytes
    why: str


class PeerRow(msgspec.Struct, frozen=True):
    """One line of ``fastmirror peers``. Times in seconds; ``age`` since the state began."""

    peer_id: str
    name: str
    zone: str
    address: str
    state: str
    connection: str
    round_trip: float | None
    keys: int
    age: float
    failure: str
    failure_age: float | None


class Status(msgspec.Struct, tag="status", frozen=True):
    """From the router, once a second if it has changed. ``problem`` is why it finds nobody, "" if there is none;
    ``settled``: it knows whom it can know by now.
    """

    counters: dict[str, int]
    problem: str
    settled: bool


class Ask(msgspec.Struct, tag="ask", frozen=True):
    """To the router: tell all you know of others. Answered by Rows."""


class Rows(msgspec.Struct, tag="rows", frozen=True):
    """From the router: all it knows of others."""

    peers: list[PeerRow]


class Gone(msgspec.Struct, tag="gone", frozen=True):
    """From the router: good-byes were sent."""


ToRouter = Start | Publish | Change | Leave | Alive | Ask
FromRouter = Ready | Tokens | NodeUp | NodeChanged | NodeDown | Status | Rows | Gone | Alive

_encoder: Final = msgspec.msgpack.Encoder()
_to_router: Final[msgspec.msgpack.Decoder[ToRouter]] = msgspec.msgpack.Decoder(ToRouter)
_from_router: Final[msgspec.msgpack.Decoder[FromRouter]] = msgspec.msgpack.Decoder(FromRouter)


def encode(message: ToRouter | FromRouter) -> bytes:
    """One frame."""
    data = _encoder.encode(message)
    return LENGTH.pack(len(data)) + data


class Splitter:
    """Makes message bodies of a stream of bytes."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that are complete now. Raises ValueError if the other end does not speak this."""
        held = self._held
        held += data
        found = []
        at = 0
        while len(held) - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(held, at)
            if length > MAX_MESSAGE:
                raise ValueError(f"a message of {length} bytes")
            if len(held) - at < LENGTH.size + length:
                break
            found.append(bytes(held[at + LENGTH.size : at + LENGTH.size + length]))
            at += LENGTH.size + length
        del held[:at]
        return found


def to_router(body: bytes) -> ToRouter:
    """What the data plane says. Raises msgspec.DecodeError."""
    return _to_router.decode(body)


def from_router(body: bytes) -> FromRouter:
    """What the router says. Raises msgspec.DecodeError."""
    return _from_router.decode(body)
