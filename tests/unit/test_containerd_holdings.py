"""Which files of containerd's content directory may be served, whatever order words and files come in."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastmirror.containerd.holdings import Holdings, Knowing
from fastmirror.oci.digest import Digest

OURS, THEIRS, LATER = (Digest.of(text) for text in (b"ours", b"theirs", b"later"))
FILES = {OURS: 4, THEIRS: 6}


def listed(holdings: Holdings, *ours: Digest, gone: tuple[Digest, ...] = (), complete: bool = False) -> Any:
    return holdings.listed(ours, gone, complete=complete)


def test_nothing_is_served_before_containerd_was_heard_of():
    holdings = Holdings(namespaced=True)
    assert holdings.scanned(FILES) == []
    assert holdings.served() == {}


def test_everything_is_served_where_the_namespace_does_not_matter():
    holdings = Holdings(namespaced=False)
    assert holdings.scanned(FILES) == []
    assert holdings.served() == FILES
    assert holdings.came({LATER: 5}) == []
    assert holdings.may_serve(LATER)


def test_what_the_namespace_lists_is_served_and_nothing_else():
    holdings = Holdings(namespaced=True)
    holdings.scanned(FILES)
    change = listed(holdings, OURS, complete=True)
    assert (change.arrived, change.all) == ({OURS: 4}, True)
    assert not holdings.may_serve(THEIRS)
    assert listed(holdings, THEIRS).arrived == {THEIRS: 6}
    assert listed(holdings, gone=(OURS,)).left == [OURS]
    assert not holdings.may_serve(OURS)


def test_while_containerd_is_away_unknown_files_are_served_and_foreign_ones_are_not():
    holdings = Holdings(namespaced=True)
    holdings.scanned(FILES)
    listed(holdings, OURS, complete=True)
    assert holdings.lost()
    assert not holdings.lost()
    holdings.came({LATER: 5})
    assert holdings.served() == {OURS: 4, LATER: 5}


def test_a_file_that_came_while_containerd_was_away_is_served_until_it_says_no():
    holdings = Holdings(namespaced=True)
    holdings.scanned(FILES)
    listed(holdings, OURS, complete=True)
    holdings.lost()
    holdings.came({LATER: 5})
    change = listed(holdings)
    assert change.arrived == {OURS: 4, LATER: 5}
    assert change.ask == [LATER]
    assert holdings.foreign([LATER]) == [LATER]
    assert not holdings.may_serve(LATER)


def test_a_new_file_is_asked_for_and_waits_for_the_answer():
    holdings = Holdings(namespaced=True)
    holdings.scanned(FILES)
    listed(holdings, OURS, complete=True)
    assert holdings.came({LATER: 5}) == [LATER]
    assert not holdings.may_serve(LATER)
    assert listed(holdings, LATER).arrived == {LATER: 5}
    assert holdings.came({OURS: 4}) == []


def test_what_was_asked_of_a_helper_that_died_is_asked_again():
    holdings = Holdings(namespaced=True)
    listed(holdings, complete=True)
    assert holdings.came({LATER: 5}) == [LATER]
    holdings.lost()
    assert listed(holdings, complete=True).ask == [LATER]


DIGESTS = st.sampled_from([Digest.of(bytes([number])) for number in range(5)])
SETS = st.sets(DIGESTS)


class Truth(RuleBasedStateMachine):
    """A containerd that always tells the truth, heard late or not at all, beside a directory that changes."""

    def __init__(self) -> None:
        super().__init__()
        self.holdings = Holdings(namespaced=True)
        self.files: set[Digest] = set()
        self.ours: set[Digest] = set()
        self.said: set[Digest] = set()
        self.asked: set[Digest] = set()
        self.never = {Digest.of(bytes([0]))}  # another namespace's, for ever
        self.judged = False

    @rule(digest=DIGESTS)
    def file_comes(self, digest: Digest) -> None:
        self.files.add(digest)
        if digest not in self.never:
            self.ours.add(digest)
        self.asked.update(self.holdings.came({digest: 1}))

    @rule(digest=DIGESTS)
    def file_goes(self, digest: Digest) -> None:
        self.files.discard(digest)
        self.ours.discard(digest)
        self.asked.discard(digest)
        self.holdings.went([digest])

    @rule()
    def rescan(self) -> None:
        self.asked.update(self.holdings.scanned(dict.fromkeys(self.files, 1)))

    @rule(complete=st.booleans())
    def list_is_heard(self, complete: bool) -> None:
        complete = complete or not self.judged
        self.judged = True
        before = set() if complete else self.said
        change = self.holdings.listed(self.ours - before, before - self.ours, complete=complete)
        self.said = set(self.ours)
        self.asked.update(change.ask)
        self.asked -= self.ours

    @rule()
    def answers_are_heard(self) -> None:
        if self.holdings.knowing is Knowing.LISTED:
            new = self.asked & self.ours
            self.holdings.listed(new, [], complete=False)
            self.said |= new
            self.holdings.foreign(self.asked - self.ours)
            self.asked.clear()

    @rule()
    def containerd_goes_away(self) -> None:
        self.holdings.lost()
        self.asked.clear()

    @invariant()
    def what_containerd_said_is_ours_is_served(self) -> None:
        assert all(self.holdings.may_serve(digest) for digest in self.said)

    @invariant()
    def other_namespaces_content_is_served_only_while_containerd_cannot_say_so(self) -> None:
        if self.holdings.knowing is Knowing.LISTED and not self.asked:
            assert not self.holdings.may_serve(next(iter(self.never)))

    @invariant()
    def only_files_that_are_there_are_told(self) -> None:
        assert set(self.holdings.served()) <= self.files


TestTruth = Truth.TestCase
TestTruth.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
