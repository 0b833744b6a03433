"""A cluster of inventories in virtual time: the real state machines, with a network between them that can fail.

Signatures are hashes that anybody could forge (nobody here does, except tests that mean to): the real ones cost more
time than all the rest.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastmirror.inventory.card import Card, Version
from fastmirror.inventory.facts import Changed, Close, Dial, Down, Meet, Renew, Send, Up
from fastmirror.inventory.ledger import Ledger
from fastmirror.inventory.messages import Hello, parse
from fastmirror.inventory.node import Inventory
from fastmirror.inventory.wire import HEADER

DELAY = 0.0005
CONNECT = 0.01


def sign_as(owner: bytes):
    return lambda data: hashlib.sha512(owner + data).digest()


def verify(owner: bytes, data: bytes, signature: bytes) -> bool:
    return hashlib.sha512(owner + data).digest() == signature


def card_of(owner: bytes, number: int, epoch: int) -> Card:
    host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return Card(owner, Version(epoch, 0), 0, f"n{number}", "", (host,), 4001, 5001, b"", 0, bytes(32))


@dataclass(repr=False)
class Pipe:
    """One connection between two processes; each end has its number."""

    ends: tuple[tuple[SimNode, int], tuple[SimNode, int]]
    open: bool = True

    def other(self, node: SimNode, number: int) -> tuple[SimNode, int]:
        return self.ends[1] if self.ends[0] == (node, number) else self.ends[0]


@dataclass(eq=False, repr=False)
class SimNode:
    """One process. ``offered`` is what its data plane knows: keys by owner."""

    number: int
    owner: bytes
    inventory: Inventory
    alive: bool = True
    frozen: bool = False
    offered: dict[bytes, set[int]] = field(default_factory=dict)
    pipes: dict[int, Pipe] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)
    woken_at: float = -1.0
    renewed: int = 0
    sent: int = 0
    sent_bytes: int = 0
    most_links: int = 0


class Sim:
    """The cluster. Every event is at a virtual time; :meth:`run` goes on to another."""

    def __init__(self, seed: int = 0, degree: int = 64) -> None:
        self.now = 1000.0
        self.degree = degree
        self.dice = random.Random(seed)
        self.nodes: dict[int, SimNode] = {}
        self.cut: set[frozenset[int]] = set()
        self.log: list[tuple[float, int, object]] = []
        self._events: list[Any] = []
        self._order = itertools.count()
        self._links = itertools.count(1)
        self._epoch: Iterator[int] = itertools.count(1)

    # ---- what a test does

    def start(self, number: int, keys: Collection[int] = (), owner: bytes = b"") -> SimNode:
        owner = owner or hashlib.sha256(b"node %d" % number).digest()
        ledger = Ledger(card_of(owner, number, next(self._epoch)), sign_as(owner))
        inventory = Inventory(ledger, self.degree, verify, lambda host: host.startswith("10."), self._die())
        node = self.nodes[number] = SimNode(number, owner, inventory)
        inventory.wake = self.now
        inventory.replace(set(keys), self.now)
        self._settle(node)
        return node

    def _die(self) -> random.Random:
        return random.Random(self.dice.getrandbits(64))

    def join(self, number: int, to: int) -> None:
        """Bootstrap: connect to a node by its address, whoever it is; again while this node is alone."""
        self._after(CONNECT, self._connect, self.nodes[number], None, to)
        self._after(0.5, self._join_again, self.nodes[number], to)

    def _join_again(self, node: SimNode, to: int) -> None:
        if node.alive and not node.inventory.links and to in self.nodes and to != node.number:
            self.join(node.number, to)

    def kill(self, number: int) -> None:
        node = self.nodes.pop(number)
        node.alive = False
        for link, pipe in list(node.pipes.items()):
            self._end(pipe, node, link, "connection lost")

    def leave(self, number: int) -> None:
        node = self.nodes[number]
        node.inventory.leave(self.now)
        self._settle(node)

        def kill() -> None:
            if self.nodes.get(number) is node:
                self.kill(number)

        self._after(0.1, kill)

    def freeze(self, number: int) -> None:
        self.nodes[number].frozen = True

    def thaw(self, number: int) -> None:
        node = self.nodes[number]
        node.frozen = False
        held, node.held = node.held, []
        for action in held:
            action()
        self._settle(node)

    def change(self, number: int, add: Collection[int] = (), drop: Collection[int] = ()) -> None:
        node = self.nodes[number]
        node.inventory.change(set(add), set(drop), self.now)
        self._settle(node)

    def part(self, one: set[int], other: set[int]) -> None:
        """From now on nothing gets from one group to the other."""
        self.cut |= {frozenset((a, b)) for a in one for b in other}

    def heal(self) -> None:
        self.cut.clear()

    def truth(self) -> dict[bytes, set[int]]:
        return {
            node.owner: set(node.inventory.ledger.keys)
            for node in self.nodes.values()
            if node.alive and not node.frozen
        }

    def wrong(self) -> list[str]:
        """Where a view differs from the truth."""
        truth = self.truth()
        bad = []
        for node in self.nodes.values():
            if node.frozen:
                continue
            wanted = {owner: keys for owner, keys in truth.items() if owner != node.owner}
            both = wanted.keys() | node.offered.keys()
            bad += [
                f"{node.number}: {owner.hex()[:6]}" for owner in both if wanted.get(owner) != node.offered.get(owner)
            ]
        return bad

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action, arguments = heapq.heappop(self._events)
            action(*arguments)
        self.now = end

    def run_until(self, condition, limit: float) -> float:
        """The seconds until the condition holds; AssertionError after ``limit``."""
        began = self.now
        while not condition():
            assert self._events and self._events[0][0] <= began + limit, f"not in {limit} s: {self.wrong()[:5]}"
            self.now, _, action, arguments = heapq.heappop(self._events)
            action(*arguments)
        return self.now - began

    # ---- the network

    def _after(self, delay: float, action, *arguments) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), action, arguments))

    def _settle(self, node: SimNode) -> None:
        """Do what the state machine asks for, and see to its next waking."""
        inventory = node.inventory
        while inventory.facts:
            facts, inventory.facts[:] = list(inventory.facts), []
            for fact in facts:
                self._do(node, fact)
        node.most_links = max(node.most_links, len(inventory.links))
        if node.alive and inventory.wake != node.woken_at:
            node.woken_at = inventory.wake
            self._after(max(0.0, inventory.wake - self.now), self._wake, node, inventory.wake)

    def _wake(self, node: SimNode, when: float) -> None:
        if node.woken_at == when and node.alive:
            if node.frozen:
                self._hold(node, lambda: self._tick(node))
            else:
                self._tick(node)

    def _tick(self, node: SimNode) -> None:
        node.woken_at = -1.0
        node.inventory.tick(self.now)
        self._settle(node)

    def _hold(self, node: SimNode, action) -> None:
        node.held.append(action)

    def _do(self, node: SimNode, fact) -> None:
        match fact:
            case Send(link, data):
                node.sent += 1
                node.sent_bytes += len(data)
                pipe = node.pipes.get(link)
                if pipe is not None and pipe.open:
                    self._after(DELAY, self._arrive, pipe, *pipe.other(node, link), data)
            case Close(link, why):
                pipe = node.pipes.pop(link, None)
                if pipe is not None:
                    self._after(DELAY * 2, self._end, pipe, node, link, why)
            case Dial(owner, hosts, _):
                self._after(CONNECT, self._connect, node, owner, self._number(hosts[0]))
            case Meet(owner, hosts, _):
                self._after(CONNECT, self._meet, node, owner, hosts[0])
            case Up(card, _, keys):
                node.offered[card.owner] = set(keys)
                self.log.append((self.now, node.number, fact))
            case Changed(owner, add, drop):
                node.offered[owner] |= set(add)
                node.offered[owner] -= set(drop)
            case Down(owner, _):
                del node.offered[owner]
                self.log.append((self.now, node.number, fact))
            case Renew():
                node.renewed += 1

    def _number(self, host: str) -> int:
        _, a, b, c = map(int, host.split("."))
        return a << 16 | b << 8 | c

    def _reachable(self, node: SimNode, to: int) -> SimNode | None:
        other = self.nodes.get(to)
        return None if other is None or frozenset((node.number, to)) in self.cut else other

    def _connect(self, node: SimNode, owner: bytes | None, to: int) -> None:
        if not node.alive:
            return
        other = self._reachable(node, to)
        if other is None or other.frozen or (owner is not None and other.owner != owner):
            if owner is not None:
                self._after(0.0 if other is None else 1.0, self._failed, node, owner)
            return
        ends = ((node, next(self._links)), (other, next(self._links)))
        pipe = Pipe(ends)
        hellos = [end.inventory.hello() for end, _ in ends]
        for (end, number), hello, outbound in zip(ends, reversed(hellos), (True, False), strict=True):
            end.pipes[number] = pipe
            host = f"10.{to >> 16}.{to >> 8 & 255}.{to & 255}" if outbound else ""
            end.inventory.linked(number, _over_the_wire(hello), outbound, host, self.now)
            self._settle(end)

    def _failed(self, node: SimNode, owner: bytes) -> None:
        self._act(node, lambda: node.inventory.not_linked(owner, "refused", self.now))

    def _meet(self, node: SimNode, owner: bytes, host: str) -> None:
        other = self._reachable(node, self._number(host))
        if other is None or other.frozen or other.owner != owner:
            self._act(node, lambda: node.inventory.not_met(owner, "refused", self.now))
        else:
            self._act(node, lambda: node.inventory.met(owner, host, self.now))

    def _act(self, node: SimNode, action) -> None:
        if not node.alive:
            return
        if node.frozen:
            self._hold(node, action)
        else:
            action()
            self._settle(node)

    def _arrive(self, pipe: Pipe, node: SimNode, number: int, data: bytes) -> None:
        source, _ = pipe.other(node, number)
        if frozenset((node.number, source.number)) in self.cut:
            pipe.open = False  # a lost segment: nothing after it gets through before a time-out
            return
        _, kind = HEADER.unpack_from(data)
        if number in node.pipes:
            self._act(node, lambda: node.inventory.heard(number, kind, data[HEADER.size :], self.now))

    def _end(self, pipe: Pipe, node: SimNode, number: int, why: str) -> None:
        other, theirs = pipe.other(node, number)
        node.pipes.pop(number, None)
        if frozenset((node.number, other.number)) in self.cut:
            return
        self._after(DELAY, self._ended, other, theirs, why)

    def _ended(self, node: SimNode, number: int, why: str) -> None:
        if node.pipes.pop(number, None) is not None:
            self._act(node, lambda: node.inventory.unlinked(number, why, False, self.now))


def _over_the_wire(hello: Hello) -> Hello:
    data = hello.encode()
    made = parse(data[4], data[HEADER.size :])
    assert isinstance(made, Hello)
    return made


def keys_of(number: int, count: int) -> set[int]:
    return {number * 1_000_000 + index for index in range(count)}
