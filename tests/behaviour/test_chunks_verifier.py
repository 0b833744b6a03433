"""A content's bytes are checked while they arrive: real files, real threads, peers that are made up."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmirror.chunks.checks import Checks
from fastmirror.chunks.chunklist import ALGORITHMS, PIECE, piece_count, piece_span
from fastmirror.chunks.trust import Fault
from fastmirror.oci.digest import Digest
from fastmirror.oci.span import Span
from fastmirror.routing import Peer
from tests.kit.verifying import Case, content, turns_until

A, B, C = (Peer(name, 1) for name in "abc")


@pytest.fixture
async def checks() -> AsyncIterator[Checks]:
    made = Checks(2)
    yield made
    made.close()
    assert made.running == 0


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


async def test_a_third_list_may_come_while_the_digest_is_still_being_computed(checks: Checks) -> None:
    """What was hashed by then is of bytes that are refused meanwhile: it says nothing."""
    case = Case(content(4 * PIECE), checks)
    case.lists(A, B, wrong=(1,))
    for index in range(4):
        case.piece(B, index, wrong=index == 1)
    await turns_until(lambda: case.verifier._trial is not None)
    case.lists(C)
    assert case.refusals == [(Span(PIECE, 2 * PIECE), frozenset([B]))]
    await turns_until(lambda: checks.running == 1)
    case.piece(A, 1)
    assert await case.over() is True
    assert case.convicts == [(B, Fault.OUTVOTED)]
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
