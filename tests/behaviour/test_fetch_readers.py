"""Readers of content that other nodes have: ranges, many at once, slow ones, early leavers, limits, and the end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastmirror.errors import ConfigError
from fastmirror.fetch.spool import SpoolRoom
from fastmirror.mirror.filters import Filters
from fastmirror.oci.descriptor import OCI_MANIFEST, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from tests.kit import faults
from tests.kit.content import blob
from tests.kit.faults import Fault, Seen
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.fetching import FetchingNode, fetching, holders, until
from tests.kit.invariants import assert_prefix
from tests.kit.layout import image
from tests.kit.puller import Puller
from tests.kit.waiting import NOISE
from tests.kit.wire import Answer, End, Wire, build_request

WHOLE = 64 * 1024
HOLDBACK = 32 * 1024
LAYER = blob(1_000_000, 3)
OTHER = blob(700_000, 4)
SMALL = blob(40_000, 5)
SETTINGS: dict[str, Any] = {
    "whole_bytes": WHOLE,
    "holdback_bytes": HOLDBACK,
    "stall_timeout": 1.0,
    "lookup_timeout": 1.0,
}
GATE = 600_000


def target(content: bytes) -> str:
    return f"/v2/team/app/blobs/{Digest.of(content)}"


def is_all(answer: Answer, content: bytes) -> bool:
    """Whether the answer is the whole content; on its own line in an assertion, bytes are not shown."""
    assert_prefix(answer, content)
    return answer.status == 200 and len(answer.body) == len(content)


def frontier(node: FetchingNode, content: bytes) -> int:
    fetch = node.table.get(Digest.of(content), "blobs")
    return fetch.spool.frontier if fetch is not None and fetch.spool is not None else 0


def read(node: FetchingNode, content: bytes, count: int, **fields: str) -> tuple[Wire, bytes]:
    """Open a connection, ask for the content and read ``count`` bytes of it. In a thread."""
    wire = node.wire()
    wire.send(build_request("GET", target(content), **fields))
    wire.head()
    wire.fill(count)
    return wire, wire.take(count)


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
            answer = await node.ask(target(content), Range=value)
            assert answer.status == 206
            assert answer.body == content[start:stop], "other bytes"
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"
            assert len(peer.gets()) == 1


async def test_a_range_outside_is_416_and_a_wrong_if_range_gives_all_of_it(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            outside = await node.ask(target(LAYER), Range="bytes=1000000-")
            assert (outside.status, outside.headers["content-range"]) == (416, "bytes */1000000")
            etag = f'"{Digest.of(LAYER)}"'
            assert (await node.ask(target(LAYER), Range="bytes=1-9", If_Range=etag)).body == LAYER[1:10]
            whole = await node.ask(target(LAYER), Range="bytes=1-9", If_Range='"other"')
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
                tasks = [group.create_task(node.ask(target(LAYER))) for _ in range(8)]
            assert all(task.result().body == LAYER for task in tasks)
            assert len(peer.gets()) == 1


async def test_bytes_flow_while_they_come_and_the_last_ones_wait_for_the_digest(tmp_path: Path):
    gate = len(LAYER) - 100
    with FaultyPeer([LAYER], faults.on_get(faults.stall(gate), None)) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            shown = len(LAYER) - HOLDBACK
            wire, start = await asyncio.to_thread(read, node, LAYER, shown)
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
            slow.send(build_request("GET", target(large)))
            answer = await node.ask(target(large))
            assert is_all(answer, large)
            assert await asyncio.to_thread(_drain, slow) == large
            assert len(peer.gets()) == 1


def _drain(wire: Wire) -> bytes:
    with wire:
        return wire.answer().body


async def test_a_fetch_goes_on_without_its_reader_and_the_next_one_joins_it(tmp_path: Path):
    with FaultyPeer([LAYER], faults.on_get(faults.drip(50_000, 0.02))) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            wire, _ = await asyncio.to_thread(read, node, LAYER, 100_000)
            wire.reset()
            await until(lambda: frontier(node, LAYER) > 300_000, "the fetch goes on")
            assert is_all(await node.ask(target(LAYER)), LAYER)
            assert len(peer.gets()) == 1
            assert node.stats.hangups == 0


async def test_many_early_leavers_leave_nothing(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], grace=0.05, **SETTINGS) as node:
            for count in (0, 1, 1000, 200_000):
                for _ in range(10):
                    wire, _ = await asyncio.to_thread(read, node, LAYER, count)
                    wire.reset()
            await until(lambda: node.parts.room.used == 0, "the spool is gone after the grace")
            assert node.table.active == 0
            assert is_all(await node.ask(target(LAYER)), LAYER)


async def test_one_who_leaves_before_the_answer_leaves_nothing(tmp_path: Path):
    with FaultyPeer([LAYER], faults.on_get(faults.silent(), None)) as peer:
        async with fetching(tmp_path, [peer.address], grace=0.05, first_byte_timeout=5.0, **SETTINGS) as node:
            with node.wire() as wire:
                wire.send(build_request("GET", target(LAYER)))
                await until(lambda: len(peer.gets()) == 1, "the peer is asked")
                wire.reset()
            await until(lambda: node.table.get(Digest.of(LAYER), "blobs") is None, "the fetch ended with its grace")
            assert is_all(await node.ask(target(LAYER)), LAYER)


async def test_within_the_grace_nothing_is_fetched_again_and_after_it_the_spool_is_gone(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], grace=0.3, **SETTINGS) as node:
            for _ in range(3):
                assert is_all(await node.ask(target(LAYER)), LAYER)
            assert len(peer.gets()) == 1
            await until(lambda: node.parts.room.used == 0, "the grace is over")
            assert is_all(await node.ask(target(LAYER)), LAYER)
            assert len(peer.gets()) == 2


async def test_the_end_of_the_node_ends_bodies_by_fin(tmp_path: Path):
    with FaultyPeer([LAYER], faults.on_get(faults.stall(GATE))) as peer:
        async with fetching(tmp_path, [peer.address], **{**SETTINGS, "stall_timeout": 30.0}) as node:
            wire, start = await asyncio.to_thread(read, node, LAYER, GATE)
            await node.table.close()
            rest = await asyncio.to_thread(wire.rest)
            assert start + rest == LAYER[: len(start + rest)]
            assert wire.end is End.FIN
            wire.sock.close()
            assert (await node.ask(target(OTHER))).status == 404


# ---- limits


async def test_a_blob_beyond_max_fetches_is_a_prompt_404_and_those_begun_go_on(tmp_path: Path):
    with FaultyPeer([LAYER, OTHER], faults.on_get(faults.stall(GATE), None)) as peer:
        settings = {**SETTINGS, "stall_timeout": 30.0}
        async with fetching(tmp_path, [peer.address], max_fetches=1, **settings) as node:
            wire, _ = await asyncio.to_thread(read, node, LAYER, 300_000)
            began = time.monotonic()
            assert (await node.ask(target(OTHER))).status == 404
            assert time.monotonic() - began < 0.1 * NOISE
            assert len(peer.gets()) == 1
            assert node.parts.metrics.turned_away.at("fetches").value == 1
            piece, more = await asyncio.to_thread(read, node, LAYER, 1000, Range="bytes=200000-")
            assert more == LAYER[200_000:201_000]
            piece.reset()
            wire.reset()


async def test_verified_content_that_nobody_reads_makes_room_for_other_content(tmp_path: Path):
    with FaultyPeer([LAYER, OTHER, SMALL]) as peer:
        async with fetching(tmp_path, [peer.address], max_fetches=1, spool_bytes=1_000_000, **SETTINGS) as node:
            for content in (LAYER, OTHER, SMALL, LAYER):
                assert is_all(await node.ask(target(content)), content)
            assert len(peer.gets()) == 4
            assert node.parts.room.used == len(LAYER)


async def test_a_blob_beyond_the_spool_budget_is_a_prompt_404(tmp_path: Path):
    with FaultyPeer([LAYER, SMALL]) as peer:
        async with fetching(tmp_path, [peer.address], spool_bytes=500_000, **SETTINGS) as node:
            assert (await node.ask(target(LAYER))).status == 404
            assert is_all(await node.ask(target(SMALL)), SMALL)
            assert node.parts.metrics.turned_away.at("spool").value == 1


async def test_content_that_was_begun_is_fetched_again_whatever_the_limits(tmp_path: Path):
    with FaultyPeer([LAYER, OTHER], lambda seen: _stall_other(seen)) as peer:
        settings = {**SETTINGS, "stall_timeout": 30.0}
        async with fetching(tmp_path, [peer.address], max_fetches=1, grace=0.05, **settings) as node:
            assert (await node.ask(target(LAYER), Range="bytes=0-99999")).status == 206
            await until(lambda: node.table.active == 0, "its grace is over")
            wire, _ = await asyncio.to_thread(read, node, OTHER, 300_000)
            piece = await node.ask(target(LAYER), Range="bytes=100000-199999")
            assert (piece.status, piece.body) == (206, LAYER[100_000:200_000])
            wire.reset()


def _stall_other(seen: Seen) -> Fault | None:
    return faults.stall(GATE) if seen.method == "GET" and seen.reference == Digest.of(OTHER) else None


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.needs("root", "mount")
async def test_a_full_disk_is_a_prompt_404_before_anything_begins(tiny_disk: Path):
    huge = blob(9 * 1024 * 1024, 7)
    with FaultyPeer([huge, LAYER, OTHER]) as peer:
        async with fetching(tiny_disk, [peer.address], **SETTINGS) as node:
            for _ in range(2):
                began = time.monotonic()
                assert (await node.ask(target(huge))).status == 404
                assert time.monotonic() - began < 0.5 * NOISE
            assert is_all(await node.ask(target(LAYER)), LAYER)
            assert node.parts.metrics.turned_away.at("spool").value == 2
            (tiny_disk / "filler").write_bytes(bytes(1_000_000))
            assert (await node.ask(target(OTHER))).status == 404
            assert is_all(await node.ask(target(LAYER)), LAYER), "what is there already is served on"
            os.unlink(tiny_disk / "filler")
            assert is_all(await node.ask(target(OTHER)), OTHER)
            assert os.listdir(tiny_disk) == [], "spool files have no names"


def test_a_spool_directory_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="spool_dir"):
        SpoolRoom(str(tmp_path / "file" / "spool"), 1000)


# ---- misses, heads, manifests, tags


async def test_what_nobody_has_is_a_404_of_one_question_to_each_peer(tmp_path: Path):
    with FaultyPeer([]) as one, FaultyPeer([]) as two:
        async with fetching(tmp_path, [one.address, two.address], **SETTINGS) as node:
            for kind in ("blobs", "manifests"):
                for method in ("GET", "HEAD"):
                    answer = await node.ask(f"/v2/team/app/{kind}/{Digest.of(b'nowhere')}", method)
                    assert answer.status == 404
                    assert answer.seconds < 0.2 * NOISE
            assert len(one.requests) == len(two.requests) == 4
            assert one.gets() == two.gets() == []
            assert node.parts.room.used == 0


async def test_the_head_of_a_blob_tells_its_size_and_fetches_nothing(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            for _ in range(2):
                answer = await node.ask(target(LAYER), "HEAD", Range="bytes=5-6")
                assert answer.status == 200
                assert answer.headers["content-length"] == "1000000"
                assert answer.headers["docker-content-digest"] == Digest.of(LAYER)
            assert peer.gets() == []


class Image:
    def __init__(self) -> None:
        self.manifest, self.blobs = image([LAYER, SMALL])
        self.digest = Digest.of(self.manifest)
        self.reference = Reference("reg.example", "team/app", "v1")


async def test_a_manifest_comes_with_the_type_of_its_own_bytes(tmp_path: Path):
    made = Image()
    with FaultyPeer([made.manifest, *made.blobs]) as peer:  # which says octet-stream for everything
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            for method in ("HEAD", "GET"):
                answer = await node.ask(f"/v2/team/app/manifests/{made.digest}?ns=reg.example", method)
                assert answer.status == 200
                assert answer.headers["content-type"] == OCI_MANIFEST
                assert answer.headers["content-length"] == str(len(made.manifest))
                assert answer.headers["docker-content-digest"] == made.digest
                assert answer.body == (made.manifest if method == "GET" else b"")


async def test_content_that_is_no_manifest_is_none_whatever_the_path_says(tmp_path: Path):
    with FaultyPeer([SMALL, b'{"schemaVersion":2}']) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            for content in (SMALL, b'{"schemaVersion":2}'):
                assert (await node.ask(f"/v2/team/app/manifests/{Digest.of(content)}")).status == 404


async def test_a_manifest_with_a_wrong_byte_is_a_miss(tmp_path: Path):
    made = Image()
    with FaultyPeer([made.manifest], faults.on_get(faults.corrupt(20))) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            assert (await node.ask(f"/v2/team/app/manifests/{made.digest}")).status == 404


async def test_a_holder_whose_size_is_not_the_manifests_is_none(tmp_path: Path):
    made = Image()
    with FaultyPeer([made.manifest]) as honest, FaultyPeer([LAYER], faults.always(faults.wrong_length(7))) as liar:
        async with fetching(tmp_path, [honest.address, liar.address], **SETTINGS) as node:
            assert (await node.ask(f"/v2/team/app/manifests/{made.digest}")).status == 200
            assert (await node.ask(target(LAYER))).status == 404
            assert (await node.ask(target(LAYER), "HEAD")).status == 404
            assert liar.gets(str(Digest.of(LAYER))) == []


async def test_an_empty_blob_is_served(tmp_path: Path):
    with FaultyPeer([b""]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            answer = await node.ask(target(b""))
            assert (answer.status, answer.headers["content-length"], answer.body) == (200, "0", b"")


async def test_sha512_content_is_verified_as_well(tmp_path: Path):
    async with holders() as (holder,):
        digest = holder.store.put(LAYER, "sha512")
        async with fetching(tmp_path, [holder.peer], **SETTINGS) as node:
            assert (await node.ask(f"/v2/team/app/blobs/{digest}")).body == LAYER


async def test_tags_are_not_asked_for_elsewhere_unless_told(tmp_path: Path):
    async with holders() as (holder,):
        _tag(holder.store, Image())
        async with fetching(tmp_path, [holder.peer], **SETTINGS) as node:
            asked = holder.stats.requests
            assert (await node.ask("/v2/team/app/manifests/v1?ns=reg.example")).status == 404
            assert holder.stats.requests == asked


async def test_a_tag_that_all_who_know_it_agree_on_is_answered(tmp_path: Path):
    made = Image()
    async with holders(3) as (one, two, three):
        for holder in (one, two):
            _tag(holder.store, made)
        async with fetching(tmp_path, [h.peer for h in (one, two, three)], resolve_tags="yes", **SETTINGS) as node:
            for method in ("HEAD", "GET"):
                answer = await node.ask("/v2/team/app/manifests/v1?ns=reg.example", method)
                assert answer.status == 200
                assert answer.headers["docker-content-digest"] == made.digest
                assert answer.headers["content-type"] == OCI_MANIFEST
            assert (await node.ask("/v2/team/app/manifests/v2?ns=reg.example")).status == 404


async def test_a_tag_that_peers_do_not_agree_on_is_a_miss(tmp_path: Path):
    made, other = Image(), Image()
    other.manifest, other.blobs = image([OTHER])
    other.digest = Digest.of(other.manifest)
    async with holders(2) as (one, two):
        _tag(one.store, made)
        _tag(two.store, other)
        async with fetching(tmp_path, [one.peer, two.peer], resolve_tags="yes", **SETTINGS) as node:
            assert (await node.ask("/v2/team/app/manifests/v1?ns=reg.example")).status == 404


def _tag(store: Any, made: Image) -> None:
    for content in (*made.blobs, made.manifest):
        store.put(content)
    store.tag(made.reference, Descriptor(OCI_MANIFEST, made.digest, len(made.manifest)))


async def test_what_is_denied_by_name_is_not_asked_for(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], Filters(deny=["secret.example"]), **SETTINGS) as node:
            assert (await node.ask(target(LAYER) + "?ns=secret.example")).status == 404
            assert peer.requests == []
            assert is_all(await node.ask(target(LAYER) + "?ns=open.example"), LAYER)


# ---- what peers get to see


async def test_nothing_of_a_clients_request_reaches_a_peer(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            fields = {
                "Authorization": "Bearer canary",
                "Cookie": "canary",
                "X_Canary": "canary",
                "User_Agent": "canary",
            }
            assert is_all(await node.ask(target(LAYER) + "?ns=reg.example%3A5000", **fields), LAYER)
            for seen in peer.requests:
                assert "canary" not in json.dumps(seen.headers)
                assert set(seen.headers) <= {"host", "user-agent", "accept", "range"}
            assert [seen.target for seen in peer.gets()] == [target(LAYER) + "?ns=reg.example%3A5000"]


async def test_connections_to_a_peer_are_kept(tmp_path: Path):
    contents = [blob(1000 + n, n) for n in range(20)] + [LAYER]
    async with holders() as (holder,):
        for content in contents:
            holder.store.put(content)
        async with fetching(tmp_path, [holder.peer], **SETTINGS) as node:
            for content in contents:
                assert is_all(await node.ask(target(content)), content)
            assert holder.stats.accepted == 1


async def test_a_peer_that_ended_kept_connections_is_asked_on_a_new_one(tmp_path: Path):
    with FaultyPeer([LAYER, OTHER], lambda seen: None) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            assert is_all(await node.ask(target(LAYER)), LAYER)
            for sock in list(peer._open):
                sock.shutdown(2)
            assert is_all(await node.ask(target(OTHER)), OTHER)
            assert node.parts.book.outcomes.total() == 4, "two questions, two bodies, no failure"


# ---- the whole way, as containerd goes it


async def test_a_pull_survives_the_death_of_its_only_peer_through_the_next_host(tmp_path: Path):
    made = Image()
    contents = [made.manifest, *made.blobs]
    with FaultyPeer(contents, _dies_in_the_layer) as peer, FaultyPeer([*contents]) as origin:
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
                answer: Answer = await node.ask(target(content))
                assert is_all(answer, content)
                await until(lambda: node.table.active == 0, "the grace is over")
                await until(lambda: len(asyncio.all_tasks()) <= tasks, "no task is left")
                counts.append(len(os.listdir("/proc/self/fd")))
            assert max(counts[20:]) <= max(counts[:20]) + 2, f"descriptors grow: {counts}"
