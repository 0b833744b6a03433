"""From a TCP connection to a libp2p one: multistream-select, Noise, who may come in, multistream-select, yamux.

py-libp2p's own host is not used: these are its parts, with our deadlines and limits around each of them (why:
docs/decisions/0005). Every wait here is bounded by its caller.
Source: libp2p specs, connections; noise; yamux.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Collection
from typing import Any, Final

import trio
from libp2p.abc import ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_noise_key
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.utils import read_exactly
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.patterns import PatternXX
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX

from fastmirror.p2p import identity

ADMISSION: Final = TProtocol("/fastmirror/noise-admission/1.0.0")
NEGOTIATE_SECONDS: Final = 5
WRITE_SECONDS: Final = 5.0
MOST_READ: Final = 1 << 17
_NONCE: Final = 32
_LABEL: Final = b"fastmirror admission 1"


class Refused(Exception):
    """The other side may not take part, or does not prove that it may; the text says why."""


class Guest:
    """Who may take part: the ids that are allowed (empty: all) and the admission secrets (empty: none is asked for)."""

    def __init__(self, pair: KeyPair, allowed: Collection[str], secrets: Callable[[], list[bytes]]) -> None:
        self.me = ID.from_pubkey(pair.public_key)
        self._pair = pair
        self._noise_key = new_noise_key().private_key
        self._allowed = frozenset(allowed)
        self._secrets = secrets

    @property
    def trusts_somebody(self) -> bool:
        """Whether taking part needs anything at all."""
        return bool(self._allowed or self._secrets())

    async def secure(self, raw: RawConnection, expected: ID | None) -> tuple[ISecureConn, bytes]:
        """An encrypted connection to somebody who may take part, and the secret that it knows (empty: none is needed).

        ``expected``: None takes whoever answers.

        Raises Refused, and what py-libp2p raises for broken connections and protocols. Cancel: the connection is to be
        closed by its owner.
        """
        protocol = ADMISSION if self._secrets() else NOISE
        await select(raw, protocol)
        pattern = PatternXX(self.me, self._pair.private_key, self._noise_key)
        if raw.is_initiator:
            secured = await pattern.handshake_outbound(raw, expected)
        else:
            secured = await pattern.handshake_inbound(raw)
        peer = secured.get_remote_peer()
        if not identity.known_kind(peer):
            raise Refused("its identity is not an Ed25519 key")
        if self._allowed and peer.to_base58() not in self._allowed:
            raise Refused("its peer id is not in --allow-peer-id")
        secret = await self._admit(secured, peer, raw.is_initiator) if protocol == ADMISSION else b""
        return secured, secret

    async def _admit(self, secured: ISecureConn, peer: ID, initiator: bool) -> bytes:
        """Both sides prove that they know a secret; who dialled does so first, so that strangers learn nothing."""
        secrets = self._secrets()
        mine = os.urandom(_NONCE)
        await secured.write(mine)
        theirs = await read_exactly(secured, _NONCE)
        dialler, answerer = (self.me, peer) if initiator else (peer, self.me)
        nonces = mine + theirs if initiator else theirs + mine
        about = nonces + dialler.to_bytes() + answerer.to_bytes()
        if initiator:
            await secured.write(_proof(secrets[0], b"dialler", about))
            return _check(secrets, await read_exactly(secured, 32), b"answerer", about)
        secret = _check(secrets, await read_exactly(secured, 32), b"dialler", about)
        await secured.write(_proof(secrets[0], b"answerer", about))
        return secret


def _proof(secret: bytes, role: bytes, about: bytes) -> bytes:
    return hmac.digest(secret, _LABEL + role + about, "sha256")


def _check(secrets: list[bytes], proof: bytes, role: bytes, about: bytes) -> bytes:
    # all of them, whichever fits: how long it takes tells nothing
    fitting = [secret for secret in secrets if hmac.compare_digest(proof, _proof(secret, role, about))]
    if not fitting:
        raise Refused("it does not know the admission secret")
    return fitting[0]


async def select(connection: Any, protocol: TProtocol) -> None:
    """Agree on one protocol, the only one that this side speaks. Raises what py-libp2p raises if that fails."""
    communicator = MultiselectCommunicator(connection)
    if connection.is_initiator:
        await MultiselectClient().select_one_of((protocol,), communicator, NEGOTIATE_SECONDS)
        return
    server = Multiselect({protocol: None})
    await server.negotiate(communicator, NEGOTIATE_SECONDS)


async def select_muxer(secured: ISecureConn) -> None:
    """Agree on yamux."""
    await select(secured, TProtocol(YAMUX))


class TcpStream:
    """A trio stream as py-libp2p's parts want it.

    ``read(n)`` gives all n bytes or fewer at the end only: py-libp2p's read_exactly gives up after 100 pieces, which a
    slow network exceeds. Nothing that is read here is longer than a Noise message: more is refused before it is held.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._writing = trio.Lock()

    async def read(self, n: int | None = None) -> bytes:
        """``n`` bytes, or what there was before the end. Raises ConnectionClosedError."""
        if n is None or not 0 <= n <= MOST_READ:
            raise ConnectionClosedError(f"a read of {n} bytes")
        found = bytearray()
        try:
            while len(found) < n:
                piece = await self.stream.receive_some(n - len(found))
                if not piece:
                    break
                found += piece
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("reset") from error
        return bytes(found)

    async def write(self, data: bytes) -> None:
        """Send all. Raises ConnectionClosedError, also if that takes longer than WRITE_SECONDS."""
        try:
            with trio.fail_after(WRITE_SECONDS):
                async with self._writing:
                    await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise ConnectionClosedError("broken while writing") from error

    async def close(self) -> None:
        """Close the socket."""
        await self.stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port, for IPv6 too."""
        try:
            host, port = self.stream.socket.getpeername()[:2]
        except OSError:
            return None
        return str(host), int(port)


def raw_connection(stream: trio.SocketStream, initiator: bool) -> RawConnection:
    """A connection that py-libp2p's parts can work on."""
    return RawConnection(TcpStream(stream), initiator)  # type: ignore[arg-type]  # all that is used is there
