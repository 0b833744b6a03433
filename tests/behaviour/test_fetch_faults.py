"""What peers do wrong, and what the reader sees of it: nothing, while one good peer is there."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.http import body as body_module
from fastmirror.http.response import MAX_HEAD
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import Manifest
from fastmirror.routing import Peer
from tests.kit import faults
from tests.kit.content import blob
from tests.kit.faults import Fault, Plan, Seen
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.fetching import FetchingNode, fetching, until
from tests.kit.invariants import assert_legal, assert_prefix
from tests.kit.layout import digest_of
from tests.kit.waiting import NOISE
from tests.kit.wire import Answer, End

WHOLE = 64 * 1024  # blobs up to here are verified before they are shown
HOLDBACK = 32 * 1024
LAYER = blob(1_000_000, 1)
SMALL = blob(50_000, 2)
CUT = 400_000
STALL = 0.3
SETTINGS: dict[str, Any] = {
    "verify": "tail",  # the contents here are smaller than a piece of a chunk list
    "whole_bytes": WHOLE,
    "holdback_bytes": HOLDBACK,
    "stall_timeout": STALL,
    "lookup_timeout": 1.0,
}


def target(content: bytes) -> str:
    return f"/v2/team/app/blobs/{digest_of(content)}"


MANIFEST = Manifest("", tuple(Descriptor("", Digest.of(content), len(content)) for content in (LAYER, SMALL)), ())


class Pair:
    """A faulty peer that is asked first, a good one, and a node between them and the test."""

    def __init__(self, node: FetchingNode, bad: FaultyPeer, good: FaultyPeer) -> None:
        self.node = node
        self.bad = bad
        self.good = good

    def outcomes(self, outcome: PeerOutcome) -> int:
        return self.node.parts.book.outcomes[outcome]

    def live(self, peer: FaultyPeer) -> bool:
        return self.node.parts.book.live(Peer(*peer.address), asyncio.get_running_loop().time())


async def with_pair(spool: Path, plan: Plan, check: Callable[[Pair], object], **more: object) -> None:
    with FaultyPeer([LAYER, SMALL], plan) as bad, FaultyPeer([LAYER, SMALL]) as good:
        async with fetching(spool, [bad.address, good.address], in_order=True, **{**SETTINGS, **more}) as node:
            node.parts.sizes.learn(MANIFEST)
            await check(Pair(node, bad, good))


def assert_whole(answer: Answer, content: bytes, seconds: float) -> None:
    assert answer.status == 200, answer.body
    assert_legal(answer)
    assert_prefix(answer, content)
    assert answer.complete, f"{len(answer.body)} of {len(content)} bytes, {answer.end}"
    assert answer.seconds < seconds * NOISE, f"took {answer.seconds:.2f} s"


BEFORE_A_BYTE = {
    "silent": (faults.silent(), PeerOutcome.STALLED),
    "half a status line": (faults.half_status(), PeerOutcome.STALLED),
    "404 after it said that it has it": (faults.status(404), PeerOutcome.LACKS),
    "500": (faults.status(500), PeerOutcome.GARBLED),
    "503": (faults.status(503), PeerOutcome.BUSY),
    "429": (faults.status(429), PeerOutcome.BUSY),
    "a redirect": (faults.redirect("http://127.0.0.1:9/x"), PeerOutcome.GARBLED),
    "a challenge": (faults.unauthorized("http://127.0.0.1:9/token"), PeerOutcome.LACKS),
    "a long field": (faults.header_bomb(MAX_HEAD * 64), PeerOutcome.GARBLED),
    "many fields": (faults.many_headers(10_000), PeerOutcome.GARBLED),
    "no HTTP": (faults.garbage(), PeerOutcome.GARBLED),
    "gzip": (faults.encoded(), PeerOutcome.GARBLED),
    "chunks": (faults.chunked(), PeerOutcome.GARBLED),
    "a range that was not asked": (faults.unasked_range(), PeerOutcome.GARBLED),
    "a longer body": (faults.wrong_length(1000), PeerOutcome.DIFFERS),
    "a shorter body": (faults.wrong_length(-1000), PeerOutcome.DIFFERS),
    "a longer promise": (faults.promised_length(1000), PeerOutcome.DIFFERS),
}


@pytest.mark.parametrize("content", [SMALL, LAYER], ids=["small", "large"])
@pytest.mark.parametrize("name", BEFORE_A_BYTE)
async def test_a_bad_answer_costs_its_deadline_and_no_byte_of_it_is_used(
    tmp_path: Path, name: str, content: bytes
) -> None:
    fault, outcome = BEFORE_A_BYTE[name]

    async def check(pair: Pair) -> None:
        answer = await pair.node.ask(target(content))
        assert_whole(answer, content, 1.0)
        assert len(pair.bad.gets()) == 1
        assert [seen.start for seen in pair.good.gets()] == [None], "all of it came from the good one"
        await until(lambda: pair.outcomes(outcome) == 1, "what the bad one did is known")

    await with_pair(tmp_path, faults.on_get(fault), check)


MID_BODY = {
    "truncates": (faults.truncate(CUT), PeerOutcome.TRUNCATED),
    "resets": (faults.reset(CUT), PeerOutcome.TRUNCATED),
    "stalls": (faults.stall(CUT), PeerOutcome.STALLED),
}


@pytest.mark.parametrize("name", MID_BODY)
async def test_the_next_peer_goes_on_at_the_same_byte_in_the_same_answer(tmp_path: Path, name: str) -> None:
    fault, outcome = MID_BODY[name]

    async def check(pair: Pair) -> None:
        answer = await pair.node.ask(target(LAYER))
        assert_whole(answer, LAYER, STALL + 0.5)
        assert pair.outcomes(outcome) == 1
        assert [seen.start for seen in pair.good.gets()] == [CUT]

    await with_pair(tmp_path, faults.on_get(fault), check)


async def test_a_small_blob_is_continued_before_its_head_goes_out(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        assert_whole(await pair.node.ask(target(SMALL)), SMALL, 1.0)
        assert [seen.start for seen in pair.good.gets()] == [1000]

    await with_pair(tmp_path, faults.on_get(faults.truncate(1000)), check)


CONTINUING = {
    "200 to a Range": faults.no_range(),
    "another range": faults.wrong_range(1),
    "gzip": faults.encoded(),
    "404": faults.status(404),
    "a longer body": faults.wrong_length(1000),
}


@pytest.mark.parametrize("name", CONTINUING)
async def test_one_that_does_not_continue_exactly_there_is_passed_over(tmp_path: Path, name: str) -> None:
    first = faults.truncate(CUT)

    def plan(seen: Seen) -> Fault | None:
        return first if seen.method == "GET" and seen.start is None else None

    with FaultyPeer([LAYER], plan) as bad, FaultyPeer([LAYER], faults.on_get(CONTINUING[name])) as worse:
        async with fetching(tmp_path, [bad.address, worse.address], in_order=True, **SETTINGS) as node:
            assert_whole(await node.ask(target(LAYER)), LAYER, 1.0)
            assert [seen.start for seen in worse.gets()] == [CUT]
            assert [seen.start for seen in bad.gets()] == [None, CUT], "the first one had brought bytes: it may go on"


async def test_peers_that_die_one_after_the_other_each_do_their_part(tmp_path: Path) -> None:
    cuts = [100_000, 250_000, 300_000]
    peers = [FaultyPeer([LAYER], faults.on_get(faults.truncate(cut))) for cut in cuts]
    with peers[0], peers[1], peers[2], FaultyPeer([LAYER]) as good:
        async with fetching(tmp_path, [p.address for p in (*peers, good)], in_order=True, **SETTINGS) as node:
            assert_whole(await node.ask(target(LAYER)), LAYER, 2.0)
            starts = [seen.start for peer in (*peers, good) for seen in peer.gets()]
            assert starts == [None, 100_000, 350_000, 650_000], "no byte was fetched twice"


# ---- no source left


@pytest.mark.parametrize("name", MID_BODY)
async def test_with_no_source_left_the_body_ends_by_fin_and_only_the_reopen_there_is_sent_on(
    tmp_path: Path, name: str
) -> None:
    fault, _ = MID_BODY[name]
    with FaultyPeer([LAYER], faults.on_get(fault, faults.status(404))) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            answer = await node.ask(target(LAYER))
            assert answer.status == 200
            assert_prefix(answer, LAYER)
            assert_legal(answer)
            assert answer.end is End.FIN
            assert not answer.complete
            cut = len(answer.body)
            assert cut == CUT
            assert answer.seconds < (STALL + 0.5) * NOISE
            assert (await node.ask(target(LAYER), Range=f"bytes={cut}-")).status == 404
            peer.plan = faults.healthy
            now = asyncio.get_running_loop().time()
            node.parts.book.note(Peer(*peer.address), PeerOutcome.GOT, now)
            for start in (0, cut - 1, cut + 1):
                again = await node.ask(target(LAYER), Range=f"bytes={start}-")
                assert again.status == 206
                assert again.body == LAYER[start:]


async def test_a_piece_of_a_parallel_fetch_gets_no_error_status_when_all_peers_are_gone(tmp_path: Path) -> None:
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], grace=0.01, **SETTINGS) as node:
            assert (await node.ask(target(LAYER), Range="bytes=0-99999")).status == 206
            peer.plan = faults.always(faults.status(404))
            await until(lambda: node.table.get(Digest.of(LAYER), "blobs") is None, "the grace is over")
            piece = await node.ask(target(LAYER), Range="bytes=500000-599999")
            assert (piece.status, piece.body, piece.end) == (206, b"", End.FIN)
            assert piece.headers["content-range"] == f"bytes 500000-599999/{len(LAYER)}"
            assert (await node.ask(target(LAYER), Range="bytes=500000-")).status == 404
            assert (await node.ask(target(LAYER))).status == 404, "from the start nobody is in the middle of anything"


async def test_nothing_sent_means_404_when_all_peers_fail(tmp_path: Path) -> None:
    with FaultyPeer([LAYER], faults.on_get(faults.silent())) as one:
        async with fetching(tmp_path, [one.address], first_byte_timeout=0.2, **SETTINGS) as node:
            answer = await node.ask(target(LAYER))
            assert answer.status == 404
            assert answer.seconds < 1.0 * NOISE


# ---- wrong bytes


@pytest.mark.parametrize("at", [0, 25_000, -1], ids=["first", "middle", "last"])
async def test_a_wrong_byte_in_a_small_blob_is_never_seen_and_its_sender_is_quarantined(
    tmp_path: Path, at: int
) -> None:
    async def check(pair: Pair) -> None:
        assert_whole(await pair.node.ask(target(SMALL)), SMALL, 1.0)
        assert pair.outcomes(PeerOutcome.CORRUPT) == 1
        assert not pair.live(pair.bad)
        assert pair.live(pair.good)
        asked = len(pair.bad.requests)
        assert_whole(await pair.node.ask(target(LAYER)), LAYER, 1.0)
        assert len(pair.bad.requests) == asked, "one in quarantine is asked for nothing"

    await with_pair(tmp_path, faults.on_get(faults.corrupt(at)), check)


async def test_a_small_blob_that_only_a_liar_has_is_a_miss(tmp_path: Path) -> None:
    with FaultyPeer([SMALL], faults.on_get(faults.corrupt(7))) as liar:
        async with fetching(tmp_path, [liar.address], **SETTINGS) as node:
            answer = await node.ask(target(SMALL))
            assert answer.status == 404
            assert (await node.ask(target(SMALL))).status == 404
            assert len(liar.gets()) == 1


@pytest.mark.parametrize("at", [500_000, -1], ids=["middle", "last"])
async def test_a_large_blob_with_a_wrong_byte_is_never_complete(tmp_path: Path, at: int) -> None:
    async def check(pair: Pair) -> None:
        answer = await pair.node.ask(target(LAYER))
        assert answer.status == 200
        assert answer.end is End.FIN
        assert len(answer.body) <= len(LAYER) - HOLDBACK
        wrong = at % len(LAYER)
        assert answer.body[:wrong] == LAYER[: min(wrong, len(answer.body))]
        assert pair.outcomes(PeerOutcome.CORRUPT) == 1
        assert not pair.live(pair.bad)
        assert (await pair.node.ask(target(LAYER), Range=f"bytes={len(answer.body)}-")).status == 404
        assert_whole(await pair.node.ask(target(LAYER)), LAYER, 1.0)
        assert len(pair.bad.gets()) == 1, "the next attempt does not meet the liar"

    await with_pair(tmp_path, faults.on_get(faults.corrupt(at)), check)


async def test_of_two_contributors_to_wrong_bytes_neither_is_asked_for_that_blob_again(tmp_path: Path) -> None:
    with FaultyPeer([LAYER, SMALL], faults.on_get(faults.truncate(CUT))) as bad, FaultyPeer([LAYER, SMALL]) as honest:
        bad._content[digest_of(LAYER)] = b"x" + LAYER[1:]
        async with fetching(tmp_path, [bad.address, honest.address], in_order=True, **SETTINGS) as node:
            answer = await node.ask(target(LAYER))
            assert not answer.complete
            assert node.parts.book.outcomes[PeerOutcome.CORRUPT] == 0
            now = asyncio.get_running_loop().time()
            for peer in (bad, honest):
                assert not node.parts.book.trusted(Peer(*peer.address), Digest.of(LAYER), now)
            assert node.parts.book.live(Peer(*honest.address), now)
            assert (await node.ask(target(LAYER))).status == 404
            assert_whole(await node.ask(target(SMALL)), SMALL, 1.0)


# ---- slow


async def test_the_only_peer_is_left_alone_below_the_least_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "RATE_SECONDS", 0.5)
    with FaultyPeer([LAYER], faults.on_get(faults.drip(1000, 0.05))) as slow:
        async with fetching(tmp_path, [slow.address], **SETTINGS) as node:
            answer = await node.ask(target(LAYER))
            assert (answer.status, answer.end) == (200, End.FIN)
            assert not answer.complete
            assert answer.seconds < 2.0 * NOISE
            assert node.parts.book.outcomes[PeerOutcome.STALLED] == 1


async def test_a_peer_that_is_far_slower_than_another_is_relieved_of_what_the_reader_waits_for(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        answer = await pair.node.ask(target(LAYER))
        assert_whole(answer, LAYER, 3.0)
        starts = [seen.start for seen in pair.good.gets()]
        assert len(starts) == 1
        assert starts[0] is not None
        assert 0 < starts[0] < 200_000

    await with_pair(tmp_path, faults.on_get(faults.drip(1000, 0.05)), check)


async def test_a_slow_peer_above_the_least_rate_is_relieved_and_nothing_is_held_against_it(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        assert_whole(await pair.node.ask(target(LAYER)), LAYER, 10.0)
        assert [seen.start for seen in pair.good.gets()] != [None], "what the slow one gave is not asked for again"
        book = pair.node.parts.book
        assert set(book.outcomes) <= {PeerOutcome.GOT, PeerOutcome.LEFT}
        assert all(book.live(peer, time.monotonic()) for peer in pair.node.router.peers())

    await with_pair(tmp_path, faults.on_get(faults.drip(20_000, 0.02)), check, stall_timeout=3.0)


async def test_a_slow_peer_above_the_least_rate_is_kept_where_it_is_alone(tmp_path: Path) -> None:
    with FaultyPeer([LAYER], faults.on_get(faults.drip(20_000, 0.02))) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS | {"stall_timeout": 3.0}) as node:
            began = time.monotonic()
            assert_whole(await node.ask(target(LAYER)), LAYER, 10.0)
            assert time.monotonic() - began > 0.5
            assert len(peer.gets()) == 1


async def test_what_a_peer_sends_after_the_body_is_not_taken_for_the_next_answer(tmp_path: Path) -> None:
    with FaultyPeer([LAYER, SMALL], faults.on_get(faults.extra(500), None)) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            assert_whole(await node.ask(target(LAYER)), LAYER, 1.0)
            assert_whole(await node.ask(target(SMALL)), SMALL, 1.0)
            assert node.parts.book.outcomes[PeerOutcome.GARBLED] == 0


# ---- everything at once

HONEST = [
    None,
    None,
    faults.silent(),
    faults.half_status(),
    faults.status(404),
    faults.status(503),
    faults.garbage(),
    faults.chunked(),
    faults.truncate(0),
    faults.truncate(CUT),
    faults.reset(10_000),
    faults.stall(CUT),
    faults.no_range(),
    faults.wrong_range(5),
    faults.extra(10),
    faults.wrong_length(-5),
]


@pytest.mark.parametrize("lies", [False, True], ids=["honest", "lying"])
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_peers_do_no_wrong_content_is_complete_and_nothing_is_left(
    tmp_path: Path, seed: int, lies: bool
) -> None:
    chance = random.Random(seed)
    choices: list[Fault | None] = [*HONEST, *((faults.corrupt(3), faults.corrupt(700_000)) if lies else ())]

    def plan(seen: Seen) -> Fault | None:
        return chance.choice(choices)

    settings: dict[str, Any] = {**SETTINGS, "stall_timeout": 0.1, "lookup_timeout": 0.1, "first_byte_timeout": 0.1}
    with FaultyPeer([LAYER, SMALL], plan) as one, FaultyPeer([LAYER, SMALL], plan) as two:
        async with fetching(tmp_path, [one.address, two.address], grace=0.01, **settings) as node:
            loop = asyncio.get_running_loop()
            for _ in range(15):
                content = chance.choice([LAYER, SMALL])
                start = chance.choice([0, 0, 1, 30_000, 49_999])
                fields = {"Range": f"bytes={start}-"} if start else {}
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(node.ask(target(content), **fields)) for _ in range(3)]
                for answer in (task.result() for task in tasks):
                    assert answer.end is not End.RST
                    assert_legal(answer)
                    assert answer.status in (200, 206, 404)
                    if answer.complete or not lies or content is SMALL:
                        assert_prefix(answer, content, start)
                for peer in (one, two):  # no rest for them, so that every round has peers
                    node.parts.book.note(Peer(*peer.address), PeerOutcome.GOT, loop.time())
            await until(lambda: node.parts.room.used == 0, "the spools are gone")
