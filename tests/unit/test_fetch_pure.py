"""What fetching decides without I/O: sources, handover, sizes, targets. Virtual time only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmirror.fetch.handover import BEGUN_SECONDS, CUT_SECONDS, START_SECONDS, Handover
from fastmirror.fetch.lru import Lru
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.peerbook import PeerBook
from fastmirror.fetch.sizes import Sizes
from fastmirror.fetch.sources import TRIES, Sources
from fastmirror.fetch.want import Want, lookup_target
from fastmirror.oci.descriptor import OCI_MANIFEST, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import Manifest
from fastmirror.oci.pull import parse_pull
from fastmirror.oci.reference import Reference
from fastmirror.routing import Holder, Peer

DIGEST = Digest.of(b"a layer")
OTHER = Digest.of(b"another layer")
PEERS = [Peer(f"198.18.0.{n}", 5001) for n in range(4)]
A, B, C, D = PEERS


# ---- handover


def test_only_a_reopen_at_the_exact_offset_of_a_cut_is_sent_on():
    handover = Handover()
    handover.cut(DIGEST, 1000, 0.0)
    assert handover.was_cut(DIGEST, 1000, 0.0)
    assert handover.was_cut(DIGEST, 1000, CUT_SECONDS - 1)
    assert not handover.was_cut(DIGEST, 1000, CUT_SECONDS)
    assert not handover.was_cut(OTHER, 1000, 0.0)


@given(st.integers(1, 1 << 40), st.integers(0, 1 << 40))
def test_a_cut_says_nothing_about_other_offsets(cut, asked):
    handover = Handover()
    handover.cut(DIGEST, cut, 0.0)
    assert handover.was_cut(DIGEST, asked, 1.0) == (asked == cut)


def test_a_cut_before_the_first_byte_soon_says_nothing_about_a_new_pull():
    handover = Handover()
    handover.cut(DIGEST, 0, 0.0)
    assert handover.was_cut(DIGEST, 0, 0.1)
    assert not handover.was_cut(DIGEST, 0, START_SECONDS)


def test_begun_content_is_known_with_its_size_for_a_while():
    handover = Handover()
    assert handover.begun(DIGEST, 0.0) is None
    handover.begin(DIGEST, 12345, 0.0)
    assert handover.begun(DIGEST, BEGUN_SECONDS - 1) == 12345
    assert handover.begun(DIGEST, BEGUN_SECONDS) is None
    handover.begin(DIGEST, 12345, BEGUN_SECONDS)
    assert handover.begun(DIGEST, BEGUN_SECONDS + 1) == 12345


# ---- sizes


def _manifest(*children: Descriptor) -> Manifest:
    return Manifest(OCI_MANIFEST, children, ())


def test_a_manifest_tells_the_sizes_of_its_children():
    sizes = Sizes()
    sizes.learn(_manifest(Descriptor("a/b", DIGEST, 7), Descriptor("a/b", OTHER, 0)))
    assert sizes.get(DIGEST) == 7
    assert sizes.get(OTHER) == 0
    assert sizes.get(Digest.of(b"unknown")) is None


def test_manifests_that_differ_leave_no_size_known_and_the_same_one_again_changes_nothing():
    sizes = Sizes()
    sizes.learn(_manifest(Descriptor("a/b", DIGEST, 7)))
    sizes.learn(_manifest(Descriptor("a/b", DIGEST, 7)))
    assert sizes.get(DIGEST) == 7
    sizes.learn(_manifest(Descriptor("a/b", DIGEST, 8)))
    assert sizes.get(DIGEST) is None
    sizes.learn(_manifest(Descriptor("a/b", DIGEST, 7)))
    assert sizes.get(DIGEST) is None, "a manifest that lies must not win by being seen in between"


def test_a_bounded_memory_forgets_what_was_not_used_for_longest():
    memory: Lru[str, int] = Lru(2)
    memory.put("a", 1)
    memory.put("b", 2)
    assert memory.get("a") == 1
    memory.put("c", 3)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (1, None, 3)
    memory.drop("a")
    assert len(memory) == 1
    assert "a" not in memory


# ---- targets


def test_targets_are_what_a_peer_parses_back():
    want = Want(DIGEST, "blobs", "team/app", "reg.example:5000")
    assert want.target == f"/v2/team/app/blobs/{DIGEST}?ns=reg.example%3A5000"
    pull = parse_pull(want.target)
    assert (pull.kind, pull.repository, pull.registry, pull.digest) == ("blobs", "team/app", "reg.example:5000", DIGEST)
    assert parse_pull(lookup_target(DIGEST)).digest == DIGEST
    reference = Reference("[::1]:5000", "team/app", "v1")
    assert parse_pull(lookup_target(reference)).reference == reference


# ---- sources


def sources(*holders: Holder, book: PeerBook | None = None, size: int | None = None) -> Sources:
    made = Sources(DIGEST, book or PeerBook(), size)
    for holder in holders:
        made.add(holder)
    return made


def test_a_holder_with_another_size_than_the_manifest_says_is_none():
    made = sources(size=11)
    assert not made.add(Holder(A, 10))
    assert made.ready(11, 0.0) == []
    assert made.add(Holder(B, None))
    assert made.add(Holder(C, 11))
    assert set(made.ready(11, 0.0)) == {B, C}


def test_without_a_manifest_the_size_is_what_most_of_those_say_that_may_be_asked():
    book = PeerBook()
    made = sources(Holder(A, 10), Holder(B, 11), Holder(C, 11), book=book)
    assert made.likely_size(0.0) == 11
    assert set(made.ready(11, 0.0)) == {B, C}
    made.ended(B, PeerOutcome.LACKS, 0)
    book.blame([C], DIGEST, 0.0)
    assert made.likely_size(0.0) == 10
    assert made.ready(10, 0.0) == [A]
    assert sources(Holder(A)).likely_size(0.0) is None


def test_those_that_are_asked_already_are_not_ready():
    made = sources(Holder(A), Holder(B))
    assert made.ready(1, 0.0, [A]) == [B]


def test_a_peer_that_failed_in_the_middle_goes_on_at_once_and_not_for_ever():
    made = sources(Holder(A))
    assert made.ended(A, PeerOutcome.TRUNCATED, 100)
    assert made.ended(A, PeerOutcome.GOT, 100)
    assert [made.ended(A, PeerOutcome.TRUNCATED, 100) for _ in range(TRIES)] == [True] * (TRIES - 1) + [False]
    assert made.ready(1, 0.0) == []


@pytest.mark.parametrize("outcome", [PeerOutcome.LACKS, PeerOutcome.GARBLED, PeerOutcome.TRUNCATED])
def test_a_peer_that_brought_nothing_is_not_tried_again_for_this_content(outcome: PeerOutcome):
    made = sources(Holder(A))
    assert not made.ended(A, outcome, 0)
    made.add(Holder(A))
    assert made.ready(1, 0.0) == []


@pytest.mark.parametrize("outcome", [PeerOutcome.UNREACHABLE, PeerOutcome.STALLED, PeerOutcome.BUSY])
def test_a_peer_that_could_not_give_just_now_may_come_back(outcome: PeerOutcome):
    book = PeerBook()
    made = sources(Holder(A), Holder(B), book=book)
    book.note(A, outcome, 0.0)
    assert not made.ended(A, outcome, 0)
    assert made.ready(1, 0.0, [B]) == []
    book.note(A, PeerOutcome.GOT, 5.0, body=False)
    assert made.ready(1, 5.0, [B]) == [A]


def test_being_left_by_us_costs_a_peer_nothing():
    made = sources(Holder(A))
    assert all(made.ended(A, PeerOutcome.LEFT, 0) for _ in range(10))
    assert made.ready(1, 0.0) == [A]


def test_one_that_was_left_alone_is_asked_if_nobody_else_is_there():
    book = PeerBook()
    book.note(A, PeerOutcome.UNREACHABLE, 0.0)
    made = sources(Holder(A), Holder(B), book=book)
    assert made.ready(1, 2.0) == [B]
    book.note(B, PeerOutcome.UNREACHABLE, 2.0)
    assert made.ready(1, 2.0, [C]) == []
    assert made.ready(1, 2.0) == made.ready(1, 2.0) == [A], "looking changes nothing"
    assert book.admits(A, 2.0)
    assert made.ready(1, 2.0) == [], "it is being asked"


def test_holders_of_other_zones_are_asked_only_if_there_are_not_enough_in_this_one():
    book = PeerBook(far=lambda peer: peer in (A, B))
    made = sources(Holder(A), Holder(B), Holder(C), book=book)
    assert made.ready(1, 0.0)[0] == C
    assert set(made.ready(1, 0.0)) == {A, B, C}, "one alone would have nobody beside it"
    made.add(Holder(D))
    assert set(made.ready(1, 0.0)) == {C, D}
    assert made.ready(1, 0.0, [C, D]) == []
    book.note(C, PeerOutcome.UNREACHABLE, 0.0)
    assert set(made.ready(1, 0.0, [D])) == {A, B}


def test_one_whose_bytes_were_wrong_is_not_asked_for_this_content_again():
    book = PeerBook()
    made = sources(Holder(A), book=book)
    made.contributors[A] += 100
    book.blame(made.contributors, DIGEST, 0.0)
    made.restart()
    assert not made.contributors
    assert made.ready(1, 1.0) == []


def test_who_refused_another_ones_size_is_asked_again_when_that_was_wrong():
    made = sources(Holder(A, 10), Holder(B))
    made.ended(B, PeerOutcome.GARBLED, 0)
    made.ended(A, PeerOutcome.GARBLED, 0)
    made.restart()
    assert made.ready(None, 0.0) == [B]


@given(st.data())
def test_whatever_peers_do_choosing_a_source_ends(data):
    book = PeerBook()
    made = sources(*(Holder(peer) for peer in data.draw(st.lists(st.sampled_from(PEERS)))), book=book)
    now, tries = 0.0, 0
    while peers := made.ready(1, now):
        tries += 1
        assert tries <= TRIES * len(PEERS)
        outcome = data.draw(st.sampled_from([o for o in PeerOutcome if o not in (PeerOutcome.GOT, PeerOutcome.LEFT)]))
        book.note(peers[0], outcome, now)
        made.ended(peers[0], outcome, data.draw(st.integers(0, 2)))
        now += data.draw(st.floats(0, 5))
