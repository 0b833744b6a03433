"""Peers that tell wrong sizes: what an honest peer has is pulled all the same, and nothing wrong is told or shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.oci.digest import Digest
from tests.kit import faults
from tests.kit.content import blob
from tests.kit.faults import Fault, Seen
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.fetching import AllHold, FetchingNode, blob_target, fetching, is_all
from tests.kit.invariants import assert_prefix
from tests.kit.layout import image
from tests.kit.waiting import NOISE

SMALL = blob(40_000, 5)
LARGE = blob(3_300_000, 6)
HUGE = 10**12
SETTINGS: dict[str, Any] = {
    "whole_bytes": 64 * 1024,
    "holdback_bytes": 32 * 1024,
    "stall_timeout": 0.3,
    "lookup_timeout": 1.0,
}


def late(seen: Seen) -> Fault | None:
    """An honest peer whose look-ups are answered after those of liars."""
    return faults.slow_first_byte(0.05) if seen.method == "HEAD" else None


LIES = {
    "huge, then nothing": faults.promised_length(HUGE),
    "one more, with junk": faults.wrong_length(1),
    "one more, then the end": faults.promised_length(1),
    "much more, with junk": faults.wrong_length(500_000),
    "one less": faults.wrong_length(-1),
    "a tenth": faults.wrong_length(-36_000),
}


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("lie", LIES)
async def test_a_liar_who_answers_first_denies_nothing_that_an_honest_peer_has(
    tmp_path: Path, content: bytes, lie: str
) -> None:
    with FaultyPeer([content], faults.always(LIES[lie])) as liar, FaultyPeer([content], late) as honest:
        async with fetching(tmp_path, [liar.address, honest.address], **SETTINGS) as node:
            answer = await node.ask(blob_target(content))
            assert is_all(answer, content)
            assert answer.seconds < 3.0 * NOISE
            now = node.parts.client._loop.time()
            assert not node.parts.book.trusted(_peer(node, liar), Digest.of(content), now), "who lied is known"
            assert node.parts.book.live(_peer(node, honest), now)
            assert node.parts.book.outcomes[PeerOutcome.GARBLED] == 0
            head = await node.ask(blob_target(content), "HEAD")
            assert head.headers["content-length"] == str(len(content)), "now the size is known"


async def test_nothing_has_no_bytes_and_all_else_has_some(tmp_path: Path) -> None:
    with FaultyPeer([SMALL], faults.always(faults.wrong_length(-len(SMALL)))) as liar, FaultyPeer([SMALL], late) as one:
        async with fetching(tmp_path, [liar.address, one.address], **SETTINGS) as node:
            assert is_all(await node.ask(blob_target(SMALL)), SMALL)
            assert (await node.ask(blob_target(SMALL), "HEAD")).headers["content-length"] == str(len(SMALL))
            assert liar.gets() == []
    with FaultyPeer([b""], faults.always(faults.wrong_length(7))) as liar:
        async with fetching(tmp_path, [liar.address], **SETTINGS) as node:
            assert (await node.ask(blob_target(b""))).status == 404
            assert liar.gets() == []


async def test_the_head_of_a_blob_is_no_answer_where_holders_do_not_agree(tmp_path: Path) -> None:
    with (
        FaultyPeer([LARGE], faults.always(faults.wrong_length(1))) as liar,
        FaultyPeer([LARGE], late) as one,
        FaultyPeer([LARGE], late) as two,
    ):
        async with fetching(tmp_path, [liar.address, one.address], **SETTINGS) as node:
            assert (await node.ask(blob_target(LARGE), "HEAD")).status == 404
        async with fetching(tmp_path, [liar.address, one.address, two.address], **SETTINGS) as node:
            answer = await node.ask(blob_target(LARGE), "HEAD")
            assert (answer.status, answer.headers["content-length"]) == (200, str(len(LARGE)))


async def test_a_liar_is_found_where_the_router_tells_no_sizes(tmp_path: Path) -> None:
    with FaultyPeer([LARGE], faults.always(faults.wrong_length(1))) as liar, FaultyPeer([LARGE], late) as honest:
        async with fetching(tmp_path, [liar.address, honest.address], in_order=True, **SETTINGS) as node:
            assert isinstance(node.router, AllHold)
            answer = await node.ask(blob_target(LARGE))
            assert_prefix(answer, LARGE)
            assert answer.headers["content-length"] == str(len(LARGE))
            assert is_all(answer, LARGE)


async def test_a_peer_whose_list_is_of_another_size_is_asked_for_bytes_all_the_same(tmp_path: Path) -> None:
    with FaultyPeer([LARGE]) as one, FaultyPeer([LARGE]) as two:
        one.list_of = two.list_of = lambda content: content + bytes(5_000_000)
        async with fetching(tmp_path, [one.address, two.address], **SETTINGS) as node:
            assert is_all(await node.ask(blob_target(LARGE)), LARGE)
            assert node.parts.book.outcomes[PeerOutcome.CORRUPT] == 0


async def test_a_size_beyond_the_spool_is_only_a_claim(tmp_path: Path) -> None:
    with FaultyPeer([LARGE], faults.always(faults.promised_length(HUGE))) as liar, FaultyPeer([LARGE], late) as honest:
        async with fetching(tmp_path, [liar.address, honest.address], spool_bytes=len(LARGE), **SETTINGS) as node:
            assert is_all(await node.ask(blob_target(LARGE)), LARGE)
            assert node.parts.metrics.turned_away.at("spool").value == 0
            assert liar.gets() == []


async def test_what_the_manifests_of_this_node_say_is_known_before_anybody_is_asked(tmp_path: Path) -> None:
    manifest, _ = image([LARGE])
    with FaultyPeer([LARGE], faults.always(faults.wrong_length(1))) as liar, FaultyPeer([LARGE], late) as honest:
        async with fetching(tmp_path, [liar.address, honest.address], **SETTINGS) as node:
            node.store.put(manifest)
            node.parts.sizes.here = node.store.expected_size
            assert node.store.media_type(Digest.of(manifest)) is not None
            answer = await node.ask(blob_target(LARGE), "HEAD")
            assert answer.headers["content-length"] == str(len(LARGE))
            assert is_all(await node.ask(blob_target(LARGE)), LARGE)
            assert liar.gets(str(Digest.of(LARGE))) == []


def _peer(node: FetchingNode, peer: FaultyPeer) -> Any:
    return next(each for each in node.router.peers() if (each.host, each.port) == peer.address)
