"""Nodes in the test's own loop: one that holds content, and one that fetches it. Real sockets, no processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from fastmirror._native.endpoint import Pace
from fastmirror.chunks.checks import Checks
from fastmirror.chunks.holder import ListServer
from fastmirror.config import FetchSettings, ServeSettings
from fastmirror.fetch.parts import FetchParts
from fastmirror.fetch.table import FetchTable
from fastmirror.http.limits import Admission
from fastmirror.http.server import Server
from fastmirror.mirror.answers import refusal_reply
from fastmirror.mirror.app import Elsewhere, Mirror
from fastmirror.mirror.filters import Filters
from fastmirror.mirror.local import Local
from fastmirror.mirror.remote import Remote
from fastmirror.oci.digest import Digest
from fastmirror.routing import Key, Lookup, Peer, Router
from fastmirror.routing.memory import Directory, MemoryRouter
from fastmirror.routing.static import StaticRouter
from fastmirror.store.memory import MemoryStore
from tests.kit.invariants import assert_prefix
from tests.kit.waiting import NOISE
from tests.kit.wire import Address, Answer, End, Wire, build_request, parse_address


def _server(mirror: Mirror) -> Server:
    server = Server(ServeSettings(), mirror, refusal_reply, pace=Pace(), admission=Admission(1000, 1000, frozenset()))
    server.listen("127.0.0.1:0", "registry_addr")
    return server


class HolderNode:
    """The peer listener of a node that has what is put into ``store``."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        local = Local(self.store, Filters())
        self._checks = Checks(2)
        self.lists = ListServer(self.store, local.may_serve, self._checks)
        self._server = _server(Mirror(local, chunks=self.lists))
        self.peer = Peer(*parse_address(self._server.addresses[0]))
        self.stats = self._server.stats

    def forget_answers(self) -> None:
        """What the daemon does when content goes."""
        self._server.endpoint.answers.clear()

    async def close(self) -> None:
        self.lists.close()
        await self._server.close()
        self._checks.close()


class FetchingNode:
    """A node that has nothing and fetches everything; all its parts are open for a look."""

    def __init__(self, parts: FetchParts, router: Router, filters: Filters | None = None) -> None:
        self.parts = parts
        self.router = router
        self.table = FetchTable(parts, router)
        self.remote: Elsewhere = Remote(self.table, filters or Filters())
        self.store = MemoryStore()
        self._server = _server(Mirror(Local(self.store, Filters()), elsewhere=self.remote))
        self.address: Address = parse_address(self._server.addresses[0])
        self.stats = self._server.stats

    async def ask(self, target: str, method: str = "GET", **fields: str) -> Answer:
        """One request on a connection of its own, from a thread."""
        return await asyncio.to_thread(_ask, self.address, method, target, fields)

    def wire(self, **options: Any) -> Wire:
        """A connection for a test that reads as it likes (in a thread: the loop must go on)."""
        return Wire(self.address, **options)

    async def close(self) -> None:
        """End everything, and see that nothing is left."""
        await self._server.close()
        await self.table.close()
        await self.router.close()
        await self.parts.close()
        assert self.parts.room.used == 0, "a spool was left behind"
        assert self.table.active == 0


def blob_target(content: bytes) -> str:
    """The request target of a blob."""
    return f"/v2/team/app/blobs/{Digest.of(content)}"


def is_all(answer: Answer, content: bytes) -> bool:
    """Whether the answer is the whole content. To be asserted alone: then a failure does not show the bytes."""
    assert_prefix(answer, content)
    return answer.status == 200 and len(answer.body) == len(content)


def start_reading(node: FetchingNode, content: bytes, count: int, **fields: str) -> tuple[Wire, bytes]:
    """Open a connection, ask for a blob and read ``count`` bytes of it. In a thread: the loop must go on."""
    wire = node.wire()
    wire.send(build_request("GET", blob_target(content), **fields))
    wire.head()
    wire.fill(count)
    return wire, wire.take(count)


class Timed(NamedTuple):
    """What a reader saw, and ``gap``: the longest time, in seconds, in which no byte came after the first."""

    body: bytes
    end: End
    gap: float
    seconds: float


async def read_timed(node: FetchingNode, content: bytes, **fields: str) -> Timed:
    """Read a blob as fast as it comes, in a thread."""
    return await asyncio.to_thread(_read_timed, node.address, blob_target(content), fields)


def _read_timed(address: Address, target: str, fields: dict[str, str]) -> Timed:
    with Wire(address) as wire:
        began = time.monotonic()
        wire.send(build_request("GET", target, **fields))
        _, names = wire.head()
        length = next(int(value) for name, value in names if name.lower() == "content-length")
        gap, last = 0.0, None
        while len(wire.buffer) < length and wire.fill(len(wire.buffer) + 1):
            now = time.monotonic()
            gap, last = max(gap, now - (last or now)), now
        return Timed(wire.take(length), wire.end, gap, time.monotonic() - began)


async def until(probe: Callable[[], object], what: str, seconds: float = 5.0) -> None:
    """Wait in the loop until ``probe`` is true; AssertionError naming ``what`` if that takes longer (times NOISE)."""
    try:
        async with asyncio.timeout(seconds * NOISE):
            while not probe():  # noqa: ASYNC110 - what is looked at has no event of its own
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {seconds * NOISE} s: {what}") from None


def _ask(address: Address, method: str, target: str, fields: dict[str, str]) -> Answer:
    with Wire(address) as wire:
        wire.send(build_request(method, target, **fields))
        return wire.answer(method)


class AllHold:
    """A router for which all peers hold everything, and are known at once; they tell no sizes."""

    def __init__(self, peers: Iterable[Address]) -> None:
        directory = Directory()
        self._others = [MemoryRouter(Peer(*peer), directory) for peer in peers]
        self._mine = MemoryRouter(Peer("198.18.0.1", 1), directory)
        self.peers, self.run, self.close = self._mine.peers, self._mine.run, self._mine.close

    def find(self, key: Key) -> Lookup:
        for other in self._others:
            other.advertise([key])
        return self._mine.find(key)

    def advertise(self, keys: Iterable[Key]) -> None: ...

    def withdraw(self, keys: Iterable[Key]) -> None: ...


@contextlib.asynccontextmanager
async def fetching(
    spool: Path, peers: Iterable[Address], filters: Filters | None = None, *, in_order: bool = False, **settings: Any
) -> AsyncIterator[FetchingNode]:
    """A fetching node with these peers. With ``in_order`` all of them are known at once and asked in this order;
    without, they are static peers that are asked over HTTP.
    """
    chosen = FetchSettings(**settings)
    parts = FetchParts(chosen, str(spool))
    addresses = list(peers)
    router: Router
    if in_order:
        router = AllHold(addresses)
        for load, address in enumerate(addresses):
            for _ in range(load * 1000):  # the least loaded is asked first
                parts.book.begin(Peer(*address))
    else:
        router = StaticRouter([Peer(*address) for address in addresses], parts.asker, chosen.lookup_timeout)
    node = FetchingNode(parts, router, filters)
    try:
        yield node
    finally:
        await node.close()


@contextlib.asynccontextmanager
async def holders(count: int = 1) -> AsyncIterator[list[HolderNode]]:
    """Nodes that hold content."""
    nodes = [HolderNode() for _ in range(count)]
    try:
        yield nodes
    finally:
        for node in nodes:
            await node.close()
