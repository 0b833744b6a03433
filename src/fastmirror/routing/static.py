"""Peers that are given by configuration, all asked for everything. Right for tens of nodes; needs no other service."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal, NamedTuple, Protocol, Self

from fastmirror.inventory.bridge import PeerRow
from fastmirror.routing import Holder, Key, Peer

log = logging.getLogger(__name__)

WATCH_SECONDS: Final = 1.0  # a peer is told to be down, or back, when it was so at two looks
PROBE_SECONDS: Final = 0.25  # how often it is looked for peers that may be back


class Standing(NamedTuple):
    """How a peer is treated now; how the last request that counts against it ended ("" if none did), and how many
    seconds ago that was.
    """

    state: Literal["live", "down", "quarantined"]
    failure: str = ""
    failure_age: float | None = None


class Asker(Protocol):
    """Asks peers over HTTP and remembers how they behave. Peers' failures are values here."""

    def live(self, peer: Peer) -> bool:
        """Whether this peer is worth a question that a pull waits for."""

    def standing(self, peer: Peer) -> Standing:
        """What is held against this peer."""

    async def ask(self, peer: Peer, key: Key, seconds: float) -> Holder | None:
        """Whether the peer holds ``key``, within ``seconds``; None if not or if it did not say so."""

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until a peer is left alone."""

    async def resolve(self, peer: Peer) -> None:
        """Look its name up, so that no pull waits for that, and one that is wrong is told early."""

    def due(self) -> list[Peer]:
        """Peers that were left alone just now, or for long enough: somebody should :meth:`greet` them now."""

    async def greet(self, peer: Peer) -> bool | None:
        """Find out whether a peer is back, within a second or two. Whether it is fastmirror; None: not seen."""


async def keep_probing(asker: Asker) -> None:
    """Find out whether peers that were left alone are back, until cancelled."""
    async with asyncio.TaskGroup() as probes:
        while True:
            for peer in asker.due():
                probes.create_task(asker.greet(peer), name=f"probe {peer}")
            await asker.pause(PROBE_SECONDS)


class StaticRouter:
    """A Router over a fixed list of peers: every look-up asks all live ones at the same time.

    A look-up costs a round trip while all are well. One that fails costs ``lookup_timeout`` at most, once: from then
    on it is left alone, and :meth:`run` finds out in the background when it is back. One that was only late is back as
    soon as it answers.
    """

    def __init__(self, peers: Iterable[Peer], asker: Asker, lookup_timeout: float) -> None:
        self._peers = list(dict.fromkeys(peers))
        self._asker = asker
        self._seconds = lookup_timeout
        self._lookups: set[_Lookup] = set()
        self._foreign: set[Peer] = set()  # as it was when they were greeted for rows()
        now = asyncio.get_running_loop().time()
        self._since: dict[Peer, tuple[str, float]] = dict.fromkeys(self._peers, ("live", now))

    def find(self, key: Key) -> _Lookup:
        """See ``Router.find``. Holders come in the order in which they answer."""
        return _Lookup(
            [peer for peer in self._peers if self._asker.live(peer)],
            lambda peer: self._asker.ask(peer, key, self._seconds),
            self._lookups,
        )

    def advertise(self, keys: Iterable[Key]) -> None:
        """Nothing to tell: the others ask."""

    def withdraw(self, keys: Iterable[Key]) -> None:
        """Nothing to tell: the others ask."""

    def peers(self) -> list[Peer]:
        """See ``Router.peers``."""
        return list(self._peers)

    async def run(self) -> None:
        """Probe peers that were left alone, and say which are down and which are back, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_probing(self._asker), name="probes")
            group.create_task(self._watch(), name="peer states")
            for peer in self._peers:
                group.create_task(self._asker.resolve(peer), name=f"resolve {peer}")

    async def rows(self) -> list[PeerRow]:
        """What ``fastmirror peers`` shows. Peers that count as live are asked before, which takes a second at most."""
        async with asyncio.TaskGroup() as group:
            for peer in self._peers:
                if self._asker.live(peer):
                    group.create_task(self._greet(peer), name=f"greet {peer}")
        now = asyncio.get_running_loop().time()
        return [self._row(peer, self._asker.standing(peer), now) for peer in self._peers]

    async def _greet(self, peer: Peer) -> None:
        ours = await self._asker.greet(peer)
        if ours is not None:
            (self._foreign.discard if ours else self._foreign.add)(peer)

    def _row(self, peer: Peer, standing: Standing, now: float) -> PeerRow:
        self._note_state(peer, standing.state, now)
        state, since = self._since[peer]
        return PeerRow(
            peer_id="", name=peer.host, zone="", address=str(peer), connection="", round_trip=None, keys=0,
            age=now - since, state=state, failure=standing.failure, failure_age=standing.failure_age,
        )  # fmt: skip

    def _note_state(self, peer: Peer, state: str, now: float) -> None:
        if state == "live" and peer in self._foreign:
            state = "not fastmirror"
        if self._since[peer][0] != state:
            self._since[peer] = (state, now)

    async def _watch(self) -> None:
        told = dict.fromkeys(self._peers, "live")
        before = dict(told)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = asyncio.get_running_loop().time()
            for peer in self._peers:
                standing = self._asker.standing(peer)
                self._note_state(peer, standing.state, now)
                if told[peer] != standing.state == before[peer]:
                    told[peer] = standing.state
                    _tell(peer, standing)
                before[peer] = standing.state

    async def close(self) -> None:
        """Stop the look-ups that run; idempotent."""
        for lookup in list(self._lookups):
            await lookup.aclose()


def _tell(peer: Peer, standing: Standing) -> None:
    if standing.state == "live":
        log.info("a peer is back", extra={"event": "routing.peer_returned", "peer": peer})
    else:
        details = {"event": "routing.peer_lost", "peer": peer, "state": standing.state, "outcome": standing.failure}
        log.info("a peer is left alone until it answers again", extra=details)


class _Lookup:
    """Questions to several peers at once; the answers in the order in which they come."""

    def __init__(
        self, peers: Iterable[Peer], ask: Callable[[Peer], Awaitable[Holder | None]], running: set[_Lookup]
    ) -> None:
        self._ask = ask
        self._found: deque[Holder] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._tasks = {self._loop.create_task(self._question(peer), name=f"ask {peer}") for peer in peers}
        if self._tasks:
            running.add(self)
        for task in self._tasks:
            task.add_done_callback(self._over)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Holder:
        while not self._found:
            if not self._tasks:
                raise StopAsyncIteration
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._found.popleft()

    async def aclose(self) -> None:
        for task in (tasks := set(self._tasks)):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._found.clear()

    async def _question(self, peer: Peer) -> None:
        holder = await self._ask(peer)
        if holder is not None:
            self._found.append(holder)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._running.discard(self)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
