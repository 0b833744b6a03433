"""The short form of the hunt, and that a leak would be seen."""

from __future__ import annotations

from tests.leaks.hunt import Hunt, Look, hunt, slope


def test_connections_and_aborted_transfers_leave_nothing_behind() -> None:
    found = hunt(connections=6_000, aborts=600, rounds=6)
    assert found.troubles(memory=150.0) == [], found.lines()


def test_what_grows_is_seen_and_a_single_jump_is_not() -> None:
    flat = [Look(30, 4, 20_000 + (300 if number > 5 else 0) + number % 2) for number in range(12)]
    assert Hunt({"a": flat}).troubles(100.0) == []
    leaking = [Look(30 + number, 4, 20_000 + 500 * number) for number in range(12)]
    assert len(Hunt({"a": leaking}).troubles(100.0)) == 2
    threads = [Look(30, 4 + number // 6, 20_000) for number in range(12)]
    assert Hunt({"a": threads}).troubles(100.0) == [f"a: threads {[look.threads for look in threads]}"]


def test_the_slope_is_that_of_most_pairs() -> None:
    assert slope([0, 10, 20, 1000, 40, 50]) == 10
    assert slope([5, 5, 5, 5]) == 0
