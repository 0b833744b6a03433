"""What a node announces: gathered, bounded, and always signed for what it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastmirror.inventory.card import MAX_KEYS, Card, Version
from fastmirror.inventory.ledger import GATHER_SECONDS, MAX_CHANGE, Ledger
from fastmirror.inventory.messages import Delta, Snapshot
from tests.kit.inventory_sim import sign_as, verify


def ledger(epoch: int = 5) -> Ledger:
    return Ledger(Card(b"me", Version(epoch, 0), 0, "n", "", ("10.0.0.1",), 1, 2, b"", 0, b""), sign_as(b"me"))


def test_the_first_change_is_due_at_once_the_next_within_20_ms():
    mine = ledger()
    mine.change({1}, (), 100.0)
    assert mine.due == 100.0
    mine.flush(100.0)
    mine.change({2}, (), 100.001)
    mine.change({3}, (), 100.002)
    assert mine.due == 100.0 + GATHER_SECONDS
    told = mine.flush(mine.due)
    assert isinstance(told, Delta)
    assert (told.add, told.drop, told.base) == ((2, 3), (), 1)


def test_what_comes_and_goes_between_two_tellings_is_not_told():
    mine = ledger()
    mine.change({1}, (), 0.0)
    mine.change((), {1}, 0.0)
    assert mine.flush(0.0) is None
    assert mine.version.sequence == 0


def test_large_changes_are_told_whole_and_too_many_keys_are_refused():
    mine = ledger()
    mine.change(range(MAX_CHANGE + 1), (), 0.0)
    assert isinstance(mine.flush(0.0), Snapshot)
    mine.change(range(MAX_KEYS + 10), (), 1.0)
    mine.flush(1.0)
    assert len(mine.keys) == MAX_KEYS
    assert mine.refused == 10


def test_it_overrules_what_others_hold_against_it():
    mine = ledger(epoch=5)
    mine.renew(Version(5, 0), 0.0)
    mine.flush(0.0)
    assert mine.version > Version(5, 0)
    mine.renew(Version(9, 7), 1.0)
    mine.flush(1.0)
    assert mine.version > Version(9, 7)
    before = mine.version
    mine.renew(Version(2, 0), 2.0)
    assert mine.flush(2.0) is None
    assert mine.version == before


def test_the_last_card_says_that_nothing_is_here():
    mine = ledger()
    mine.change({1, 2}, (), 0.0)
    mine.flush(0.0)
    card = mine.leave()
    assert card.left
    assert card.key_count == 0
    assert card.genuine(verify)


_CHANGES = st.lists(
    st.tuples(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)), st.booleans(), st.booleans()), max_size=20
)


@given(_CHANGES)
def test_whoever_applies_what_is_told_has_the_same(changes):
    mine, now = ledger(), 0.0
    theirs, version = mine.keys, mine.version
    truth: set[int] = set()
    for add, drop, whole, flush in changes:
        now += 0.01
        if whole:
            mine.replace(add, now)
            truth = set(add)
        else:
            mine.change(add, drop, now)
            truth = (truth - drop) | add
        told = mine.flush(now) if flush else None
        if isinstance(told, Delta):
            assert version == (told.card.version.epoch, told.base)
            theirs, version = theirs.changed(told.add, told.drop), told.card.version
            assert theirs.root == told.card.root
            assert told.card.genuine(verify)
            assert set(theirs) == truth
    mine.flush(now)
    assert set(mine.keys) == truth
