"""A short run of every target, the same in each CI run; and that the loop finds what is planted."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.engine import Found, Target, fuzz, mutate, replay
from tests.fuzz.targets import TARGETS

SECONDS = 3.0  # of each target at most: less than half a minute in all


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_others_write_does_harm(name: str) -> None:
    target = TARGETS[name]
    progress = fuzz(target, cases=int(target.rate * SECONDS), seconds=SECONDS)
    assert progress.cases >= len(target.corpus())
    assert len(progress.kept) > 2, "the corpus gets past the first check"


def test_the_loop_finds_a_defect_behind_three_checks_and_shows_its_input() -> None:
    def run(data: bytes) -> int:
        if not data.startswith(b"head:"):
            return 0
        if len(data) < 12:
            return 1
        if b"\0" not in data:
            return 2
        assert data[-1:] != b"!", "planted"
        return 3

    target = Target("planted", run, [b"x"], words=[b"head:", b"!"])
    with pytest.raises(Found, match=r"planted: AssertionError: planted") as found:
        fuzz(target, cases=2_000_000, seconds=40)
    shown = str(found.value).split("input: ")[1].splitlines()[0]
    assert shown.startswith("b'head:")
    assert "\\x00" in shown


def test_the_same_seed_makes_the_same_inputs() -> None:
    made: list[list[bytes]] = []
    for _ in range(2):
        seen: list[bytes] = []
        fuzz(Target("kept", lambda data, seen=seen: seen.append(data) or len(data), [b"a", b"bc"]), cases=300, seed=5)
        made.append(seen)
    assert made[0] == made[1]
    assert len(set(made[0])) > 100


def test_inputs_stay_within_the_limit_of_their_target() -> None:
    target = Target("long", len, [b"x" * 90], words=[b"y" * 500], limit=100)
    source = random.Random(1)
    assert all(len(mutate(target, [b"x" * 90], source)) <= 100 for _ in range(500))


def test_a_defect_in_the_corpus_is_found_by_replaying_it() -> None:
    target = Target("seeded", lambda data: 1 // (len(data) - 2), [b"a", b"bc"])
    with pytest.raises(Found, match="ZeroDivisionError"):
        replay(target)
