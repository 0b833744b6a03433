"""A list goes from a node that holds a blob to one that wants it: real sockets, real hashing; and broken peers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from blake3 import blake3

from fastmirror._native.endpoint import Pace
from fastmirror.chunks.asker import ListClient
from fastmirror.chunks.checks import Checks
from fastmirror.chunks.chunklist import ALGORITHMS, PIECE, Shape, encode
from fastmirror.chunks.holder import ListServer
from fastmirror.config import FetchSettings, ServeSettings
from fastmirror.http.client import PeerClient
from fastmirror.http.intake import Intake
from fastmirror.http.limits import Admission
from fastmirror.http.outcome import PeerOutcome
from fastmirror.http.server import Server
from fastmirror.mirror.answers import refusal_reply
from fastmirror.mirror.app import Mirror
from fastmirror.mirror.filters import Filters
from fastmirror.mirror.local import Local
from fastmirror.oci.digest import Digest
from fastmirror.routing import Peer
from fastmirror.store.memory import MemoryStore
from tests.kit.fetching import until
from tests.kit.waiting import let_pass
from tests.kit.wire import parse_address

CONTENT = os.urandom(20 * PIECE + 12345)
DIGEST = Digest.of(CONTENT)
SHAPE = Shape(len(CONTENT))
HASHES = [blake3(CONTENT[at : at + PIECE]).digest() for at in range(0, len(CONTENT), PIECE)]


class Holder:
    """The peer listener of a node."""

    def __init__(self, filters: Filters | None = None) -> None:
        self.store = MemoryStore()
        self.store.put(CONTENT)
        self.checks = Checks(2, nice=5)
        local = Local(self.store, filters or Filters())
        self.lists = ListServer(self.store, local.may_serve, self.checks)
        mirror = Mirror(local, chunks=self.lists)
        admission = Admission(100, 100, frozenset())
        self.server = Server(ServeSettings(), mirror, refusal_reply, pace=Pace(), admission=admission)
        self.server.listen("127.0.0.1:0", "peer_addr")
        self.peer = Peer(*parse_address(self.server.addresses[0]))

    async def close(self) -> None:
        self.lists.close()
        await self.server.close()
        self.checks.close()


class Asker:
    """The side that asks, and what it heard."""

    def __init__(self, **settings: float) -> None:
        self.intake = Intake(2)
        self.peers = PeerClient(FetchSettings(**settings), self.intake)  # type: ignore[arg-type]
        self.client = ListClient(self.peers)
        self.heard: list[bytes] = []
        self.turns = 0

    async def receive(self, peer: Peer, digest: Digest = DIGEST, shape: Shape = SHAPE) -> PeerOutcome:
        return await self.client.receive(peer, digest, shape, self.told)

    def told(self, hashes: list[bytes]) -> None:
        assert hashes
        self.heard += hashes
        self.turns += 1

    async def close(self) -> None:
        await self.peers.close()
        self.intake.close()


@pytest.fixture
async def holder() -> AsyncIterator[Holder]:
    made = Holder()
    yield made
    await made.close()


@pytest.fixture
async def asker() -> AsyncIterator[Asker]:
    made = Asker(stall_timeout=0.2)
    yield made
    await made.close()


async def test_a_list_is_computed_sent_and_kept(holder: Holder, asker: Asker) -> None:
    assert await asker.receive(holder.peer) is PeerOutcome.GOT
    assert asker.heard == HASHES
    assert holder.lists.made_lists == 1
    again = asker.heard.copy()
    asker.heard.clear()
    assert await asker.receive(holder.peer) is PeerOutcome.GOT
    assert asker.heard == again
    assert (holder.lists.made_lists, holder.server.stats.accepted) == (1, 1)


async def test_many_may_ask_at_once_and_it_is_computed_once(holder: Holder) -> None:
    askers = [Asker() for _ in range(5)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asker.receive(holder.peer)) for asker in askers]
    assert {task.result() for task in tasks} == {PeerOutcome.GOT}
    for asker in askers:
        assert asker.heard == HASHES
        await asker.close()
    assert holder.lists.made_lists == 1


@pytest.mark.parametrize("name", ALGORITHMS)
async def test_each_algorithm_has_its_own_list(holder: Holder, asker: Asker, name: str) -> None:
    shape = Shape(len(CONTENT), ALGORITHMS[name])
    assert await asker.receive(holder.peer, shape=shape) is PeerOutcome.GOT
    assert len(asker.heard) == 21
    assert {len(each) for each in asker.heard} == {shape.algorithm.hash_bytes}
    assert (asker.heard == HASHES) == (name == "blake3")


async def test_what_is_not_here_has_no_list(holder: Holder, asker: Asker) -> None:
    assert await asker.receive(holder.peer, Digest.of(b"other")) is PeerOutcome.LACKS
    assert asker.heard == []


async def test_filters_hold_for_lists_as_for_blobs(asker: Asker) -> None:
    node = Holder(Filters(allow=("registry.example",)))
    assert await asker.receive(node.peer) is PeerOutcome.LACKS
    await node.close()


async def test_a_listener_without_lists_lacks_them(asker: Asker) -> None:
    mirror = Mirror(Local(MemoryStore(), Filters()))
    server = Server(ServeSettings(), mirror, refusal_reply, pace=Pace(), admission=Admission(9, 9, frozenset()))
    server.listen("127.0.0.1:0", "registry_addr")
    assert await asker.receive(Peer(*parse_address(server.addresses[0]))) is PeerOutcome.LACKS
    await server.close()


async def test_another_size_than_the_holders_is_no_list(holder: Holder, asker: Asker) -> None:
    assert await asker.receive(holder.peer, shape=Shape(len(CONTENT) + PIECE)) is PeerOutcome.DIFFERS
    assert await asker.receive(holder.peer, shape=Shape(len(CONTENT) + 1)) is PeerOutcome.GARBLED
    assert asker.heard == []


async def test_an_asker_that_goes_away_leaves_nothing_behind(holder: Holder, asker: Asker) -> None:
    task = asyncio.ensure_future(asker.receive(holder.peer))
    await until(lambda: asker.heard, "the first entries are there")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    heard = len(asker.heard)
    assert await asker.receive(holder.peer) is PeerOutcome.GOT
    assert asker.heard[heard:] == HASHES


# ---- peers that break it

Script = Callable[[socket.socket], object]
GOOD = encode(SHAPE, HASHES)


@contextlib.contextmanager
def scripted(script: Script) -> Iterator[Peer]:
    """A peer that answers one request by a script, from a thread, and keeps the connection until the asker ends it."""

    def serve() -> None:
        with listener.accept()[0] as sock:
            request = b""
            while b"\r\n\r\n" not in request:
                request += sock.recv(4096)
            assert request.startswith(f"GET /fastmirror/v1/chunks/{DIGEST}?algorithm=blake3 HTTP/1.1\r\n".encode())
            with contextlib.suppress(OSError):
                script(sock)
                sock.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield Peer(*listener.getsockname())
        thread.join()


def head(length: int = len(GOOD), status: str = "200 OK", *fields: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {length}", *fields, "", "")).encode()


def sends(*pieces: bytes, then_close: bool = False) -> Script:
    def script(sock: socket.socket) -> None:
        for piece in pieces:
            sock.sendall(piece)
        if then_close:
            sock.shutdown(socket.SHUT_WR)

    return script


@pytest.mark.parametrize(
    ("script", "outcome", "told"),
    [
        (sends(head(), GOOD), PeerOutcome.GOT, 21),
        (sends(head(), GOOD[:100]), PeerOutcome.STALLED, 2),
        (sends(head(), GOOD[:100], then_close=True), PeerOutcome.TRUNCATED, 2),
        (sends(head(), b"X" + GOOD[1:]), PeerOutcome.GARBLED, 0),
        (sends(head(), encode(Shape(len(CONTENT) - 1), HASHES)), PeerOutcome.GARBLED, 0),
        (sends(head(len(GOOD) + 1), GOOD), PeerOutcome.DIFFERS, 0),
        (sends(head(len(GOOD), "200 OK", "Content-Encoding: gzip"), GOOD), PeerOutcome.GARBLED, 0),
        (sends(head(0, "302 Found", "Location: /elsewhere")), PeerOutcome.GARBLED, 0),
        (sends(head(0, "503 Busy")), PeerOutcome.BUSY, 0),
        (sends(), PeerOutcome.STALLED, 0),
    ],
    ids=["good", "stalls", "breaks off", "no magic", "other size", "longer", "coded", "redirect", "busy", "silent"],
)
async def test_a_broken_list_has_a_name_and_what_came_before_was_told(
    asker: Asker, script: Script, outcome: PeerOutcome, told: int
) -> None:
    with scripted(script) as peer:
        assert await asker.receive(peer) is outcome
        await asker.peers.close()
    assert asker.heard == HASHES[:told]


async def test_a_list_may_come_slowly_as_long_as_it_comes(asker: Asker) -> None:
    """Slower than bodies have to be: its holder reads the content from a slow disk."""

    def script(sock: socket.socket) -> None:
        sock.sendall(head())
        for at in range(0, len(GOOD), 100):
            sock.sendall(GOOD[at : at + 100])
            let_pass(0.03, "the list goes on")

    with scripted(script) as peer:
        assert await asker.receive(peer) is PeerOutcome.GOT
        await asker.peers.close()
    assert asker.heard == HASHES
    assert asker.turns > 3
