"""Who this node is: an Ed25519 key, kept in the data directory where that is possible.

Source: libp2p specs, peer-ids (the protobuf form of keys; ids of Ed25519 keys hold the public key itself).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from libp2p.crypto.ed25519 import Ed25519PrivateKey, Ed25519PublicKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.peer.id import ID

log = logging.getLogger(__name__)

FILE: Final = "identity.key"
_PRIVATE_PREFIX: Final = b"\x08\x01\x12\x40"  # protobuf: type Ed25519, 64 bytes: seed and public key
_ID_PREFIX: Final = b"\x00\x24\x08\x01\x12\x20"  # identity multihash of the protobuf of a public key


def load(data_dir: str) -> tuple[KeyPair, bool]:
    """The key of this node, and whether it will be the same after a restart.

    A key that cannot be read as one is replaced, never used.
    """
    if not data_dir:
        return create_new_key_pair(), False
    path = Path(data_dir) / FILE
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = path.read_bytes()
    except FileNotFoundError:
        return replace(data_dir)
    except OSError as error:
        log.warning("the identity cannot be read: a new one is used", exc_info=error, extra={"event": "p2p.key_lost"})
        return create_new_key_pair(), False
    if len(data) == 68 and data.startswith(_PRIVATE_PREFIX):
        private = Ed25519PrivateKey.from_bytes(data[4:36])
        if private.get_public_key().to_bytes() == data[36:]:
            return KeyPair(private, private.get_public_key()), True
    log.warning("the identity file is damaged: a new one is made", extra={"event": "p2p.key_replaced"})
    return replace(data_dir)


def replace(data_dir: str) -> tuple[KeyPair, bool]:
    """A new key, kept if that is possible; see :func:`load`."""
    pair = create_new_key_pair()
    if not data_dir:
        return pair, False
    path = Path(data_dir) / FILE
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(fd, _PRIVATE_PREFIX + pair.private_key.to_bytes() + pair.public_key.to_bytes())
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(path)
    except OSError as error:
        log.warning(
            "the identity cannot be kept: it changes at each start", exc_info=error, extra={"event": "p2p.key_not_kept"}
        )
        return pair, False
    return pair, True


def verify(owner: bytes, data: bytes, signature: bytes) -> bool:
    """Whether the node with this binary peer id signed ``data``; False for ids of other kinds of keys."""
    if len(owner) != 38 or not owner.startswith(_ID_PREFIX):
        return False
    try:
        return bool(Ed25519PublicKey.from_bytes(owner[6:]).verify(data, signature))
    except ValueError:
        return False


def known_kind(peer: ID) -> bool:
    """Whether a peer's identity is of the only kind that takes part: Ed25519."""
    data = peer.to_bytes()
    return len(data) == 38 and data.startswith(_ID_PREFIX)


def text(owner: bytes) -> str:
    """A peer id as people write it (base58)."""
    return ID(owner).to_base58()
