"""The router: runs the inventory's state machine over real connections, between other routers and the data plane."""

from __future__ import annotations

import itertools
import logging
import math
import random
import secrets as random_bytes
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import trio
from libp2p.crypto.keys import KeyPair
from libp2p.peer.id import ID

from fastmirror.inventory import bridge
from fastmirror.inventory.card import Card, Version
from fastmirror.inventory.facts import Changed, Close, Dial, Down, Fact, Meet, Renew, Send, Up
from fastmirror.inventory.keys import pack, unpack
from fastmirror.inventory.ledger import Ledger
from fastmirror.inventory.messages import Hello, parse
from fastmirror.inventory.node import Inventory
from fastmirror.inventory.wire import BadFrame
from fastmirror.p2p import identity, table
from fastmirror.p2p.addresses import Realm, claimed
from fastmirror.p2p.bootstrap import Bootstrap, Place
from fastmirror.p2p.dialling import connect, meet, reason
from fastmirror.p2p.door import Door, listen
from fastmirror.p2p.plane import Plane
from fastmirror.p2p.secrets import Secrets
from fastmirror.p2p.secure import Guest, Refused
from fastmirror.p2p.wire import HANDSHAKE_SECONDS, Wire, greet, muxed

log = logging.getLogger(__name__)

TOKEN_SECONDS: Final = 300.0
SECRETS_SECONDS: Final = 1.0  # how often it is looked whether secrets were taken away
READMIT_SECONDS: Final = 5.0
"""What a node that was let in by a secret that was taken away gets to show that it knows another one."""

HAND_OVER_SECONDS: Final = 10.0
SETTLE_SECONDS: Final = 10.0
BOOTSTRAP_SECONDS: Final = 15.0
_BOOTSTRAP_BACKOFF: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
BOOTSTRAP_DIALS: Final = 3
LINGER_SECONDS: Final = 0.3
RENEWED: Final = 75
"""Exit code: the identity was replaced, start again at once."""


class Router:
    """One router process. :meth:`run` returns its exit code once the data plane has left."""

    def __init__(self, start: bridge.Start, pair: KeyPair, plane: Plane) -> None:
        self.start = start
        self.plane = plane
        self.began = trio.current_time()
        self.refused: Counter[str] = Counter()
        self.secrets = Secrets(start.secret_file)
        self.guest = Guest(pair, start.allowed_ids, self.secrets)
        self.realm = Realm(start.peer_cidr, start.listen_host)
        self.bootstrap = Bootstrap(start.bootstrap)
        self.door = Door(listen(start.listen_host, start.listen_port), self._visit)
        owner = self.guest.me.to_bytes()
        epoch = max(time.time_ns() // 1_000_000, start.epoch + 1)
        hosts = claimed(start.listen_host, start.peer_host, self.realm)
        port = self.door.address[1]
        blank = Card(
            owner, Version(epoch, 0), 0, start.name, start.zone, tuple(hosts), port, start.peer_port, b"", 0, b""
        )
        ledger = Ledger(blank, pair.private_key.sign)
        dice = random.Random(random_bytes.randbits(64))
        self.inventory = Inventory(ledger, start.degree, identity.verify, self.realm.__contains__, dice)
        self.inventory.wake = self.began
        self.settled = False
        self._tokens: list[bytes] = []
        self._wires: dict[int, Wire] = {}
        self._numbers = itertools.count(1)
        self._own_places: set[Place] = set()
        self._dialling: set[Place] = set()
        self._wake = trio.Event()
        self._unwired = trio.Event()
        self._alone = trio.Event()
        self._evicted = trio.Event()
        self._code: int | None = None
        self._nursery: trio.Nursery

    async def run(self) -> int:
        """Serve until the data plane goes away or says good-bye; the exit code."""
        host, port = self.door.address
        listening = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        me = identity.text(self.inventory.me)
        self.plane.send(bridge.Ready(me, listening, self.inventory.ledger.version.epoch))
        log.info("router listening", extra={"event": "p2p.listening", "address": listening, "peer_id": me})
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for part in (self.door.run, self._keep_time, self._find_others, self._report, self._renew_tokens):
                    nursery.start_soon(part)
                nursery.start_soon(self._watch_secrets)
                nursery.start_soon(self._hear_plane)
        finally:
            self.plane.close()
        return self._code or 0

    def stop(self, code: int) -> None:
        """End :meth:`run` with this exit code."""
        self._code = code if self._code is None else self._code
        self._nursery.cancel_scope.cancel()

    # ---- the data plane

    async def _hear_plane(self) -> None:
        async for message in self.plane:
            now = trio.current_time()
            match message:
                case bridge.Publish(keys):
                    self.inventory.replace(set(unpack(keys)), now)
                case bridge.Change(add, drop):
                    self.inventory.change(set(unpack(add)), set(unpack(drop)), now)
                    if now >= self.inventory.wake:  # told at once, without a turn of the clock
                        self.inventory.tick(now)
                case bridge.Alive():
                    self.plane.send(message)
                case bridge.Ask():
                    self.plane.send(bridge.Rows(table.rows(self.inventory, now)))
                case bridge.Leave():
                    self.inventory.leave(now)
                    self.settle()
                    await self._linger()
                    self.plane.send(bridge.Gone())
            self.settle()
        self.stop(0)

    async def _linger(self) -> None:
        """Let the good-byes go out: each link ends once its other side has it, or its own deadline has come."""
        with trio.move_on_after(LINGER_SECONDS):
            while self._wires:
                self._unwired = trio.Event()
                await self._unwired.wait()

    # ---- the state machine

    def settle(self) -> None:
        """Do what the state machine asks for, and wake its clock if it must ring earlier."""
        facts = self.inventory.facts
        while facts:
            taken = list(facts)
            facts.clear()
            for fact in taken:
                self._do(fact)
        self._wake.set()

    def _do(self, fact: Fact) -> None:
        match fact:
            case Send(link, data):
                if (wire := self._wires.get(link)) is not None:
                    wire.put(data)
            case Close(link, why):
                if (wire := self._wires.get(link)) is not None:
                    wire.end(why)
            case Dial(owner, hosts, port):
                self._nursery.start_soon(self._dial, owner, hosts, port)
            case Meet(owner, hosts, port):
                self._nursery.start_soon(self._meet, owner, hosts, port)
            case Up(card, host, keys):
                up = (card.owner, card.name, card.zone, host, card.peer_port, card.token, keys.packed())
                self.plane.send(bridge.NodeUp(*up))
            case Changed(owner, add, drop):
                self.plane.send(bridge.NodeChanged(owner, pack(add), pack(drop)))
            case Down(owner, why):
                self.plane.send(bridge.NodeDown(owner, why))
            case Renew():
                log.warning(
                    "another node has this node's identity: it gets a new one", extra={"event": "p2p.key_cloned"}
                )
                identity.replace(self.start.data_dir)
                self.stop(RENEWED)

    async def _keep_time(self) -> None:
        while True:
            self._wake = trio.Event()
            wake = self.inventory.wake
            with trio.move_on_at(wake) if wake < math.inf else trio.CancelScope():
                await self._wake.wait()
            now = trio.current_time()
            if now >= self.inventory.wake:
                self.inventory.tick(now)
                self.settle()

    # ---- connections

    async def _visit(self, stream: trio.SocketStream, host: str, known: Callable[[], None]) -> None:
        await self._attend(stream, None, known)

    async def _dial(self, owner: bytes, hosts: tuple[str, ...], port: int) -> None:
        why = ""
        for host in hosts:
            stream, why = await connect(host, port)
            if stream is not None:
                linked, why = await self._attend(stream, ID(owner), None, (host, port))
                if linked:
                    return
        self.inventory.not_linked(owner, why, trio.current_time())
        self.settle()

    async def _meet(self, owner: bytes, hosts: tuple[str, ...], port: int) -> None:
        meeting = await meet(self.guest, owner, hosts, port)
        if meeting.host:
            self.inventory.met(owner, meeting.host, trio.current_time())
        else:
            self.inventory.not_met(owner, meeting.why, trio.current_time())
        self.settle()

    async def _attend(
        self,
        stream: trio.SocketStream,
        expected: ID | None,
        known: Callable[[], None] | None,
        place: Place | None = None,
    ) -> tuple[bool, str]:
        """See one connection through, from its first byte to its end: whether it became a link, and why it ended.

        Cancel: the socket is closed at once.
        """
        number = next(self._numbers)
        why = ""
        wire: Wire | None = None
        try:
            secured, secret = await greet(stream, self.guest, expected, place is not None)
            wire, muxer = await muxed(secured, place is not None)
            wire.secret = secret
            async with trio.open_nursery() as nursery:
                wire.scope = nursery.cancel_scope
                nursery.start_soon(muxer.start)
                hello = await self._exchange_hellos(wire, nursery)
                if known is not None:
                    known()
                self._link(number, wire, hello, place)
                while True:
                    kind, payload = await wire.frame()
                    self.inventory.heard(number, kind, payload, trio.current_time())
                    self.settle()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in py-libp2p ends this connection only
            why = reason(error)
            if isinstance(error, Refused):
                self.refused["admission"] += 1
        finally:
            stream.socket.close()
            why = wire.why if wire is not None and wire.why else why
            linked = self._wires.pop(number, None) is not None
            if linked:
                self._unwired.set()
                self.inventory.unlinked(number, why or "connection lost", False, trio.current_time())
                self.settle()
                if not self.inventory.links:
                    self._alone.set()
        return linked, why

    async def _exchange_hellos(self, wire: Wire, nursery: trio.Nursery) -> Hello:
        with trio.fail_after(HANDSHAKE_SECONDS):
            await wire.begin()
            nursery.start_soon(wire.write)
            wire.put(self.inventory.hello().encode())
            kind, payload = await wire.frame()
        hello = parse(kind, payload)
        if not isinstance(hello, Hello):
            raise BadFrame("it does not begin with a hello")
        if hello.card.owner != wire.peer:
            raise Refused("it says hello for another node")
        return hello

    def _link(self, number: int, wire: Wire, hello: Hello, place: Place | None) -> None:
        if hello.card.owner == self.inventory.me and hello.instance == self.inventory.instance and place:
            self._own_places.add(place)
        self._wires[number] = wire
        now = trio.current_time()
        self.inventory.linked(number, hello, place is not None, place[0] if place else "", now)
        self.settle()

    # ---- finding others

    async def _find_others(self) -> None:
        failures = 0
        while True:
            taken = {(m.host, m.card.router_port) for m in self.inventory.members if m.live and m.host}
            places = [place for place in await self.bootstrap.places() if place[0] in self.realm]
            if not self.bootstrap.problem and not set(places) - self._own_places:
                self.settled = True
            fresh = [p for p in places if p not in taken | self._own_places | self._dialling]
            for place in random.sample(fresh, min(BOOTSTRAP_DIALS, len(fresh))):
                self._dialling.add(place)
                self._nursery.start_soon(self._try_place, place)
            failures = 0 if self.inventory.links else failures + 1
            if failures:
                delay = _BOOTSTRAP_BACKOFF[min(failures, len(_BOOTSTRAP_BACKOFF)) - 1]
                await trio.sleep(delay * random.uniform(0.8, 1.2))
                continue
            self._alone = trio.Event()
            with trio.move_on_after(BOOTSTRAP_SECONDS * random.uniform(0.8, 1.2)):
                await self._alone.wait()

    async def _try_place(self, place: Place) -> None:
        try:
            stream, _ = await connect(*place)
            if stream is not None:
                await self._attend(stream, None, None, place)
        finally:
            self._dialling.discard(place)

    # ---- in the background

    async def _renew_tokens(self) -> None:
        while self.guest.trusts_somebody:
            self._renew_token()
            self._evicted = trio.Event()
            with trio.move_on_after(TOKEN_SECONDS):
                await self._evicted.wait()
                self._renew_token()
                await trio.sleep(HAND_OVER_SECONDS)  # then what an evicted node knows is not accepted any more

    def _renew_token(self) -> None:
        self._tokens = [random_bytes.token_bytes(16), *self._tokens[:1]]
        self.plane.send(bridge.Tokens(list(self._tokens)))
        self.inventory.set_token(self._tokens[0], trio.current_time())
        self.settle()

    async def _watch_secrets(self) -> None:
        """End what was let in by a secret that is not there any more, unless it knows another one."""
        looked_at: set[int] = set()
        limit = trio.CapacityLimiter(4)
        while self.start.secret_file:
            secrets = self.secrets()
            stale = {number for number, wire in self._wires.items() if wire.secret not in secrets}
            for number in stale - looked_at:
                self._nursery.start_soon(self._readmit, number, limit)
            looked_at = stale
            await trio.sleep(SECRETS_SECONDS)

    async def _readmit(self, number: int, limit: trio.CapacityLimiter) -> None:
        """Let the node at the other end of a connection, which stays meanwhile, show on another one what it knows."""
        until = trio.current_time() + READMIT_SECONDS
        while (wire := self._wires.get(number)) is not None:
            member = self.inventory.members.get(wire.peer)
            if member is not None:
                async with limit:
                    hosts = self.inventory.members.dialable(member.card)
                    meeting = await meet(self.guest, wire.peer, hosts, member.card.router_port)
                if meeting.host:
                    wire.secret = meeting.secret
                    return
            if trio.current_time() > until:
                self._evicted.set()
                wire.end("the admission secret that it was let in by is not valid any more")
                return
            await trio.sleep(SECRETS_SECONDS)

    async def _report(self) -> None:
        last: bridge.Status | None = None
        while True:
            now = trio.current_time()
            self.settled = self.settled or now - self.began > SETTLE_SECONDS or table.everybody_met(self.inventory)
            counters = table.counters(self.inventory, self.refused, self.door.turned_away)
            problem = "" if self.inventory.links else self.bootstrap.problem
            report = bridge.Status(counters, problem, self.settled)
            if report != last:
                self.plane.send(report)
                last = report
            await trio.sleep(0.2 if not self.settled else 1.0)
