"""Pieces are checked before they are passed on: one wrong byte of one peer costs a piece, and that peer its place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import Manifest
from fastmirror.routing import Peer
from tests.kit import faults
from tests.kit.content import blob
from tests.kit.faulty_peer import FaultyPeer, flip
from tests.kit.fetching import FetchingNode, blob_target, fetching, holders, read_timed, start_reading, until
from tests.kit.invariants import assert_same
from tests.kit.waiting import NOISE
from tests.kit.wire import End

MIB = 1 << 20
LAYER = blob(12 * MIB + 12345, 31)
SMALL = blob(5 * MIB + 1, 32)  # several pieces, and verified whole before its first byte
MANIFEST = Manifest("", tuple(Descriptor("", Digest.of(each), len(each)) for each in (LAYER, SMALL)), ())
WRONG = 77  # in what the first of several peers is asked for first
LATER = 4 * MIB + 77
PACE = 16 * MIB
SETTINGS: dict[str, Any] = {"lookup_timeout": 1.0, "holdback_bytes": MIB, "stall_timeout": 5.0}


def honest(content: bytes) -> bytes:
    return content


def consistent(content: bytes) -> bytes:
    """The list of a liar that lies about the same byte."""
    return flip(content, WRONG)


def consistent_later(content: bytes) -> bytes:
    """The same for a byte that comes later."""
    return flip(content, LATER)


def other(content: bytes) -> bytes:
    """The list of a liar that lies about something else."""
    return flip(content, len(content) - 1)


@contextlib.asynccontextmanager
async def swarm(spool: Path, count: int, **settings: Any) -> AsyncIterator[tuple[FetchingNode, list[FaultyPeer]]]:
    """A node, and peers with lists that all have the content; the first is asked first."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(FaultyPeer([LAYER, SMALL])) for _ in range(count)]
        for peer in peers:
            peer.pace = PACE
            peer.list_of = honest
        addresses = [peer.address for peer in peers]
        async with fetching(spool, addresses, in_order=True, **{**SETTINGS, **settings}) as node:
            node.parts.sizes.learn(MANIFEST)
            # Here it matters who sends which piece, and the peers are threads of this process: they may be late.
            node.parts.book.hedge_seconds = lambda: 5.0  # type: ignore[method-assign]
            node.parts.plan = msgspec.structs.replace(node.parts.plan, least_stall=5.0)
            yield node, peers


def lie(peer: FaultyPeer, list_of: Callable[[bytes], bytes] | None, at: int = WRONG) -> None:
    peer.plan = faults.on_get(faults.corrupt(at))
    peer.list_of = list_of


def quarantined(node: FetchingNode, peer: FaultyPeer) -> bool:
    return not node.parts.book.trusted(Peer(*peer.address), Digest.of(b"other"), asyncio.get_running_loop().time())


# ---- liars


@pytest.mark.parametrize("content", [LAYER, SMALL], ids=["layer", "small"])
@pytest.mark.parametrize("list_of", [None, honest, consistent, other], ids=["no list", "true", "consistent", "other"])
async def test_a_wrong_byte_of_one_of_three_is_never_seen_and_costs_its_piece_and_its_sender_only(
    tmp_path: Path, content: bytes, list_of: Callable[[bytes], bytes] | None
) -> None:
    async with swarm(tmp_path, 3) as (node, peers):
        lie(peers[0], list_of)
        for _ in range(2):
            read = await read_timed(node, content)
            assert_same(read.body, content)
            assert read.seconds < 3.0 * NOISE
        assert not any(quarantined(node, peer) for peer in peers[1:])
        assert quarantined(node, peers[0])
        assert node.parts.book.outcomes[PeerOutcome.CORRUPT] == 1
        assert sum(peer.sent for peer in peers) - len(content) <= len(content) // 2


@pytest.mark.parametrize("list_of", [None, honest, consistent], ids=["no list", "true", "consistent"])
async def test_of_two_peers_the_one_that_lies_is_found_by_the_digest_and_the_layer_is_right(
    tmp_path: Path, list_of: Callable[[bytes], bytes] | None
) -> None:
    async with swarm(tmp_path, 2) as (node, (liar, good)):
        lie(liar, list_of)
        read = await read_timed(node, LAYER)
        assert_same(read.body, LAYER)
        assert not quarantined(node, good)
        assert quarantined(node, liar)


@pytest.mark.parametrize("list_of", [None, consistent_later], ids=["no list", "consistent"])
async def test_a_layer_that_only_a_liar_has_is_never_complete_and_the_liar_is_not_asked_again(
    tmp_path: Path, list_of: Callable[[bytes], bytes] | None
) -> None:
    async with swarm(tmp_path, 1) as (node, (liar,)):
        lie(liar, list_of, LATER)
        read = await read_timed(node, LAYER)
        assert read.end is End.FIN
        assert len(read.body) <= len(LAYER) - MIB
        assert quarantined(node, liar)
        assert (await node.ask(blob_target(LAYER), Range=f"bytes={len(read.body)}-")).status == 404


async def test_one_who_lied_before_is_not_believed_alone_until_something_of_it_was_verified(tmp_path: Path) -> None:
    """Its quarantine is over: a second lie costs nobody a failed attempt, and a right content makes up for it."""
    async with swarm(tmp_path, 1) as (node, (peer,)):
        book, known = node.parts.book, Peer(*peer.address)
        book.suspect(known, Digest.of(b"other"), asyncio.get_running_loop().time() - 1000)
        lie(peer, consistent_later, LATER)
        answer = await node.ask(blob_target(LAYER))
        assert (answer.status, quarantined(node, peer)) == (404, True)
    async with swarm(tmp_path, 1) as (node, (peer,)):
        book, known = node.parts.book, Peer(*peer.address)
        book.suspect(known, Digest.of(b"other"), asyncio.get_running_loop().time() - 1000)
        assert_same((await node.ask(blob_target(SMALL))).body, SMALL)
        assert book.believed(known)


async def test_the_bytes_of_a_peer_are_held_against_its_own_list(tmp_path: Path) -> None:
    async with swarm(tmp_path, 1) as (node, (peer,)):
        lie(peer, honest, LATER)
        read = await read_timed(node, LAYER)
        assert read.end is End.FIN
        assert_same(read.body, LAYER[: len(read.body)])
        assert len(read.body) == LATER // MIB * MIB, "all that was right, and not a byte of the wrong piece"
        assert quarantined(node, peer)


# ---- what is shown, and when


async def test_not_a_byte_of_a_piece_is_shown_before_the_piece_is_whole_and_right(tmp_path: Path) -> None:
    async with swarm(tmp_path, 1, stall_timeout=30.0) as (node, (peer,)):
        peer.plan = faults.on_get(faults.stall(3 * MIB + 500_000), None)
        wire, begin = await asyncio.to_thread(start_reading, node, LAYER, 3 * MIB)
        assert_same(begin, LAYER[: 3 * MIB])
        await until(lambda: peer.sent == 3 * MIB + 500_000, "half of the next piece was sent")
        wire.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            wire.sock.recv(1)
        wire.sock.close()


async def test_when_nobody_is_left_the_body_ends_with_the_last_piece_that_is_right(tmp_path: Path) -> None:
    async with swarm(tmp_path, 1) as (node, (peer,)):
        peer.plan = faults.on_get(faults.truncate(5 * MIB + 1000), faults.status(404))
        read = await read_timed(node, LAYER)
        assert read.end is End.FIN
        assert_same(read.body, LAYER[: 5 * MIB])
        assert (await node.ask(blob_target(LAYER), Range=f"bytes={5 * MIB}-")).status == 404


@pytest.mark.parametrize("count", [1, 2])
async def test_without_any_list_bytes_are_passed_on_piece_by_piece_all_the_same(tmp_path: Path, count: int) -> None:
    async with swarm(tmp_path, count) as (node, peers):
        for peer in peers:
            peer.list_of = None
        read = await read_timed(node, LAYER)
        assert_same(read.body, LAYER)


async def test_a_peer_that_does_not_tell_its_list_is_waited_for_no_longer_than_for_bytes(tmp_path: Path) -> None:
    async with swarm(tmp_path, 1) as (node, (peer,)):
        peer.list_delay = 60.0
        read = await read_timed(node, LAYER)
        assert_same(read.body, LAYER)
        assert 0.5 < read.seconds < 2.5 * NOISE
        assert node.parts.book.live(Peer(*peer.address), asyncio.get_running_loop().time()), "nor is it left alone"


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_list_that_drips_is_not_waited_for(tmp_path: Path, count: int) -> None:
    async with swarm(tmp_path, count, stall_timeout=0.5) as (node, peers):
        peers[0].list_pause = 0.3
        read = await read_timed(node, LAYER)
        assert_same(read.body, LAYER)
        assert read.seconds < 3.0 * NOISE


async def test_strict_shows_nothing_before_all_of_it_is_right(tmp_path: Path) -> None:
    async with swarm(tmp_path, 1, verify="strict") as (node, (peer,)):
        peer.plan = faults.on_get(faults.truncate(5 * MIB), faults.status(404))
        assert (await node.ask(blob_target(LAYER))).status == 404, "no byte was promised"
    async with swarm(tmp_path, 3, verify="strict") as (node, peers):
        lie(peers[0], consistent)
        assert_same((await read_timed(node, LAYER)).body, LAYER)


@pytest.mark.parametrize("hash", ["blake3", "sha256", "xxh3-128"])
async def test_real_holders_tell_lists_of_each_kind(tmp_path: Path, hash: str) -> None:
    async with holders(2) as nodes:
        for node in nodes:
            node.store.put(LAYER)
        async with fetching(tmp_path, [node.peer for node in nodes], piece_hash=hash, **SETTINGS) as reader:
            read = await read_timed(reader, LAYER)
            assert_same(read.body, LAYER)
            assert sum(each.lists.made_lists for each in nodes) == 2


async def test_the_lists_that_are_asked_for_are_few_whoever_many_have_the_layer(tmp_path: Path) -> None:
    async with swarm(tmp_path, 6) as (node, peers):
        assert_same((await read_timed(node, LAYER)).body, LAYER)
        assert sum(len(peer.list_requests) for peer in peers) == 2
        assert_same((await read_timed(node, SMALL)).body, SMALL)
        assert sum(len(peer.list_requests) for peer in peers) == 2, "what is shown whole needs none"


# ---- readers in several places


@pytest.mark.parametrize("verify", ["chunked", "tail"])
async def test_a_reader_that_begins_far_behind_does_not_wait_for_what_is_before(tmp_path: Path, verify: str) -> None:
    start = 10 * MIB + 5
    async with swarm(tmp_path, 2, verify=verify) as (node, peers):
        for peer in peers:
            peer.pace = MIB  # what comes before would take five seconds
        wire, begin = await asyncio.to_thread(start_reading, node, LAYER, 500_000, Range=f"bytes={start}-")
        assert_same(begin, LAYER[start : start + 500_000])
        assert sum(peer.sent for peer in peers) < 6 * MIB
        wire.reset()


async def test_readers_in_many_places_are_all_served_and_bytes_come_once(tmp_path: Path) -> None:
    async with swarm(tmp_path, 3) as (node, peers):
        lie(peers[0], consistent)
        places = [0, 3 * MIB, 6 * MIB + 1, 9 * MIB, len(LAYER) - 10]
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(node.ask(blob_target(LAYER), Range=f"bytes={at}-")) for at in places]
        for at, read in zip(places, reads, strict=True):
            assert_same(read.result().body, LAYER[at:])
        assert sum(peer.sent for peer in peers) < len(LAYER) * 3 // 2
