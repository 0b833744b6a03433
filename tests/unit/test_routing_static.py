"""Peers by configuration, asked over HTTP: what all routers pass, and what dead and silent peers cost."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from fastmirror.config import FetchSettings
from fastmirror.fetch.asker import PeerAsker
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.peerbook import PeerBook
from fastmirror.http.client import PeerClient
from fastmirror.http.intake import Intake
from fastmirror.oci.descriptor import OCI_MANIFEST, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.routing import Holder, Peer, static
from fastmirror.routing.static import StaticRouter
from tests.kit.faults import always, garbage, half_status, redirect, silent, slow_first_byte, status, unauthorized
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.fetching import HolderNode, until
from tests.kit.router_conformance import CONTENT, LOOKUP_SECONDS, RouterConformance, found
from tests.kit.waiting import NOISE


class Questions:
    """What a static router needs: a client and a book."""

    def __init__(self) -> None:
        self.intake = Intake(1)
        self.client = PeerClient(FetchSettings(), self.intake)
        self.book = PeerBook()
        self.asker = PeerAsker(self.client, self.book)

    def router(self, *peers: Peer) -> StaticRouter:
        return StaticRouter(peers, self.asker, LOOKUP_SECONDS)

    async def close(self) -> None:
        await self.client.close()
        self.intake.close()


@pytest.fixture
async def questions() -> AsyncIterator[Questions]:
    made = Questions()
    yield made
    await made.close()


class StaticRig:
    def __init__(self, questions: Questions) -> None:
        self.nodes = [HolderNode(), HolderNode()]
        self.others = [node.peer for node in self.nodes]
        self.router = questions.router(*self.others)

    async def gain(self, other: int, content: bytes) -> Digest:
        return self.nodes[other].store.put(content)

    async def lose(self, other: int, digest: Digest) -> None:
        node = self.nodes[other]
        node.store.remove(digest)
        node.forget_answers()

    async def leave(self, other: int) -> None:
        await self.nodes[other].close()


class TestStaticRouter(RouterConformance):
    @pytest.fixture
    async def rig(self, questions: Questions) -> AsyncIterator[StaticRig]:
        made = StaticRig(questions)
        yield made
        await made.router.close()
        for node in made.nodes:
            await node.close()


async def test_a_tag_is_found_with_what_it_means(questions: Questions) -> None:
    node = HolderNode()
    manifest = b'{"schemaVersion":2,"mediaType":"%b","config":{"digest":"%b","size":1},"layers":[]}' % (
        OCI_MANIFEST.encode(),
        Digest.of(b"x").encode(),
    )
    reference = Reference("reg.example:5000", "team/app", "v1")
    digest = node.store.put(manifest)
    node.store.tag(reference, Descriptor(OCI_MANIFEST, digest, len(manifest)))
    assert await found(questions.router(node.peer), reference) == [Holder(node.peer, len(manifest), digest)]
    assert await found(questions.router(node.peer), reference._replace(tag="v2")) == []
    await node.close()


async def test_a_dead_peer_costs_nothing_after_the_first_time(questions: Questions) -> None:
    node = HolderNode()
    digest = node.store.put(CONTENT[0])
    with FaultyPeer([], listening=False) as dead:
        router = questions.router(Peer(*dead.address), node.peer)
        began = time.monotonic()
        assert [holder.peer for holder in await found(router, digest)] == [node.peer]
        assert time.monotonic() - began < LOOKUP_SECONDS, "a refused connection is no reason to wait"
        assert questions.book.outcomes[PeerOutcome.UNREACHABLE] == 1
        for _ in range(20):
            assert [holder.peer for holder in await found(router, digest)] == [node.peer]
        assert questions.book.outcomes[PeerOutcome.UNREACHABLE] == 1, "it was left alone"
    await node.close()


async def test_a_peer_that_does_not_answer_costs_one_look_up_its_time(questions: Questions) -> None:
    node = HolderNode()
    digest = node.store.put(CONTENT[0])
    with FaultyPeer([], always(silent())) as mute:
        router = questions.router(Peer(*mute.address), node.peer)
        lookup = router.find(digest)
        began = time.monotonic()
        assert (await anext(lookup)).peer == node.peer
        assert time.monotonic() - began < LOOKUP_SECONDS, "the first holder does not wait for the mute one"
        with pytest.raises(StopAsyncIteration):
            await anext(lookup)
        assert time.monotonic() - began < LOOKUP_SECONDS * NOISE
        assert questions.book.outcomes[PeerOutcome.STALLED] == 1
        assert [holder.peer for holder in await found(router, digest)] == [node.peer]
        assert len(mute.requests) == 1
    await node.close()


async def test_a_black_holed_peer_costs_one_look_up_its_time(questions: Questions) -> None:
    with _full_listener() as address:
        router = questions.router(Peer(*address))
        began = time.monotonic()
        assert await found(router, Digest.of(b"x")) == []
        assert LOOKUP_SECONDS * 0.9 < time.monotonic() - began < LOOKUP_SECONDS * NOISE
        assert questions.book.outcomes[PeerOutcome.UNREACHABLE] == 1
        began = time.monotonic()
        assert await found(router, Digest.of(b"x")) == []
        assert time.monotonic() - began < LOOKUP_SECONDS / 2


class _full_listener:  # noqa: N801
    """An address whose SYNs are dropped: a listener whose queue is full. Source: listen(2), tcp(7) (backlog)."""

    def __enter__(self) -> tuple[str, int]:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self._fill = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(self._listener.getsockname())
            self._fill.append(sock)
        host, port = self._listener.getsockname()
        return host, port

    def __exit__(self, *exc: object) -> None:
        for sock in (*self._fill, self._listener):
            sock.close()


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (half_status(), PeerOutcome.STALLED),
        (slow_first_byte(LOOKUP_SECONDS * 3), PeerOutcome.STALLED),
        (garbage(), PeerOutcome.GARBLED),
        (redirect("http://127.0.0.1:9/"), PeerOutcome.GARBLED),
        (unauthorized("http://127.0.0.1:9/"), PeerOutcome.LACKS),
        (status(500), PeerOutcome.GARBLED),
        (status(503), PeerOutcome.BUSY),
        (status(404), PeerOutcome.LACKS),
    ],
)
async def test_a_peer_that_answers_badly_is_no_holder(questions: Questions, fault, outcome) -> None:
    with FaultyPeer([CONTENT[0]], always(fault)) as peer:
        assert await found(questions.router(Peer(*peer.address)), Digest.of(CONTENT[0])) == []
    assert questions.book.outcomes[outcome] == 1
    assert questions.book.outcomes.total() == 1


async def test_a_peer_that_is_back_is_found_without_a_pull_waiting_for_it(questions: Questions) -> None:
    node = HolderNode()
    digest = node.store.put(CONTENT[0])
    peer = node.peer
    router = questions.router(peer)
    questions.book.note(peer, PeerOutcome.UNREACHABLE, asyncio.get_running_loop().time())
    assert await found(router, digest) == []
    async with asyncio.TaskGroup() as group:
        running = group.create_task(router.run())
        await until(lambda: questions.asker.live(peer), "the peer is live again")
        running.cancel()
    assert await found(router, digest) == [Holder(peer, len(CONTENT[0]))]
    await node.close()


async def test_a_peer_that_was_only_late_is_back_at_once(questions: Questions) -> None:
    """A busy node: its answer comes a little later than a look-up waits."""
    with FaultyPeer([CONTENT[0]], always(slow_first_byte(LOOKUP_SECONDS * 1.25))) as late:
        peer = Peer(*late.address)
        router = questions.router(peer)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(router.run())
            await found(router, Digest.of(CONTENT[0]))
            assert not questions.asker.live(peer)
            began = time.monotonic()
            await until(lambda: questions.asker.live(peer), "the peer is live again")
            assert time.monotonic() - began < LOOKUP_SECONDS * 1.25 + 0.2 * NOISE
            assert len(late.requests) == 2, "what was asked, and whether it is there"
            running.cancel()


async def test_a_server_that_is_no_fastmirror_is_shown_as_such(questions: Questions) -> None:
    node = HolderNode()
    with FaultyPeer([]) as other, FaultyPeer([], plan=always(status(404))) as lacks:
        peers = [node.peer, Peer(*other.address), Peer(*lacks.address)]
        shown = [row.state for row in await questions.router(*peers).rows()]
    await node.close()
    assert shown == ["live", "not fastmirror", "not fastmirror"]


async def test_a_peer_that_goes_down_and_comes_back_is_told_once_each_and_shown(
    questions: Questions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(static, "WATCH_SECONDS", 0.02)
    caplog.set_level("INFO", "fastmirror")
    node = HolderNode()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        down = Peer(*nobody.getsockname())
        router = questions.router(node.peer, down)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(router.run())
            shown = {row.address: row for row in await router.rows()}
            assert [shown[str(peer)].state for peer in (node.peer, down)] == ["live", "down"]
            assert shown[str(down)].failure == "unreachable"
            assert shown[str(node.peer)].failure == ""

            def told() -> list[tuple[str, str]]:
                events = [(str(vars(record).get("event")), str(vars(record).get("peer"))) for record in caplog.records]
                return [event for event in events if event[0].startswith("routing.")]

            await until(lambda: told() == [("routing.peer_lost", str(down))], "it is told once")
            nobody.listen()
            nobody.setblocking(False)
            sock, _ = await asyncio.get_running_loop().sock_accept(nobody)
            with sock:
                await asyncio.get_running_loop().sock_sendall(sock, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await until(lambda: told()[1:] == [("routing.peer_returned", str(down))], "it is told to be back")
            running.cancel()
    await node.close()


async def test_a_given_peer_counts_once_however_often_it_is_given(questions: Questions) -> None:
    router = questions.router(Peer("198.18.0.1", 1), Peer("198.18.0.1", 1))
    assert router.peers() == [Peer("198.18.0.1", 1)]


async def test_many_look_ups_at_once_are_no_flood_of_connections(questions: Questions) -> None:
    node = HolderNode()
    digest = node.store.put(CONTENT[0])
    router = questions.router(node.peer)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(found(router, digest)) for _ in range(300)]
    assert all(len(task.result()) <= 1 for task in tasks)
    assert sum(len(task.result()) for task in tasks) > 100
    assert node.stats.accepted <= 32
    assert questions.book.live(node.peer, asyncio.get_running_loop().time())
    await node.close()
