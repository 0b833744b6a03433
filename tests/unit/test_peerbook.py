"""What a node remembers of its peers: breaker, probes, quarantine, order of choice. Virtual time only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmirror.fetch.outcome import VERDICTS, PeerOutcome
from fastmirror.fetch.peerbook import (
    BACKOFF_MOST_SECONDS,
    BACKOFF_SECONDS,
    FAILURES,
    HEDGE_COLD_SECONDS,
    HEDGE_LEAST_SECONDS,
    HEDGE_MOST_SECONDS,
    PROBE_LEAD_SECONDS,
    PROBE_SECONDS,
    QUARANTINE_SECONDS,
    Health,
    PeerBook,
)
from fastmirror.oci.digest import Digest
from fastmirror.routing import Peer

A, B, C = (Peer("198.18.0.1", 5001), Peer("198.18.0.2", 5001), Peer("198.18.0.3", 5001))
DIGEST = Digest.of(b"a layer")
OTHER = Digest.of(b"another layer")


def test_every_outcome_has_a_verdict():
    assert set(VERDICTS) == set(PeerOutcome)


def test_an_unknown_peer_is_live():
    assert PeerBook().live(A, 0.0)


@pytest.mark.parametrize("outcome", [PeerOutcome.UNREACHABLE, PeerOutcome.STALLED])
def test_a_failure_that_costs_time_is_met_once(outcome):
    book = PeerBook()
    book.note(A, outcome, 10.0)
    assert not book.live(A, 10.0)
    assert not book.admits(A, 10.0 + BACKOFF_SECONDS / 2)


@pytest.mark.parametrize("outcome", [PeerOutcome.TRUNCATED, PeerOutcome.GARBLED])
def test_a_peer_that_fails_quickly_is_left_alone_after_some_failures_in_a_row(outcome):
    book = PeerBook()
    for _ in range(FAILURES - 1):
        book.note(A, outcome, 0.0)
    assert book.live(A, 0.0)
    book.note(A, outcome, 0.0)
    assert not book.live(A, 0.0)


def test_content_that_came_through_makes_up_for_failures_and_answers_to_questions_do_not():
    book = PeerBook()
    for _ in range(FAILURES - 1):
        book.note(A, PeerOutcome.TRUNCATED, 0.0)
    book.note(A, PeerOutcome.GOT, 0.0, body=False)
    book.note(A, PeerOutcome.TRUNCATED, 0.0)
    assert not book.live(A, 0.0), "a peer that answers every HEAD and truncates every body must not stay live"
    for _ in range(FAILURES - 1):
        book.note(B, PeerOutcome.TRUNCATED, 0.0)
    book.note(B, PeerOutcome.GOT, 0.0)
    book.note(B, PeerOutcome.TRUNCATED, 0.0)
    assert book.live(B, 0.0)


@pytest.mark.parametrize("outcome", [PeerOutcome.LACKS, PeerOutcome.LEFT])
def test_lacking_content_and_being_left_by_us_is_no_fault(outcome):
    book = PeerBook()
    for _ in range(100):
        book.note(A, outcome, 0.0)
    assert book.live(A, 0.0)


def test_being_left_by_us_says_nothing_about_a_peer_that_failed():
    book = PeerBook()
    book.note(A, PeerOutcome.UNREACHABLE, 0.0)
    book.note(A, PeerOutcome.LEFT, 0.1)
    assert not book.live(A, 0.1)


def test_a_busy_peer_gets_a_pause_and_no_penalty():
    book = PeerBook()
    book.note(A, PeerOutcome.BUSY, 0.0)
    assert not book.live(A, 0.5)
    assert book.live(A, 1.0)


def test_one_request_at_a_time_finds_out_whether_a_peer_is_back():
    book = PeerBook()
    book.note(A, PeerOutcome.UNREACHABLE, 0.0)
    assert book.admits(A, BACKOFF_SECONDS)
    assert not book.admits(A, BACKOFF_SECONDS), "the first one has not come back yet"
    assert not book.live(A, BACKOFF_SECONDS), "nobody else waits for it"
    book.note(A, PeerOutcome.LACKS, BACKOFF_SECONDS + 0.1)
    assert book.live(A, BACKOFF_SECONDS + 0.1)


def test_a_probe_in_the_background_comes_before_a_request_that_somebody_waits_for():
    book = PeerBook()
    book.note(A, PeerOutcome.UNREACHABLE, 0.0)
    assert book.due(BACKOFF_SECONDS - PROBE_LEAD_SECONDS - 0.01) == []
    assert book.due(BACKOFF_SECONDS - PROBE_LEAD_SECONDS) == [A]
    assert book.due(BACKOFF_SECONDS - PROBE_LEAD_SECONDS) == [], "each probe is given out once"
    assert not book.admits(A, BACKOFF_SECONDS), "a probe is under way"


def test_the_word_of_one_who_was_wrong_is_not_taken_until_something_of_it_was_verified():
    book = PeerBook()
    assert book.believed(A)
    book.suspect(A, DIGEST, 0.0)
    assert not book.believed(A)
    book.proved(A)
    assert book.believed(A)
    book.note(A, PeerOutcome.CORRUPT, 1.0)
    assert not book.believed(A)


def test_one_that_was_only_late_is_back_as_soon_as_it_answers():
    book = PeerBook()
    told: list[str] = []
    book.opened = lambda: told.append("opened")
    book.note(A, PeerOutcome.STALLED, 0.2, body=False)
    assert told == ["opened"]
    assert book.due(0.2) == [A], "it is asked at once whether it is there"
    assert book.due(0.2) == []
    book.note(A, PeerOutcome.GOT, 0.25, body=False)
    assert book.live(A, 0.25)


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_first_probe_that_fails_makes_the_backoff_no_longer(seconds: float):
    book = PeerBook()
    book.note(A, PeerOutcome.STALLED, 0.0, body=False)
    assert book.due(0.0) == [A]
    book.note(A, PeerOutcome.STALLED, seconds, body=False)
    assert book.would_admit(A, BACKOFF_SECONDS)
    assert book.due(max(seconds, BACKOFF_SECONDS - PROBE_LEAD_SECONDS)) == [A]


def test_one_that_stalled_in_a_body_is_not_back_because_it_answers_a_probe_at_once():
    book = PeerBook()
    book.note(A, PeerOutcome.STALLED, 0.0)
    assert book.due(0.0) == []
    assert book.due(BACKOFF_SECONDS - PROBE_LEAD_SECONDS) == [A]


def test_the_backoff_doubles_with_each_failed_probe_up_to_its_bound():
    book = PeerBook()
    now, gaps = 0.0, []
    book.note(A, PeerOutcome.UNREACHABLE, now)
    for _ in range(8):
        began = now
        while not book.admits(A, now):
            now += 0.125
        gaps.append(now - began)
        book.note(A, PeerOutcome.UNREACHABLE, now)
    assert gaps == [1, 2, 4, 8, 16, 30, 30, 30]


def test_failures_of_one_moment_count_once():
    book = PeerBook()
    for _ in range(20):
        book.note(A, PeerOutcome.STALLED, 0.0)
    assert book.admits(A, BACKOFF_SECONDS)


def test_a_long_time_without_failure_makes_the_backoff_short_again():
    book = PeerBook()
    now = 0.0
    for _ in range(6):
        book.note(A, PeerOutcome.UNREACHABLE, now)
        now += BACKOFF_MOST_SECONDS
        assert book.admits(A, now)
    book.note(A, PeerOutcome.LACKS, now)
    now += 1000
    book.note(A, PeerOutcome.UNREACHABLE, now)
    assert book.admits(A, now + BACKOFF_SECONDS)


def test_the_only_contributor_of_wrong_bytes_is_quarantined():
    book = PeerBook()
    assert book.blame([A], DIGEST, 0.0) == [A]
    for now in (0.0, QUARANTINE_SECONDS - 1):
        assert not book.live(A, now)
        assert not book.admits(A, now)
        assert not book.trusted(A, OTHER, now)
    assert book.trusted(A, DIGEST, QUARANTINE_SECONDS)
    assert book.outcomes[PeerOutcome.CORRUPT] == 1


def test_of_several_contributors_none_is_asked_for_that_digest_again_and_none_is_quarantined():
    book = PeerBook()
    assert book.blame([A, B], DIGEST, 0.0) == []
    for peer in (A, B):
        assert not book.trusted(peer, DIGEST, 1.0)
        assert book.trusted(peer, OTHER, 1.0)
        assert book.live(peer, 1.0)


def test_one_who_is_twice_among_contributors_of_wrong_bytes_is_quarantined():
    book = PeerBook()
    book.blame([A, B], DIGEST, 0.0)
    assert book.blame([A, C], OTHER, 1.0) == [A]
    assert not book.live(A, 1.0)
    assert book.live(B, 1.0)
    assert book.live(C, 1.0)


def test_nothing_ends_a_quarantine_early():
    book = PeerBook()
    book.blame([A], DIGEST, 0.0)
    book.note(A, PeerOutcome.GOT, 1.0)
    assert not book.live(A, 1.0)


def test_the_least_loaded_is_chosen_and_equals_are_spread_over_digests():
    book = PeerBook(b"salt")
    firsts = {book.rank([A, B, C], Digest.of(b"%d" % n), 0.0)[0] for n in range(64)}
    assert firsts == {A, B, C}
    for peer in (A, B):
        book.begin(peer)
    assert book.rank([A, B, C], DIGEST, 0.0)[0] == C
    book.end(A)
    book.begin(C)
    assert book.rank([A, B, C], DIGEST, 0.0)[0] == A


def test_nodes_differ_in_whom_they_prefer():
    orders = {tuple(PeerBook(bytes([salt])).rank([A, B, C], DIGEST, 0.0)) for salt in range(64)}
    assert len(orders) == 6


def test_one_who_failed_is_the_last_choice():
    book = PeerBook()
    book.note(A, PeerOutcome.STALLED, 0.0)
    assert book.rank([A, B, C], DIGEST, 0.0)[-1] == A


def test_peers_of_this_zone_are_asked_first_but_not_if_they_failed():
    book = PeerBook(far=lambda peer: peer == A)
    assert {book.rank([A, B, C], Digest.of(b"%d" % n), 0.0)[-1] for n in range(16)} == {A}
    book.begin(B)
    book.begin(C)
    assert book.rank([A, B, C], DIGEST, 0.0)[-1] == A, "nor for being idle"
    book.note(B, PeerOutcome.STALLED, 0.0)
    book.note(C, PeerOutcome.STALLED, 0.0)
    assert book.rank([A, B, C], DIGEST, 0.0)[0] == A


# ---- speed


def test_a_rate_follows_what_bodies_had_and_small_ones_say_nothing():
    book = PeerBook()
    assert book.rate(A) is None
    book.gave(A, 1000, 0.00001)
    assert book.rate(A) is None
    book.gave(A, 10_000_000, 1.0)
    assert book.rate(A) == 10e6
    for _ in range(20):
        book.gave(A, 1_000_000, 1.0)
    assert 1e6 <= (book.rate(A) or 0) < 1.1e6
    book.gave(A, 1_000_000, 0.0)
    assert book.rate(B) is None


def test_the_patience_with_an_answer_is_what_nine_of_ten_keep_to_within_its_bounds():
    book = PeerBook()
    assert book.hedge_seconds() == HEDGE_COLD_SECONDS
    for seconds in [0.02] * 95 + [0.5] * 5:
        book.answered(seconds)
    assert book.hedge_seconds() == 0.02
    for _ in range(256):
        book.answered(0.0002)
    assert book.hedge_seconds() == HEDGE_LEAST_SECONDS
    for _ in range(256):
        book.answered(3.0)
    assert book.hedge_seconds() == HEDGE_MOST_SECONDS


def test_health_counts_each_peer_once():
    book = PeerBook()
    book.note(A, PeerOutcome.UNREACHABLE, 0.0)
    book.blame([B], DIGEST, 0.0)
    assert book.health([A, B, C], 0.5) == Health(live=1, backoff=1, quarantined=1)


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B, C]), st.sampled_from(list(PeerOutcome)), st.booleans(), st.floats(0, 40))
    ),
    st.floats(0, 40),
)
def test_whatever_happens_a_peer_is_asked_again_in_bounded_time_and_never_in_quarantine(events, pause):
    book = PeerBook()
    now = 1.0
    quarantined: dict[Peer, float] = {}
    for peer, outcome, body, wait in events:
        now += wait
        book.note(peer, outcome, now, body=body)
        if outcome is PeerOutcome.CORRUPT:
            quarantined[peer] = now + QUARANTINE_SECONDS
        for each in (A, B, C):
            in_quarantine = now < quarantined.get(each, 0)
            assert not (in_quarantine and (book.live(each, now) or book.admits(each, now)))
            if book.live(each, now):
                assert book.admits(each, now)
        assert sorted(book.rank([A, B, C], DIGEST, now)) == [A, B, C]
        assert sum(book.health([A, B, C], now)) == 3
    now += pause
    for peer in (A, B, C):
        patience = max(now + BACKOFF_MOST_SECONDS + PROBE_SECONDS, quarantined.get(peer, 0))
        assert book.admits(peer, patience), "left alone for longer than the longest backoff"
        if not book.live(peer, patience):
            assert not book.admits(peer, patience), "and only one request at a time"
