"""When fetching must not begin: limits on fetches, spool and disk; and what goes on all the same."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastmirror.errors import ConfigError
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.spool import SpoolRoom
from fastmirror.fetch.want import Want
from fastmirror.oci.digest import Digest
from tests.kit import faults
from tests.kit.content import blob
from tests.kit.faults import Fault, Seen
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.fetching import blob_target, fetching, is_all, start_reading, until
from tests.kit.waiting import NOISE

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


# ---- limits


async def test_a_blob_beyond_max_fetches_is_a_prompt_404_and_those_begun_go_on(tmp_path: Path):
    with FaultyPeer([LAYER, OTHER], faults.on_get(faults.stall(GATE), None)) as peer:
        settings = {**SETTINGS, "stall_timeout": 30.0}
        async with fetching(tmp_path, [peer.address], max_fetches=1, **settings) as node:
            wire, _ = await asyncio.to_thread(start_reading, node, LAYER, 300_000)
            began = time.monotonic()
            assert (await node.ask(blob_target(OTHER))).status == 404
            assert time.monotonic() - began < 0.1 * NOISE
            assert len(peer.gets()) == 1
            assert node.parts.metrics.turned_away.at("fetches").value == 1
            piece, more = await asyncio.to_thread(start_reading, node, LAYER, 1000, Range="bytes=200000-")
            assert more == LAYER[200_000:201_000]
            piece.reset()
            wire.reset()


async def test_verified_content_that_nobody_reads_makes_room_for_other_content(tmp_path: Path):
    with FaultyPeer([LAYER, OTHER, SMALL]) as peer:
        async with fetching(tmp_path, [peer.address], max_fetches=1, spool_bytes=1_000_000, **SETTINGS) as node:
            for content in (LAYER, OTHER, SMALL, LAYER):
                assert is_all(await node.ask(blob_target(content)), content)
            assert len(peer.gets()) == 4
            assert node.parts.room.used == len(LAYER)


async def test_a_blob_beyond_the_spool_budget_is_a_prompt_404(tmp_path: Path):
    with FaultyPeer([LAYER, SMALL]) as peer:
        async with fetching(tmp_path, [peer.address], spool_bytes=500_000, **SETTINGS) as node:
            assert (await node.ask(blob_target(LAYER))).status == 404
            assert is_all(await node.ask(blob_target(SMALL)), SMALL)
            assert node.parts.metrics.turned_away.at("spool").value == 1


async def test_content_that_was_begun_is_fetched_again_whatever_the_limits(tmp_path: Path):
    with FaultyPeer([LAYER, OTHER], lambda seen: _stall_other(seen)) as peer:
        settings = {**SETTINGS, "stall_timeout": 30.0}
        async with fetching(tmp_path, [peer.address], max_fetches=1, grace=0.05, **settings) as node:
            assert (await node.ask(blob_target(LAYER), Range="bytes=0-99999")).status == 206
            await until(lambda: node.table.active == 0, "its grace is over")
            wire, _ = await asyncio.to_thread(start_reading, node, OTHER, 300_000)
            piece = await node.ask(blob_target(LAYER), Range="bytes=100000-199999")
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
                assert (await node.ask(blob_target(huge))).status == 404
                assert time.monotonic() - began < 0.5 * NOISE
            assert is_all(await node.ask(blob_target(LAYER)), LAYER)
            assert node.parts.metrics.turned_away.at("spool").value == 2
            (tiny_disk / "filler").write_bytes(bytes(1_000_000))
            assert is_all(await node.ask(blob_target(OTHER)), OTHER), "what nobody reads has made room"
            (tiny_disk / "more").write_bytes(bytes(390_000))
            assert (await node.ask(blob_target(LAYER))).status == 404
            assert node.parts.metrics.turned_away.at("spool").value == 3
            os.unlink(tiny_disk / "filler")
            os.unlink(tiny_disk / "more")
            assert is_all(await node.ask(blob_target(LAYER)), LAYER)
            assert os.listdir(tiny_disk) == [], "spool files have no names"


def test_a_spool_directory_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="spool_dir"):
        SpoolRoom(str(tmp_path / "file" / "spool"), 1000)


async def test_a_spool_directory_that_is_removed_while_it_runs_is_made_again(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path / "spool", [peer.address], **SETTINGS) as node:
            os.rmdir(tmp_path / "spool")
            assert is_all(await node.ask(blob_target(LAYER)), LAYER)


async def test_what_was_begun_lately_keeps_to_the_limits_when_it_is_pulled_anew(tmp_path: Path):
    with FaultyPeer([LAYER, OTHER, SMALL], lambda seen: _stall_other(seen)) as peer:
        settings = {**SETTINGS, "stall_timeout": 30.0}
        async with fetching(tmp_path, [peer.address], max_fetches=1, grace=0.05, **settings) as node:
            assert is_all(await node.ask(blob_target(LAYER)), LAYER)
            await until(lambda: node.table.active == 0, "its grace is over")
            wire, _ = await asyncio.to_thread(start_reading, node, OTHER, 300_000)
            assert (await node.ask(blob_target(LAYER))).status == 404
            assert node.table.active == 1
            wire.reset()


async def test_a_fetch_that_everybody_left_keeps_its_file_until_its_requests_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The head of an answer comes in the same turn of the loop in which the grace of its fetch ends."""
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            came, go_on = asyncio.Event(), asyncio.Event()
            usual = node.parts.client.open

            async def held(*args: Any, **options: Any) -> Any:
                body = await usual(*args, **options)
                came.set()
                await go_on.wait()
                return body

            monkeypatch.setattr(node.parts.client, "open", held)
            tap = node.table.join(Want(Digest.of(LAYER), "blobs", "team/app", ""))
            assert tap is not None
            await came.wait()
            fetch = tap.fetch
            tap.close()
            go_on.set()
            node.table._retire(fetch)
            await until(lambda: node.parts.room.used == 0, "its file is closed")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_all_fetches_together_keep_to_a_rate_and_no_peer_is_blamed_for_it(tmp_path: Path):
    with FaultyPeer([LAYER, OTHER]) as one, FaultyPeer([LAYER, OTHER]) as two:
        settings = {**SETTINGS, "stall_timeout": 0.2, "fetch_rate": 1_000_000}
        async with fetching(tmp_path, [one.address, two.address], **settings) as node:
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(node.ask(blob_target(content))) for content in (LAYER, OTHER)]
            assert 1.5 < time.monotonic() - began < 2.2 * NOISE
            assert is_all(tasks[0].result(), LAYER)
            assert is_all(tasks[1].result(), OTHER)
            assert set(node.parts.book.outcomes) <= {PeerOutcome.GOT, PeerOutcome.LEFT}
