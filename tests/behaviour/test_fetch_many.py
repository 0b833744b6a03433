"""One layer from many peers at once: what one of them does costs its own rate and a short pause, and no byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import Manifest
from fastmirror.routing import Peer
from tests.kit import faults
from tests.kit.content import blob
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.fetching import FetchingNode, fetching, read_timed, until
from tests.kit.invariants import assert_same
from tests.kit.waiting import NOISE
from tests.kit.wire import Address

MIB = 1 << 20
LAYER = blob(24 * MIB, 21)
MANIFEST = Manifest("", (Descriptor("", Digest.of(LAYER), len(LAYER)),), ())
PACE = 16 * MIB  # bytes per second of each peer: what its thread can do in this process on a busy machine
SETTINGS: dict[str, Any] = {"holdback_bytes": MIB, "lookup_timeout": 1.0}


@contextlib.asynccontextmanager
async def swarm(spool: Path, count: int, **settings: Any) -> AsyncIterator[tuple[FetchingNode, list[FaultyPeer]]]:
    """A node, and peers that all have the layer; the first is asked first."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(FaultyPeer([LAYER])) for _ in range(count)]
        for peer in peers:
            peer.pace = PACE
        addresses = [peer.address for peer in peers]
        async with fetching(spool, addresses, in_order=True, **{**SETTINGS, **settings}) as node:
            node.parts.sizes.learn(MANIFEST)
            yield node, peers


async def when(peer: FaultyPeer, sent: int, act: Callable[[], object]) -> None:
    """Do something, in a thread, when a peer has sent so many bytes."""
    await until(lambda: peer.sent >= sent, "the peer has sent its part", 20)
    await asyncio.to_thread(act)


# ---- first of all


async def test_a_layer_comes_from_two_peers_at_once_and_the_death_of_one_is_a_short_pause(tmp_path: Path) -> None:
    async with swarm(tmp_path, 2) as (node, (doomed, good)):
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_timed(node, LAYER))
            group.create_task(when(doomed, len(LAYER) // 4, doomed.die))
        read = reading.result()
        assert_same(read.body, LAYER)
        assert read.gap < 0.5 * NOISE
        assert good.sent >= len(LAYER) // 4
        starts = [seen.start for seen in doomed.gets()[:1] + good.gets()[:1]]
        assert len(set(starts)) == 2, "they began in different places"
        outcomes = node.parts.book.outcomes
        assert outcomes[PeerOutcome.TRUNCATED] + outcomes[PeerOutcome.UNREACHABLE] >= 1
        assert doomed.sent + good.sent < len(LAYER) + 8 * MIB, "hardly a byte was sent twice"


# ---- one of four


def die(peer: FaultyPeer) -> None:
    peer.die()


def freeze(peer: FaultyPeer) -> None:
    peer.freeze()


def crawl(peer: FaultyPeer) -> None:
    peer.pace = PACE / 50


@pytest.mark.parametrize("end", [die, freeze, crawl])
async def test_what_becomes_of_one_of_four_in_mid_layer_is_a_short_pause(
    tmp_path: Path, end: Callable[[FaultyPeer], None]
) -> None:
    async with swarm(tmp_path, 4) as (node, peers):
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_timed(node, LAYER))
            group.create_task(when(peers[0], len(LAYER) // 16, lambda: end(peers[0])))
        read = reading.result()
        assert_same(read.body, LAYER)
        assert read.gap < 0.7 * NOISE
        assert read.seconds < (len(LAYER) / PACE / 3 + 1.0) * NOISE
        assert all(peer.sent > 0 for peer in peers)


@pytest.mark.parametrize("name", ["silent", "half a status line", "404", "503", "garbage", "no range", "wrong range"])
async def test_what_one_of_four_answers_costs_a_hedge_delay_and_no_byte_of_it_is_used(
    tmp_path: Path, name: str
) -> None:
    fault = {
        "silent": faults.silent(),
        "half a status line": faults.half_status(),
        "404": faults.status(404),
        "503": faults.status(503),
        "garbage": faults.garbage(),
        "no range": faults.no_range(),
        "wrong range": faults.wrong_range(MIB),
    }[name]
    async with swarm(tmp_path, 4) as (node, peers):
        peers[0].plan = faults.on_get(fault)
        read = await read_timed(node, LAYER)
        assert_same(read.body, LAYER)
        assert read.gap < 0.5 * NOISE
        assert len(peers[0].gets()) == 1


async def test_one_of_four_that_ends_every_answer_early_is_left_alone_after_some(tmp_path: Path) -> None:
    async with swarm(tmp_path, 4) as (node, peers):
        peers[0].plan = faults.on_get(faults.truncate(100_000))
        read = await read_timed(node, LAYER)
        assert_same(read.body, LAYER)
        assert 1 <= len(peers[0].gets()) <= 3


@contextlib.contextmanager
def nowhere() -> Any:
    """An address whose packets seem to get lost: its queue of connections is full, and nobody takes one."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


async def test_a_peer_that_is_nowhere_costs_one_hedge_delay_once_and_not_for_each_blob(tmp_path: Path) -> None:
    small = [blob(50_000 + number, number) for number in range(8)]
    with nowhere() as lost, FaultyPeer([LAYER, *small]) as good:
        address: Address = lost
        async with fetching(tmp_path, [address, good.address], in_order=True, **SETTINGS) as node:
            sizes = Manifest("", tuple(Descriptor("", Digest.of(each), len(each)) for each in (LAYER, *small)), ())
            node.parts.sizes.learn(sizes)
            for each in (*small, LAYER):
                read = await read_timed(node, each)
                assert_same(read.body, each)
            hedges = node.parts.book.outcomes[PeerOutcome.UNREACHABLE]
            await until(lambda: not node.parts.book.live(Peer(*address), asyncio.get_running_loop().time()), "known")
            assert hedges <= 1


# ---- joining and leaving


async def test_a_peer_that_is_found_while_a_layer_comes_takes_its_part(tmp_path: Path) -> None:
    with FaultyPeer([LAYER]) as early, FaultyPeer([LAYER]) as late:
        early.pace = late.pace = PACE
        late.head_delay = 0.3
        async with fetching(tmp_path, [early.address, late.address], **SETTINGS) as node:
            read = await read_timed(node, LAYER)
            assert_same(read.body, LAYER)
            assert late.sent > len(LAYER) // 8
            assert late.sent + early.sent < len(LAYER) + 8 * MIB


def load(node: FetchingNode, peers: list[FaultyPeer]) -> list[int]:
    return [node.parts.book._record(Peer(*peer.address)).active for peer in peers]


@pytest.mark.parametrize("sent", [0, 1, 8 * MIB], ids=["asked", "begun", "under way"])
async def test_a_fetch_that_nobody_wants_any_more_leaves_nothing(tmp_path: Path, sent: int) -> None:
    async with swarm(tmp_path, 4, grace=0.05) as (node, peers):
        tasks, loads = len(asyncio.all_tasks()), load(node, peers)
        wire = node.wire()
        await asyncio.to_thread(wire.send, f"GET /v2/a/blobs/{Digest.of(LAYER)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        if sent:
            await until(lambda: sum(peer.sent for peer in peers) >= sent, "bytes come")
        else:
            await until(lambda: peers[0].gets(), "a peer is asked")
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.sock.close()
        await until(lambda: node.table.get(Digest.of(LAYER), "blobs") is None, "the fetch ended with its grace")
        await until(lambda: node.parts.room.used == 0, "the spool is gone")
        await until(lambda: len(asyncio.all_tasks()) <= tasks, "no task is left")
        before = sum(peer.sent for peer in peers)
        assert before < len(LAYER)
        assert load(node, peers) == loads, "no peer is thought to be at work"


async def test_many_layers_at_once_share_the_peers_and_leave_nothing(tmp_path: Path) -> None:
    layers = [blob(3 * MIB + number, number) for number in range(6)]
    with FaultyPeer(layers) as one, FaultyPeer(layers) as two, FaultyPeer(layers) as three:
        peers = (one, two, three)
        async with fetching(tmp_path, [peer.address for peer in peers], **SETTINGS) as node:
            async with asyncio.TaskGroup() as group:
                readings = [group.create_task(read_timed(node, layer)) for layer in layers for _ in range(2)]
            for number, reading in enumerate(readings):
                assert_same(reading.result().body, layers[number // 2])
            assert all(peer.sent > 0 for peer in peers)
            assert sum(peer.sent for peer in peers) < 2 * sum(map(len, layers))


async def test_the_only_holder_is_asked_again_when_it_was_left_alone_long_enough(tmp_path: Path) -> None:
    small = blob(50_000, 7)
    with FaultyPeer([small]) as peer:
        async with fetching(tmp_path, [peer.address], in_order=True, **SETTINGS) as node:
            book, now = node.parts.book, asyncio.get_running_loop().time()
            book.note(Peer(*peer.address), PeerOutcome.UNREACHABLE, now - 0.1)
            assert (await node.ask(f"/v2/a/b/blobs/{Digest.of(small)}")).status == 404
            assert peer.requests == [], "nobody waits for it before"
            assert node.parts.room.used == 0
            book.note(Peer(*peer.address), PeerOutcome.UNREACHABLE, now - 40)
            await until(lambda: book.would_admit(Peer(*peer.address), asyncio.get_running_loop().time()), "its time")
            assert_same((await read_timed(node, small)).body, small)
