"""What fetching decides without I/O: sources, handover, sizes, targets. Virtual time only."""

from __future__ import annotations

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
A, B, C, _ = PEERS


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


def test_a_holder_with_another_size_than_the_manifest_says_is_none():
    sources = Sources(DIGEST, PeerBook())
    assert not sources.add(Holder(A, 10), 11)
    assert sources.next(0.0) is None
    assert sources.add(Holder(B, None), 11)
    assert sources.add(Holder(C, 11), 11)
    assert {sources.next(0.0)} <= {B, C}


def test_a_peer_that_brought_bytes_is_tried_again_after_the_others_and_not_for_ever():
    sources = Sources(DIGEST, PeerBook())
    for peer in (A, B):
        sources.add(Holder(peer), None)
    order = []
    while (chosen := sources.next(0.0)) is not None:
        order.append(chosen)
        sources.ended(chosen, PeerOutcome.TRUNCATED, 100)
    assert len(order) <= 2 * TRIES
    assert set(order[:2]) == {A, B}
    assert set(sources.contributors) == {A, B}


def test_a_peer_that_brought_nothing_is_not_tried_again_for_this_content():
    sources = Sources(DIGEST, PeerBook())
    sources.add(Holder(A), None)
    sources.ended(A, PeerOutcome.LACKS, 0)
    sources.add(Holder(A), None)
    assert sources.next(0.0) is None


def test_one_whose_bytes_were_wrong_is_not_asked_for_this_content_again():
    book = PeerBook()
    sources = Sources(DIGEST, book)
    sources.add(Holder(A), None)
    sources.ended(A, PeerOutcome.GOT, 100)
    book.blame(sources.contributors, DIGEST, 0.0)
    sources.restart()
    assert not sources.contributors
    assert sources.next(1.0) is None


@given(st.data())
def test_whatever_peers_do_choosing_a_source_ends(data):
    book = PeerBook()
    sources = Sources(DIGEST, book)
    for peer in data.draw(st.lists(st.sampled_from(PEERS))):
        sources.add(Holder(peer), None)
    now, tries, spent = 0.0, 0, set()
    while (peer := sources.next(now)) is not None:
        tries += 1
        assert tries <= TRIES * len(PEERS)
        assert peer not in spent
        outcome = data.draw(st.sampled_from([o for o in PeerOutcome if o is not PeerOutcome.GOT]))
        received = data.draw(st.integers(0, 2))
        if not received or outcome is PeerOutcome.CORRUPT:
            spent.add(peer)
        book.note(peer, outcome, now)
        sources.ended(peer, outcome, received)
        now += data.draw(st.floats(0, 5))
