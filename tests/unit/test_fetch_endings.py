"""Bodies that cannot go on are ended one after the other, from the lowest offset up."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fastmirror.fetch.endings import PATIENCE_SECONDS, TURN_SECONDS, Endings


def test_one_reader_is_ended_at_once():
    endings = Endings()
    endings.reads("a", 10)
    assert endings.may_end("a", 0.0)


def test_the_lowest_goes_first_and_the_next_after_the_client_had_time_to_hang_up():
    endings = Endings()
    endings.reads("low", 10)
    endings.reads("high", 20)
    assert not endings.may_end("high", 0.0)
    assert endings.may_end("low", 0.1)
    endings.left("low")
    assert not endings.may_end("high", 0.2)
    assert endings.may_end("high", 0.1 + TURN_SECONDS)


def test_a_low_reader_that_has_bytes_left_holds_the_others_up_but_not_for_long():
    endings = Endings()
    endings.reads("low", 10)
    endings.reads("high", 20)
    assert not endings.may_end("high", 0.0)
    assert not endings.may_end("high", PATIENCE_SECONDS - 0.1)
    assert endings.may_end("high", PATIENCE_SECONDS)


def test_readers_that_left_by_themselves_hold_nobody_up():
    endings = Endings()
    endings.reads("low", 10)
    endings.reads("high", 20)
    endings.left("low")
    endings.left("low")
    assert endings.may_end("high", 0.0)


@given(st.dictionaries(st.integers(), st.integers(0, 1000), min_size=1, max_size=6))
def test_all_are_ended_within_the_patience_and_the_lowest_is_the_first(readers):
    endings = Endings()
    for reader, position in readers.items():
        endings.reads(reader, position)
    order: list[Any] = []
    now = 0.0
    while len(order) < len(readers):
        for reader in readers:
            if reader not in order and endings.may_end(reader, now):
                order.append(reader)
                endings.left(reader)
        now += 0.1
        assert now < PATIENCE_SECONDS + 0.2
    assert readers[order[0]] == min(readers.values())
