"""A peer that means harm: ``python -m tests.p2p.hostile MODE HOST PORT [OWN-HOST] [SECRET]``. Prints what became of it.

It has an identity and gets as far as a link, where its mode needs one.
"""

from __future__ import annotations

import random
import struct
import sys
import time

import trio
import trio.lowlevel
from libp2p.crypto.ed25519 import create_new_key_pair

from fastmirror.inventory.card import MAX_KEYS, Card, Version
from fastmirror.inventory.keys import KeySet, pack
from fastmirror.inventory.messages import Delta, Hello, Ping, Pong, Snapshot, Suspect, View, Want, parse
from fastmirror.inventory.wire import frame
from fastmirror.p2p.secure import Guest
from fastmirror.p2p.wire import Wire, greet, muxed

SECONDS = 2.0


class Hostile:
    """One identity and what it does with it."""

    def __init__(self, host: str, port: int, own_host: str, secret: bytes) -> None:
        self.place = host, port
        self.pair = create_new_key_pair()
        self.guest = Guest(self.pair, (), lambda: [secret] if secret else [])
        self.own_host = own_host
        self.seen: dict[bytes, Card] = {}

    def card(self, keys: KeySet, sequence: int = 1) -> Card:
        me = self.guest.me.to_bytes()
        ports = 4400, 5001
        hosts = (self.own_host,)
        card = Card(me, Version(1, sequence), 0, "hostile", "", hosts, *ports, b"", len(keys), keys.root)
        return card.signed(self.pair.private_key.sign)

    async def answer(self, stream: trio.SocketStream) -> None:
        """Show who it is to whoever looks for it."""
        with trio.move_on_after(SECONDS):
            try:
                await greet(stream, self.guest, None, False)
                await trio.sleep_forever()
            except Exception:  # the other side has seen enough
                return

    async def link(self, act) -> str:
        """Get a link, do ``act`` with it, and wait for its end."""
        try:
            stream = await trio.open_tcp_stream(*self.place)
            secured, _ = await greet(stream, self.guest, None, True)
            wire, muxer = await muxed(secured, True)
            async with trio.open_nursery() as nursery:
                wire.scope = nursery.cancel_scope
                nursery.start_soon(muxer.start)
                await wire.begin()
                nursery.start_soon(wire.write)
                wire.put(Hello(random.getrandbits(64), self.card(KeySet())).encode())
                nursery.start_soon(self._listen, wire)
                with trio.move_on_after(SECONDS):
                    await act(wire, muxer)
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()
            return "linked to the end"
        except BaseException as error:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if not isinstance(error, Exception):
                raise
            return f"ended: {type(error).__name__}"

    async def _listen(self, wire: Wire) -> None:
        while True:
            message = parse(*await wire.frame())
            if isinstance(message, Ping):
                wire.put(Pong(message.nonce, message.view).encode())
            if isinstance(message, Snapshot | Hello):
                self.seen[message.card.owner] = message.card


async def frames_too_large(peer: Hostile) -> str:
    return await peer.link(lambda wire, muxer: _put(wire, b"\xff\xff\xff\xff\x02" + bytes(1000)))


async def malformed(peer: Hostile) -> str:
    outcomes = []
    for kind in range(1, 12):
        body = random.randbytes(random.randrange(200))
        outcomes.append(await _brief(peer, lambda wire, muxer, kind=kind, body=body: _put(wire, frame(kind, body))))
    return ", ".join(sorted(set(outcomes)))


async def many_keys(peer: Hostile) -> str:
    """A million keys, in changes of 16,000."""

    async def act(wire: Wire, muxer) -> None:
        keys = KeySet()
        wire.put(Snapshot(peer.card(keys), keys).encode())
        for sequence in range(2, 64):
            add = tuple(random.getrandbits(64) for _ in range(16_000))
            keys = keys.changed(add, ())
            if len(keys) > MAX_KEYS:
                wire.put(
                    frame(3, peer.card(KeySet(), sequence).encode() + pack((sequence - 1,)) + b"\0\1\0\1" + pack(add))
                )
            else:
                wire.put(Delta(peer.card(keys, sequence), sequence - 1, add, ()).encode())
            await trio.lowlevel.checkpoint()

    return await peer.link(act)


async def flood(peer: Hostile) -> str:
    async def act(wire: Wire, muxer) -> None:
        while True:
            wire.put(Ping(1, 2).encode() * 500 + View((), True).encode() * 100)
            await trio.sleep(0.001)

    return await peer.link(act)


async def headers(peer: Hostile) -> str:
    """Frames of yamux that carry nothing and ask for nothing, as many as go."""

    async def act(wire: Wire, muxer) -> None:
        flood = struct.pack("!BBHII", 0, 2, 2, 0, 7) * 5000  # answers to pings that nobody sent
        while True:
            await muxer.secured_conn.write(flood)

    return await peer.link(act)


async def wants(peer: Hostile) -> str:
    """Asks again and again for all that the other one knows, and reads none of it."""

    async def act(wire: Wire, muxer) -> None:
        await trio.sleep(0.3)
        everything = Want(tuple((owner, Version(0, 0)) for owner in list(peer.seen)) * 2000).encode()
        for _ in range(200):
            wire.put(everything)
            await trio.sleep(0.005)

    return await peer.link(act)


async def views(peer: Hostile) -> str:
    """Tells of thousands of nodes that are nowhere, other ones each time."""

    async def act(wire: Wire, muxer) -> None:
        for _ in range(64):
            listed = tuple((random.randbytes(38), Version(1, 1)) for _ in range(8000))
            wire.put(View(listed, True).encode())
            await trio.sleep(0.02)

    return await peer.link(act)


async def streams(peer: Hostile) -> str:
    global SECONDS
    SECONDS = 5.0  # it is found out by not answering

    async def act(wire: Wire, muxer) -> None:
        for _ in range(200):
            stream = await muxer.open_stream()
            await stream.write(bytes(60_000))

    return await peer.link(act)


async def claims_for_others(peer: Hostile) -> str:
    """Says that the others have nothing any more, that they left, and that they are dead."""

    async def act(wire: Wire, muxer) -> None:
        await trio.sleep(1.0)
        for card in list(peer.seen.values()):
            forged = card._replace(version=Version(card.version.epoch, card.version.sequence + 5), key_count=0)
            forged = forged._replace(root=KeySet().root).signed(peer.pair.private_key.sign)
            for _ in range(50):
                wire.put(Suspect(card.owner, card.version).encode())
            wire.put(Snapshot(forged, KeySet()).encode())

    return await peer.link(act)


async def crowd(peer: Hostile) -> str:
    """A hundred identities on this machine, each of which answers when it is looked for and says that it has a key."""
    keys = KeySet({int(argument, 16) for argument in sys.argv[6:]})
    cards = []
    async with trio.open_nursery() as nursery:
        for number in range(100):
            other = Hostile(*peer.place, peer.own_host, b"")
            listeners = await trio.open_tcp_listeners(0, host=peer.own_host)
            port = listeners[0].socket.getsockname()[1]
            card = other.card(keys)._replace(router_port=port, peer_port=5001 + number)
            cards.append(card.signed(other.pair.private_key.sign))
            nursery.start_soon(trio.serve_listeners, other.answer, listeners)

        async def act(wire: Wire, muxer) -> None:
            for card in cards:
                wire.put(Snapshot(card, keys).encode())

        outcome = await peer.link(act)
        nursery.cancel_scope.cancel()
    return outcome


async def half_open(peer: Hostile) -> str:
    held = [await trio.open_tcp_stream(*peer.place) for _ in range(300)]
    await trio.sleep(SECONDS)
    return f"held {len(held)}"


async def rubbish(peer: Hostile) -> str:
    for _ in range(100):
        try:
            stream = await trio.open_tcp_stream(*peer.place)
            await stream.send_all(random.choice([b"GET / HTTP/1.1\r\n\r\n", random.randbytes(3000), b""]))
            await stream.aclose()
        except (OSError, trio.BrokenResourceError):
            continue
    return "sent"


async def join(peer: Hostile) -> str:
    """A guest that only wants in, with an address that is not its own."""

    async def act(wire: Wire, muxer) -> None:
        keys = KeySet({int(argument, 16) for argument in sys.argv[6:]})
        wire.put(Snapshot(peer.card(keys, 2), keys).encode())

    return await peer.link(act)


async def _put(wire: Wire, data: bytes) -> None:
    wire.put(data)


async def _brief(peer: Hostile, act) -> str:
    global SECONDS
    SECONDS = 0.15
    return await peer.link(act)


def main() -> None:
    mode, host, port = sys.argv[1:4]
    own_host = sys.argv[4] if len(sys.argv) > 4 else host
    secret = sys.argv[5].encode() if len(sys.argv) > 5 else b""
    began = time.monotonic()
    outcome = trio.run(globals()[mode], Hostile(host, int(port), own_host, secret))
    print(f"{outcome} ({time.monotonic() - began:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
