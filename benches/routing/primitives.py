"""What one of everything costs with py-libp2p: CPU seconds at one end, both ends in this process over loopback TCP."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair

from fastmirror.inventory.card import Card, Version
from fastmirror.inventory.ledger import Ledger
from fastmirror.inventory.messages import Delta, Ping, parse
from fastmirror.inventory.wire import HEADER
from fastmirror.p2p import identity
from fastmirror.p2p.secure import Guest
from fastmirror.p2p.wire import Wire, greet, muxed

FRAMES = 2000
CONNECTIONS = 40
CHANGES = 300


@dataclass(frozen=True)
class Costs:
    """Milliseconds of CPU at one end: a small frame sent or received, a connection made or taken, a change of a node
    with 2,000 keys made (told) and taken over (heard).
    """

    frame: float
    connection: float
    told: float
    heard: float


def measure() -> Costs:
    """All of them, in about two seconds of CPU."""
    pairs = [create_new_key_pair() for _ in range(2)]
    frame, connection = trio.run(_over_the_wire, pairs)
    return Costs(frame * 1000, connection * 1000, *(cost * 1000 for cost in _changes(pairs[0])))


def _changes(pair: KeyPair) -> tuple[float, float]:
    owner = Guest(pair, (), list).me.to_bytes()
    blank = Card(owner, Version(1, 0), 0, "n", "", ("10.0.0.1",), 5003, 5001, b"", 0, bytes(32))
    ledger = Ledger(blank, pair.private_key.sign)
    dice = random.Random(1)
    ledger.replace({dice.getrandbits(64) for _ in range(2000)}, 0.0)
    ledger.flush(0.0)
    keys, told, heard = ledger.keys, 0.0, 0.0
    for number in range(CHANGES):
        ledger.change({dice.getrandbits(64)}, set(), float(number))
        began = time.process_time()
        change = ledger.flush(float(number))
        assert change is not None
        data = change.encode()
        told += time.process_time() - began
        began = time.process_time()
        delta = parse(data[4], data[HEADER.size :])
        assert isinstance(delta, Delta)
        assert delta.card.genuine(identity.verify)
        keys = keys.changed(delta.add, delta.drop)
        assert keys.root == delta.card.root
        heard += time.process_time() - began
    return told / CHANGES, heard / CHANGES


async def _over_the_wire(pairs: list[KeyPair]) -> tuple[float, float]:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    began = time.process_time()
    for _ in range(CONNECTIONS):
        async with trio.open_nursery() as nursery:
            wires = await _connect(nursery, listener, port, pairs)
            nursery.cancel_scope.cancel()
    connection = (time.process_time() - began) / CONNECTIONS / 2
    async with trio.open_nursery() as nursery:
        wires = await _connect(nursery, listener, port, pairs)
        for wire in wires:
            nursery.start_soon(wire.write)
        began = time.process_time()
        for number in range(FRAMES):
            wires[number % 2].put(Ping(number, 0).encode())
            await wires[1 - number % 2].frame()
        frame = (time.process_time() - began) / FRAMES / 2
        nursery.cancel_scope.cancel()
    await listener.aclose()
    return frame, connection


async def _connect(
    nursery: trio.Nursery, listener: trio.SocketListener, port: int, pairs: list[KeyPair]
) -> tuple[Wire, Wire]:
    made: dict[bool, Wire] = {}

    async def end(initiator: bool) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port) if initiator else await listener.accept()
        secured, _ = await greet(stream, Guest(pairs[initiator], (), list), None, initiator)
        wire, muxer = await muxed(secured, initiator)
        nursery.start_soon(muxer.start)
        await wire.begin()
        made[initiator] = wire

    async with trio.open_nursery() as both:
        both.start_soon(end, True)
        both.start_soon(end, False)
    return made[True], made[False]
