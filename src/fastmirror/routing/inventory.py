"""The Router that the inventory feeds: look-ups in this process's memory, everything else in the router process.

While the router process is down, look-ups go on from what was known. What a new one does not confirm within
CONFIRM_SECONDS is dropped.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, Self

from fastmirror._native.index import Index
from fastmirror.inventory import bridge
from fastmirror.inventory.keys import fingerprint, pack
from fastmirror.routing import Holder, Key, Peer
from fastmirror.routing.child import Router
from fastmirror.routing.static import Asker, keep_probing

log = logging.getLogger(__name__)

CONFIRM_SECONDS: Final = 15.0
SWEEP_SLOTS: Final = 8192
SWEEP_SECONDS: Final = 0.05


class Known(NamedTuple):
    """Another node that is there."""

    peer: Peer
    node: int  # its number in the index
    token: bytes
    name: str
    zone: str
    generation: int  # of the router process that told of it


class InventoryRouter:
    """A Router over the router process. ``start`` makes the settings that a new one gets, given the last epoch;
    ``asker`` looks after peers that fetches found dead.

    :meth:`run` must run; :meth:`close` says good-bye first if nobody has.
    """

    def __init__(self, start: Callable[[int], bridge.Start], asker: Asker | None = None) -> None:
        self._start = start
        self._asker = asker
        self._index = Index(int.from_bytes(os.urandom(8), "big"))
        self._nodes: dict[int, Known] = {}
        self._owners: dict[bytes, Known] = {}
        self._tokens: dict[tuple[str, int], bytes] = {}
        self._zones: dict[Peer, str] = {}
        self._keys: set[int] = set()  # fingerprints of what is announced
        self._epoch = 0
        self._generation = 0
        self._ready_at: float | None = None
        self._running = self._left = False
        self._status = bridge.Status({}, "", False)
        self._rows: list[asyncio.Future[list[bridge.PeerRow]]] = []
        self._tidy = asyncio.Event()
        self.child = Router(self._begin, self._hear, self._lost)
        self.peer_id = ""
        self.listening = ""
        self.accepted: list[bytes] = []
        """Tokens that this node's peer listener accepts; empty: it asks for none."""

    # ---- Router

    def find(self, key: Key) -> _Found:
        """See ``Router.find``; never waits."""
        nodes = self._index.find(fingerprint(key))
        return _Found(iter([Holder(self._nodes[node].peer) for node in nodes]))

    def advertise(self, keys: Iterable[Key]) -> None:
        """See ``Router.advertise``."""
        fresh = {fingerprint(key) for key in keys} - self._keys
        if fresh:
            self._keys |= fresh
            self.child.tell(bridge.Change(pack(fresh), b""))

    def withdraw(self, keys: Iterable[Key]) -> None:
        """See ``Router.withdraw``."""
        gone = {fingerprint(key) for key in keys} & self._keys
        if gone:
            self._keys -= gone
            self.child.tell(bridge.Change(b"", pack(gone)))

    def peers(self) -> list[Peer]:
        """See ``Router.peers``."""
        return list(dict.fromkeys(known.peer for known in self._owners.values()))

    async def run(self) -> None:
        """Keep the router process running, and the index tidy, until cancelled; once it runs, more runs only wait."""
        if self._running:
            await asyncio.Event().wait()
        self._running = True
        try:
            await self._run()
        finally:
            self._running = False

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.child.run(), name="router process")
            group.create_task(self._keep_tidy(), name="index")
            if self._asker is not None:
                group.create_task(keep_probing(self._asker), name="probes")

    async def leave(self) -> None:
        """Say good-bye to the other nodes, who forget what this one had; takes a second at most. Idempotent."""
        if not self._left:
            self._left = True
            await self.child.leave()

    async def close(self) -> None:
        """See ``Router.close``; the router process ends with :meth:`run`."""
        await self.leave()
        for waiting in self._rows:
            waiting.cancel()
        self._rows.clear()

    # ---- more than a Router

    def zone(self, peer: Peer) -> str:
        """Where a peer says it is; empty if it does not say or is not known."""
        return self._zones.get(peer, "")

    def token(self, peer: tuple[str, int]) -> bytes:
        """What to show to a node's peer listener; empty if it asks for nothing."""
        return self._tokens.get(peer, b"")

    def admits(self, shown: bytes | None) -> bool:
        """Whether what a request showed is a token of this node's that is not too old; takes the same time always."""
        try:
            token = bytes.fromhex((shown or b"").decode("ascii"))
        except ValueError:
            return False
        good = False
        for accepted in self.accepted:
            good |= hmac.compare_digest(token, accepted)
        return good

    def counters(self) -> dict[str, int]:
        """Numbers of the router process and of the index."""
        return {
            **self._status.counters,
            "restarts": self.child.restarts,
            "index_entries": self._index.entries,
            "index_bytes": self._index.memory,
        }

    def why_not_ready(self) -> str | None:
        """What keeps this node from knowing the others; None once it knew them, whatever happens later."""
        if self._status.settled:
            return None
        if self._status.problem:
            return f"router: looking for other nodes: {self._status.problem}"
        return f"router: {self.child.problem}" if self.child.problem else "router: looking for other nodes"

    async def rows(self) -> list[bridge.PeerRow]:
        """All that the router process knows of others. Raises TimeoutError if it does not answer within 2 s."""
        future: asyncio.Future[list[bridge.PeerRow]] = asyncio.get_running_loop().create_future()
        self._rows.append(future)
        self.child.tell(bridge.Ask())
        try:
            async with asyncio.timeout(2.0):
                return await future
        finally:
            if future in self._rows:
                self._rows.remove(future)

    # ---- the router process

    def _begin(self) -> list[bridge.ToRouter]:
        self._generation += 1
        return [self._start(self._epoch), bridge.Publish(pack(self._keys))]

    def _lost(self) -> None:
        self._ready_at = None

    def _hear(self, message: bridge.FromRouter) -> None:
        match message:
            case bridge.NodeUp():
                self._up(message)
            case bridge.NodeChanged(owner, add, drop):
                if (known := self._owners.get(owner)) is not None:
                    self._index.drop(known.node, drop)
                    self._index.add(known.node, add)
            case bridge.NodeDown(owner):
                if (known := self._owners.get(owner)) is not None:
                    self._forget(owner, known)
            case bridge.Status():
                self._status = message
            case bridge.Ready(peer_id, listening, epoch):
                self.peer_id, self.listening, self._epoch = peer_id, listening, epoch
                self._ready_at = asyncio.get_running_loop().time()
                self._tidy.set()
            case bridge.Tokens(accepted):
                self.accepted = accepted
            case bridge.Rows(peers):
                for future in self._rows:
                    if not future.done():
                        future.set_result(peers)

    def _up(self, up: bridge.NodeUp) -> None:
        """A node is there, or there is more to say of it: its new entries replace the old ones at one moment."""
        node = self._index.open()
        self._index.add(node, up.keys)
        before = self._owners.get(up.owner)
        if before is not None:
            self._forget(up.owner, before)
        known = Known(Peer(up.host, up.port), node, up.token, up.name, up.zone, self._generation)
        self._owners[up.owner] = self._nodes[node] = known
        if up.token:
            self._tokens[known.peer] = up.token
        self._zones[known.peer] = up.zone
        self._index.show(node)

    def _forget(self, owner: bytes, known: Known) -> None:
        self._index.close(known.node)
        del self._owners[owner], self._nodes[known.node]
        if not any(other.peer == known.peer for other in self._owners.values()):
            self._tokens.pop(known.peer, None)
            self._zones.pop(known.peer, None)
        self._tidy.set()

    async def _keep_tidy(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._tidy.wait()
            stale = [pair for pair in self._owners.items() if pair[1].generation != self._generation]
            if self._ready_at is not None and loop.time() - self._ready_at > CONFIRM_SECONDS:
                for owner, known in stale:
                    self._forget(owner, known)
                stale = []
            if not self._index.sweep(SWEEP_SLOTS) and not (stale and self._ready_at is not None):
                self._tidy.clear()
            await asyncio.sleep(SWEEP_SECONDS)


class _Found:
    """A look-up whose holders are all known from the start."""

    def __init__(self, holders: Iterator[Holder]) -> None:
        self._holders = holders

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Holder:
        for holder in self._holders:
            return holder
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._holders = iter(())
