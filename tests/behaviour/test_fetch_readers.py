"""Readers of content that other nodes have: ranges, many at once, slow ones, early leavers, and the end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from fastmirror.oci.digest import Digest
from tests.kit import faults
from tests.kit.content import blob
from tests.kit.faults import Fault, Seen
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.fetching import FetchingNode, blob_target, fetching, is_all, start_reading, until
from tests.kit.puller import Puller
from tests.kit.waiting import NOISE
from tests.kit.wire import Answer, End, Wire, build_request

WHOLE = 64 * 1024
HOLDBACK = 32 * 1024
LAYER = blob(1_000_000, 3)
OTHER = blob(700_000, 4)
SMALL = blob(40_000, 5)
SETTINGS: dict[str, Any] = {
    "verify": "tail",  # the contents here are smaller than a piece of a chunk list
    "whole_bytes": WHOLE,
    "holdback_bytes": HOLDBACK,
    "stall_timeout": 1.0,
    "lookup_timeout": 1.0,
}
GATE = 600_000


def frontier(node: FetchingNode, content: bytes) -> int:
    fetch = node.table.get(Digest.of(content), "blobs")
    return fetch.spool.frontier if fetch is not None and fetch.spool is not None else 0


# ---- ranges


@pytest.mark.parametrize(
    ("value", "span"),
    [
        ("bytes=0-", (0, 1_000_000)),
        ("bytes=0-99", (0, 100)),
        ("bytes=100-199", (100, 200)),
        ("bytes=999999-", (999_999, 1_000_000)),
        ("bytes=-5", (999_995, 1_000_000)),
        ("bytes=500000-2000000", (500_000, 1_000_000)),
    ],
)
@pytest.mark.parametrize("content", [LAYER, SMALL], ids=["large", "small"])
async def test_a_range_of_what_a_peer_has_is_that_range(
    tmp_path: Path, value: str, span: tuple[int, int], content: bytes
):
    if content is SMALL:
        value = value.replace("999999", "39999").replace("500000-2000000", "30000-50000")
        span = {(999_999, 1_000_000): (39_999, 40_000), (999_995, 1_000_000): (39_995, 40_000)}.get(span, span)
        span = {(500_000, 1_000_000): (30_000, 40_000), (0, 1_000_000): (0, 40_000)}.get(span, span)
    start, stop = span
    with FaultyPeer([content]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            answer = await node.ask(blob_target(content), Range=value)
            assert answer.status == 206
            assert answer.body == content[start:stop], "other bytes"
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"
            assert len(peer.gets()) == 1


async def test_a_range_outside_is_416_and_a_wrong_if_range_gives_all_of_it(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            outside = await node.ask(blob_target(LAYER), Range="bytes=1000000-")
            assert (outside.status, outside.headers["content-range"]) == (416, "bytes */1000000")
            etag = f'"{Digest.of(LAYER)}"'
            assert (await node.ask(blob_target(LAYER), Range="bytes=1-9", If_Range=etag)).body == LAYER[1:10]
            whole = await node.ask(blob_target(LAYER), Range="bytes=1-9", If_Range='"other"')
            assert (whole.status, whole.body == LAYER) == (200, True)


async def test_the_pieces_of_a_parallel_fetch_come_from_one_fetch(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            puller = Puller([node.address])
            content = await asyncio.to_thread(
                puller.fetch_parallel, "team/app", str(Digest.of(LAYER)), len(LAYER), 128 * 1024, 4
            )
            assert content == LAYER
            assert len(peer.gets()) == 1


# ---- readers of one fetch


async def test_two_readers_at_once_cost_the_peer_one_transfer(tmp_path: Path):
    with FaultyPeer([LAYER], faults.on_get(faults.drip(50_000, 0.01))) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(node.ask(blob_target(LAYER))) for _ in range(8)]
            assert all(task.result().body == LAYER for task in tasks)
            assert len(peer.gets()) == 1


async def test_bytes_flow_while_they_come_and_the_last_ones_wait_for_the_digest(tmp_path: Path):
    gate = len(LAYER) - 100
    with FaultyPeer([LAYER], faults.on_get(faults.stall(gate), None)) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            shown = len(LAYER) - HOLDBACK
            wire, start = await asyncio.to_thread(start_reading, node, LAYER, shown)
            assert start == LAYER[:shown]
            await until(lambda: frontier(node, LAYER) == gate, "the peer has sent all but the last bytes")
            wire.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                wire.sock.recv(1)
            wire.sock.setblocking(True)
            wire.sock.close()


async def test_a_slow_reader_slows_neither_the_fetch_nor_other_readers(tmp_path: Path):
    large = blob(12 * 1024 * 1024, 6)
    with FaultyPeer([large]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            slow = node.wire(receive_buffer=4096)
            slow.send(build_request("GET", blob_target(large)))
            answer = await node.ask(blob_target(large))
            assert is_all(answer, large)
            assert await asyncio.to_thread(_drain, slow) == large
            assert len(peer.gets()) == 1


def _drain(wire: Wire) -> bytes:
    with wire:
        return wire.answer().body


async def test_a_fetch_goes_on_without_its_reader_and_the_next_one_joins_it(tmp_path: Path):
    with FaultyPeer([LAYER], faults.on_get(faults.drip(50_000, 0.02))) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            wire, _ = await asyncio.to_thread(start_reading, node, LAYER, 100_000)
            wire.reset()
            await until(lambda: frontier(node, LAYER) > 300_000, "the fetch goes on")
            assert is_all(await node.ask(blob_target(LAYER)), LAYER)
            assert len(peer.gets()) == 1
            assert node.stats.hangups == 0


async def test_an_answer_that_would_come_too_late_is_a_404_as_soon_as_that_can_be_foreseen(tmp_path: Path):
    """With ``strict`` a client waits for all of a blob: longer than it would for its next host, at this rate."""
    content = blob(30_000_000, 9)
    with FaultyPeer([content], faults.on_get(faults.drip(20_000, 0.01))) as peer:
        async with fetching(tmp_path, [peer.address], **{**SETTINGS, "verify": "strict"}) as node:
            answer = await node.ask(blob_target(content))
            assert answer.status == 404
            assert answer.seconds < 2.0 * NOISE


async def test_many_early_leavers_leave_nothing(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], grace=0.05, **SETTINGS) as node:
            for count in (0, 1, 1000, 200_000):
                for _ in range(10):
                    wire, _ = await asyncio.to_thread(start_reading, node, LAYER, count)
                    wire.reset()
            await until(lambda: node.parts.room.used == 0, "the spool is gone after the grace")
            assert node.table.active == 0
            assert is_all(await node.ask(blob_target(LAYER)), LAYER)


async def test_one_who_leaves_before_the_answer_leaves_nothing(tmp_path: Path):
    with FaultyPeer([LAYER], faults.on_get(faults.silent(), None)) as peer:
        async with fetching(tmp_path, [peer.address], grace=0.05, first_byte_timeout=5.0, **SETTINGS) as node:
            with node.wire() as wire:
                wire.send(build_request("GET", blob_target(LAYER)))
                await until(lambda: len(peer.gets()) == 1, "the peer is asked")
                wire.reset()
            await until(lambda: node.table.get(Digest.of(LAYER), "blobs") is None, "the fetch ended with its grace")
            assert is_all(await node.ask(blob_target(LAYER)), LAYER)


async def test_within_the_grace_nothing_is_fetched_again_and_after_it_the_spool_is_gone(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], grace=0.3, **SETTINGS) as node:
            for _ in range(3):
                assert is_all(await node.ask(blob_target(LAYER)), LAYER)
            assert len(peer.gets()) == 1
            await until(lambda: node.parts.room.used == 0, "the grace is over")
            assert is_all(await node.ask(blob_target(LAYER)), LAYER)
            assert len(peer.gets()) == 2


async def test_the_end_of_the_node_ends_bodies_by_fin(tmp_path: Path):
    with FaultyPeer([LAYER], faults.on_get(faults.stall(GATE))) as peer:
        async with fetching(tmp_path, [peer.address], **{**SETTINGS, "stall_timeout": 30.0}) as node:
            wire, start = await asyncio.to_thread(start_reading, node, LAYER, GATE)
            await node.table.close()
            rest = await asyncio.to_thread(wire.rest)
            assert start + rest == LAYER[: len(start + rest)]
            assert wire.end is End.FIN
            wire.sock.close()
            assert (await node.ask(blob_target(OTHER))).status == 404


# ---- the whole way, as containerd goes it


async def test_a_pull_survives_the_death_of_its_only_peer_through_the_next_host(tmp_path: Path):
    with FaultyPeer([LAYER], _dies_in_the_layer) as peer, FaultyPeer([LAYER]) as origin:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            puller = Puller([node.address, origin.address])
            body = await asyncio.to_thread(puller.fetch, "team/app", str(Digest.of(LAYER)), len(LAYER))
            assert body == LAYER
            assert [seen.start for seen in origin.gets()] == [GATE], "the origin gives only what was missing"


def _dies_in_the_layer(seen: Seen) -> Fault | None:
    if seen.method == "GET":
        return faults.truncate(GATE) if seen.number == 0 else faults.status(404)
    return None


async def test_many_rounds_leave_nothing_behind(tmp_path: Path):
    content = blob(200_000, 9)
    with FaultyPeer([content], lambda seen: faults.truncate(90_000) if seen.number % 3 == 0 else None) as peer:
        async with fetching(tmp_path, [peer.address], grace=0.001, **SETTINGS) as node:
            counts: list[int] = []
            tasks = len(asyncio.all_tasks())
            for _ in range(60):
                answer: Answer = await node.ask(blob_target(content))
                assert is_all(answer, content)
                await until(lambda: node.table.active == 0, "the grace is over")
                await until(lambda: len(asyncio.all_tasks()) <= tasks, "no task is left")
                counts.append(len(os.listdir("/proc/self/fd")))
            assert max(counts[20:]) <= max(counts[:20]) + 2, f"descriptors grow: {counts}"
