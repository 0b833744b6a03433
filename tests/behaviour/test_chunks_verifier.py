"""A content's bytes are checked while they arrive: real files, real threads, peers that are made up."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmirror.chunks.checks import Checks
from fastmirror.chunks.chunklist import ALGORITHMS, PIECE, piece_count, piece_span
from fastmirror.chunks.trust import Fault
from fastmirror.chunks.verifier import Subject, Verifier
from fastmirror.oci.digest import Digest
from fastmirror.oci.span import Span
from fastmirror.routing import Peer

A, B, C = (Peer(name, 1) for name in "abc")
BLAKE3 = ALGORITHMS["blake3"]


async def turns_until(condition: Callable[[], bool]) -> None:
    """Let the loop go round until something holds that nobody tells of."""
    deadline = time.monotonic() + 20
    for _ in iter(condition, True):
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


class Shelf:
    """A file that is closed by its last release."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("spool")
        self.holds = 1

    def fileno(self) -> int:
        assert self.holds > 0
        return self.fd

    def hold(self) -> None:
        self.holds += 1

    def release(self) -> None:
        self.holds -= 1
        if not self.holds:
            os.close(self.fd)


class Case:
    """A content on its way, and what the watcher hears of it. ``close`` it."""

    def __init__(self, content: bytes, checks: Checks, algorithm: Any = BLAKE3, digest: Digest | None = None) -> None:
        self.content = content
        self.shelf = Shelf()
        self.frontiers: list[int] = []
        self.refusals: list[tuple[Span, frozenset[Peer]]] = []
        self.convicts: list[tuple[Peer, Fault]] = []
        self.end: asyncio.Future[bool | int] = asyncio.get_running_loop().create_future()
        self._heard = asyncio.Event()
        self.missing = set(range(piece_count(len(content))))
        self.verifier = Verifier(
            Subject(digest or Digest.of(content), len(content), algorithm), self.shelf, checks, self
        )

    async def close(self) -> None:
        self.verifier.close()
        await turns_until(lambda: self.shelf.holds == 1)
        self.shelf.release()

    # what it hears

    def verified(self, frontier: int) -> None:
        assert not self.end.done()
        assert os.pread(self.shelf.fd, frontier, 0) == self.content[:frontier], "wrong bytes would be passed on"
        assert not self.frontiers or frontier > self.frontiers[-1]
        self.frontiers.append(frontier)
        self._heard.set()

    def refused(self, span: Span, peers: frozenset[Peer]) -> None:
        assert not self.frontiers or span.start >= self.frontiers[-1], "bytes that were shown cannot come again"
        self.refusals.append((span, peers))
        self.missing.add(span.start // PIECE)
        self._heard.set()

    def convicted(self, peer: Peer, fault: Fault) -> None:
        self.convicts.append((peer, fault))
        self._heard.set()

    def finished(self, right: bool) -> None:
        self.end.set_result(right)
        self._heard.set()

    def failed(self, number: int) -> None:
        self.end.set_result(number)
        self._heard.set()

    # what happens

    def send(self, peer: Peer, start: int, stop: int, wrong: int | None = None) -> None:
        """Bytes of ``peer`` are written, one of them a wrong one, and told."""
        data = bytearray(self.content[start:stop])
        if wrong is not None:
            data[wrong - start] ^= 1
        os.pwrite(self.shelf.fd, data, start)
        self.verifier.arrived(peer, Span(start, stop))

    def piece(self, peer: Peer, index: int, wrong: bool = False) -> None:
        span = piece_span(index, len(self.content))
        self.missing.discard(index)
        self.send(peer, span.start, span.stop, span.start if wrong else None)

    def lists(self, *peers: Peer, wrong: tuple[int, ...] = ()) -> None:
        """Whole lists, which the last of the peers has wrong at some pieces."""
        for peer in peers:
            self.verifier.expect(peer)
        for peer in peers:
            bad = wrong if peer == peers[-1] else ()
            self.verifier.told(
                peer, [self.hash(index, index in bad) for index in range(piece_count(len(self.content)))]
            )
            self.verifier.ended(peer)
        self.verifier.sought()

    def hash(self, index: int, wrong: bool = False) -> bytes:
        span = piece_span(index, len(self.content))
        data = bytearray(self.content[span.start : span.stop])
        if wrong:
            data[0] ^= 1
        return blake3(data).digest()

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._heard.clear()
                await self._heard.wait()

    async def over(self) -> bool | int:
        async with asyncio.timeout(20):
            return await self.end


@pytest.fixture
async def checks() -> AsyncIterator[Checks]:
    made = Checks(2)
    yield made
    made.close()
    assert made.running == 0


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def test_pieces_are_shown_as_soon_as_they_are_checked_and_the_whole_is_right(checks: Checks) -> None:
    case = Case(content(4 * PIECE + 100), checks)
    case.lists(A, B)
    case.piece(A, 1)
    case.piece(B, 0)
    await case.until(lambda: case.frontiers and case.frontiers[-1] == 2 * PIECE)
    case.piece(B, 4)
    case.piece(A, 3)
    case.piece(A, 2)
    assert await case.over() is True
    assert case.frontiers[-1] == len(case.content)
    assert (case.refusals, case.convicts) == ([], [])
    await case.close()


async def test_bytes_come_in_any_order_and_cut_anywhere(checks: Checks) -> None:
    size = 3 * PIECE + 7
    case = Case(content(size), checks)
    case.lists(A, B)
    cuts = [0, 1, 5000, PIECE - 1, PIECE + 1, 2 * PIECE, 2 * PIECE + 9, 3 * PIECE + 3, size]
    spans = list(itertools.pairwise(cuts))
    random.Random(3).shuffle(spans)
    for number, (start, stop) in enumerate(spans):
        case.send((A, B, C)[number % 3], start, stop)
    assert await case.over() is True
    assert case.frontiers[-1] == size
    await case.close()


async def test_nothing_is_shown_before_a_list_has_come(checks: Checks) -> None:
    case = Case(content(2 * PIECE), checks)
    case.verifier.expect(B)
    case.verifier.sought()
    case.piece(A, 0)
    case.piece(A, 1)
    await turns_until(lambda: checks.running == 1)  # only the follow: the pieces are hashed
    assert case.frontiers == []
    case.verifier.told(B, [case.hash(0)])
    assert case.frontiers == [PIECE]
    case.verifier.told(B, [case.hash(1)])
    assert await case.over() is True
    await case.close()


async def test_a_wrong_byte_costs_one_piece_and_convicts_its_sender(checks: Checks) -> None:
    case = Case(content(3 * PIECE), checks)
    case.lists(A, B)
    case.piece(C, 0)
    case.piece(C, 1, wrong=True)
    case.piece(B, 2)
    await case.until(lambda: case.refusals)
    assert case.convicts == [(C, Fault.OUTVOTED)]
    assert case.refusals == [(Span(PIECE, 2 * PIECE), frozenset([C]))]
    case.piece(A, 1)
    assert await case.over() is True
    assert case.frontiers[-1] == 3 * PIECE
    await case.close()


async def test_wrong_bytes_in_a_piece_of_two_peers_are_refused_without_a_culprit(checks: Checks) -> None:
    case = Case(content(PIECE), checks)
    case.lists(A, B)
    case.send(C, 0, 1000, wrong=7)
    case.send(A, 1000, PIECE)
    await case.until(lambda: case.refusals)
    assert (case.refusals, case.convicts) == ([(Span(0, PIECE), frozenset([A, C]))], [])
    case.piece(B, 0)
    assert await case.over() is True
    await case.close()


async def test_two_holders_who_disagree_are_told_apart_by_the_digest(checks: Checks) -> None:
    """B's copy has a wrong byte: its list and its bytes agree with each other."""
    case = Case(content(4 * PIECE), checks)
    case.lists(A, B, wrong=(1,))
    case.piece(A, 0)
    case.piece(B, 1, wrong=True)
    case.piece(B, 2)
    case.piece(A, 3)
    await case.until(lambda: case.refusals)
    assert (case.frontiers[-1], case.convicts) == (PIECE, [])
    assert case.refusals == [(Span(PIECE, 2 * PIECE), frozenset([B]))]
    case.piece(A, 1)
    assert await case.over() is True
    assert case.convicts == [(B, Fault.DISPROVED)]
    assert case.frontiers[-1] == 4 * PIECE
    await case.close()


async def test_a_third_list_settles_at_once_what_two_disagree_about(checks: Checks) -> None:
    case = Case(content(2 * PIECE), checks)
    case.lists(A, B, wrong=(0,))
    case.piece(B, 0, wrong=True)
    await turns_until(lambda: checks.running == 1)
    assert case.verifier.wants_list
    case.lists(C)
    await case.until(lambda: case.refusals)
    assert case.convicts == [(B, Fault.OUTVOTED)]
    case.piece(A, 0)
    case.piece(A, 1)
    assert await case.over() is True
    await case.close()


async def test_a_liar_alone_is_found_by_the_digest(checks: Checks) -> None:
    lie = content(2 * PIECE)
    case = Case(lie, checks, digest=Digest.of(b"something else"))
    case.lists(A)
    case.piece(A, 0)
    case.piece(A, 1)
    assert await case.over() is False
    await case.close()


@pytest.mark.parametrize("size", [0, 1, 5 * PIECE + 1])
async def test_without_lists_bytes_are_shown_as_they_arrive(checks: Checks, size: int) -> None:
    case = Case(content(size), checks, algorithm=None)
    cuts = sorted({0, size, *(random.Random(size).randint(0, size) for _ in range(20))})
    spans = list(itertools.pairwise(cuts))
    random.Random(4).shuffle(spans)
    for start, stop in spans:
        case.send(A, start, stop)
    assert size == 0 or case.frontiers[-1] == size
    assert await case.over() is True
    await case.close()


async def test_without_lists_wrong_bytes_are_found_at_the_end(checks: Checks) -> None:
    case = Case(content(PIECE), checks, algorithm=None, digest=Digest.of(b"other"))
    assert not case.verifier.wants_list
    case.lists(A, B)  # means nothing
    case.piece(A, 0)
    assert await case.over() is False
    await case.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=list(ALGORITHMS))
async def test_every_algorithm_and_both_digests_work(checks: Checks, algorithm: Any) -> None:
    data = content(PIECE + 10)
    case = Case(data, checks, algorithm, Digest.of(data, "sha512"))
    case.verifier.sought()
    case.piece(A, 0)
    case.piece(A, 1)
    assert await case.over() is True
    await case.close()


async def test_a_file_that_cannot_be_read_is_our_own_fault(checks: Checks) -> None:
    case = Case(content(2 * PIECE), checks)
    case.lists(A, B)
    os.ftruncate(case.shelf.fd, 0)
    case.verifier.arrived(A, Span(0, PIECE))
    assert await case.over() == errno.ENODATA
    assert case.convicts == []
    await case.close()


async def test_a_verifier_that_was_closed_says_nothing_and_lets_go_of_the_file(checks: Checks) -> None:
    case = Case(content(8 * PIECE), checks)
    case.lists(A, B)
    for index in range(8):
        case.piece(A, index)
    case.verifier.close()
    case.verifier.close()
    case.verifier.told(C, [b"late"])
    case.verifier.expect(C)
    case.verifier.ended(C)
    case.verifier.sought()
    case.verifier.arrived(C, Span(0, 1))
    await case.close()
    assert (case.frontiers, case.end.done(), checks.running) == ([], False, 0)


async def test_the_end_of_all_checks_is_told_as_a_failure(checks: Checks) -> None:
    cases = [Case(content(PIECE + number), checks) for number in range(20)]
    for case in cases:
        case.lists(A, B)
        case.piece(A, 0)  # some of them will just have been hashed
    checks.close()
    for case in cases:
        assert await case.over() == errno.ECANCELED
        await case.close()


async def test_the_watcher_may_report_from_within(checks: Checks) -> None:
    """A convicted peer's list is ended, and its piece comes from another, before the call has returned."""
    case = Case(content(2 * PIECE), checks)
    heard = case.convicted

    def convicted(peer: Peer, fault: Fault) -> None:
        heard(peer, fault)
        case.verifier.ended(peer)

    case.convicted = convicted  # type: ignore[method-assign]
    case.lists(A, B, C, wrong=(0, 1))
    case.piece(A, 0)
    case.piece(C, 1, wrong=True)
    await case.until(lambda: case.refusals)
    case.piece(B, 1)
    assert await case.over() is True
    assert case.convicts == [(C, Fault.OUTVOTED)]
    await case.close()


@settings(max_examples=25)
@given(data=st.data())
def test_an_honest_list_and_source_win_against_any_liar(data: st.DataObject) -> None:
    """Whatever two liars send and list, nothing wrong is shown, and the content comes out right."""
    with asyncio.Runner() as runner:
        runner.run(_against_liars(data))


async def _against_liars(data: st.DataObject) -> None:
    checks = Checks(2)
    case = Case(content(data.draw(st.integers(1, 4 * PIECE))), checks)
    try:
        await _let_lie(data, case)
        assert case.end.result() is True
        assert case.frontiers[-1] == len(case.content)
        assert A not in dict(case.convicts)
    finally:  # hypothesis may end an example in the middle
        await case.close()
        checks.close()


async def _let_lie(data: st.DataObject, case: Case) -> None:
    liars = [B, C]
    size, count = len(case.content), piece_count(len(case.content))
    for peer in data.draw(st.permutations([A, *liars])):
        case.verifier.expect(peer)
        wrong = data.draw(st.sets(st.integers(0, count - 1))) if peer in liars else set()
        mark = peer.host.encode()
        case.verifier.told(peer, [mark * 32 if index in wrong else case.hash(index) for index in range(count)])
        case.verifier.ended(peer)
    case.verifier.sought()
    rounds = 0
    while not case.end.done():
        for index in sorted(case.missing):
            rounds += 1
            case.missing.discard(index)
            usable = [peer for peer in (A, B, C) if peer not in dict(case.convicts)]
            peer = data.draw(st.sampled_from(usable)) if rounds < 20 else A
            span = piece_span(index, size)
            bad = peer in liars and data.draw(st.booleans())
            at = span.start + (0 if peer == B else len(span) - 1)
            case.send(peer, span.start, span.stop, at if bad else None)
        await case.until(lambda: case.end.done() or case.missing)
