"""The ChunkPlan against peers in virtual time: what it costs when they die, freeze, crawl or come late."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmirror.fetch.claims import PlanSettings
from fastmirror.fetch.plan import ChunkPlan
from fastmirror.fetch.spans import SpanSet
from fastmirror.oci.span import Span
from fastmirror.routing import Peer
from tests.kit.swarm import Fate, SimPeer, Starved, Swarm

MIB = 1 << 20
RATE = 37.5e6  # 300 Mbit/s
SETTINGS = PlanSettings()


def peers(count: int, rate: float = RATE) -> list[SimPeer]:
    return [SimPeer(f"p{number}", rate) for number in range(count)]


def failing(count: int, fate: Fate, at: float) -> list[SimPeer]:
    """``count`` peers of which the first fails at ``at``."""
    return [SimPeer("bad", RATE, fate=fate, at=at), *peers(count - 1)]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_all_peers_together_give_their_full_rate_in_order(count: int) -> None:
    swarm = Swarm(512 * MIB, peers(count))
    assert 512 * MIB / swarm.run() > 0.96 * count * RATE
    assert swarm.gap < 0.02


@pytest.mark.parametrize("size", [64 * MIB, 512 * MIB])
@pytest.mark.parametrize("slowness", [10, 100, 1000])
def test_one_slow_peer_of_four_costs_little_and_makes_no_gap(slowness: int, size: int) -> None:
    swarm = Swarm(size, [SimPeer("slow", RATE / slowness), *peers(3)])
    assert swarm.run() < 1.1 * size / (RATE * (3 + 1 / slowness))
    assert swarm.gap < SETTINGS.stall_timeout


@pytest.mark.parametrize(
    ("fate", "gap"), [(Fate.KILLED, 0.05), (Fate.FROZEN, SETTINGS.stall_timeout + 0.01), (Fate.GONE, 0.51)]
)
def test_peer_that_fails_in_mid_transfer_costs_its_rate_and_one_deadline(fate: Fate, gap: float) -> None:
    at = 0.3 * 512 * MIB / (4 * RATE)
    swarm = Swarm(512 * MIB, failing(4, fate, at))
    ideal = at + (512 * MIB - 4 * RATE * at) / (3 * RATE)
    assert swarm.run() < 1.15 * ideal
    assert swarm.gap < gap


@pytest.mark.parametrize("fate", [Fate.KILLED, Fate.FROZEN, Fate.GONE, Fate.LACKS])
def test_peer_that_is_dead_from_the_start_costs_one_hedge_delay(fate: Fate) -> None:
    swarm = Swarm(256 * MIB, failing(4, fate, 0.0))
    assert swarm.run() < 1.15 * 256 * MIB / (3 * RATE)
    assert swarm.gap < SETTINGS.hedge_after + 0.03


def test_late_joiners_are_used_at_once() -> None:
    swarm = Swarm(512 * MIB, [SimPeer(f"p{number}", RATE, joins=number / 2) for number in range(4)])
    assert swarm.run() < 1.1 * (512 * MIB / (4 * RATE) + 0.75)
    assert swarm.gap < 0.03


def test_last_peer_alone_ends_what_three_others_left() -> None:
    left = [
        SimPeer("a", RATE, fate=Fate.KILLED, at=1.0),
        SimPeer("b", RATE, fate=Fate.FROZEN, at=1.1),
        SimPeer("c", RATE, fate=Fate.GONE, at=1.2),
        SimPeer("d", RATE),
    ]
    swarm = Swarm(128 * MIB, left)
    swarm.run()
    assert swarm.gap < 2 * SETTINGS.stall_timeout


def test_transfer_without_a_source_ends_instead_of_waiting() -> None:
    doomed = [SimPeer("a", RATE, fate=Fate.KILLED, at=0.2), SimPeer("b", RATE, fate=Fate.FROZEN, at=0.3)]
    swarm = Swarm(64 * MIB, doomed)
    with pytest.raises(Starved):
        swarm.run()
    assert swarm.now < 0.3 + SETTINGS.strikes * (SETTINGS.answer_timeout + 4 * SETTINGS.rest)


def test_what_is_ahead_of_the_reader_stays_within_the_window() -> None:
    swarm = Swarm(1024 * MIB, [SimPeer("slow", RATE / 50), *peers(7, 4 * RATE)])
    swarm.run()
    assert swarm.ahead <= SETTINGS.window + 8 * SETTINGS.most_chunk * 2


def test_rejected_bytes_are_asked_for_again_from_somebody_else() -> None:
    plan = ChunkPlan(4 * MIB, SETTINGS)
    liar, honest = Peer("liar", 1), Peer("honest", 1)
    plan.join(liar)
    (claim,) = plan.step(0.0).start
    assert plan.flows(claim, 0.01)
    plan.arrived(claim, 4 * MIB, 0.1)
    plan.settle(claim, 0.1, failed=False)
    assert plan.finished
    plan.join(honest)
    plan.reject(Span(MIB, 2 * MIB), [liar])
    assert plan.frontier == MIB and not plan.finished
    again = plan.step(0.2).start
    assert [(claim.peer, claim.start, claim.stop) for claim in again] == [(honest, MIB, 2 * MIB)]


def test_rejected_bytes_are_asked_for_from_the_same_peer_if_nobody_else_has_them() -> None:
    plan = ChunkPlan(MIB, SETTINGS)
    only = Peer("only", 1)
    plan.join(only)
    (claim,) = plan.step(0.0).start
    plan.flows(claim, 0.0)
    plan.arrived(claim, MIB, 0.1)
    plan.reject(Span(0, MIB), [only])
    plan.settle(claim, 0.1, failed=False)
    assert plan.frontier == 0
    assert [claim.peer for claim in plan.step(0.2).start] == [only]


def test_the_last_byte_is_not_passed_from_peer_to_peer_for_ever() -> None:
    swarm = Swarm(1, [SimPeer("slow", 2e6, delay=0.002), SimPeer("fast", 1e8, delay=0.02)])
    assert swarm.run() < 0.1


def test_bytes_that_a_slow_peer_was_relieved_of_go_back_to_it_if_nobody_usable_is_left() -> None:
    slow, frozen = SimPeer("slow", 1e6, delay=0.03), SimPeer("frozen", RATE, fate=Fate.FROZEN, at=0.0)
    swarm = Swarm(8 * MIB, [slow, frozen])
    assert swarm.run() < 8 * MIB / 1e6 + 8


def test_second_answer_of_two_rivals_gets_nothing_to_do() -> None:
    plan = ChunkPlan(8 * MIB, SETTINGS)
    plan.join(Peer("a", 1))
    (first,) = plan.step(0.0).start
    plan.join(Peer("b", 1))
    later = SETTINGS.hedge_after
    rivals = [claim for claim in plan.step(later).start if claim.start == 0]
    assert len(rivals) == 1 and rivals[0].race == [first, rivals[0]]
    assert plan.flows(rivals[0], later) and not plan.flows(first, later)
    assert plan.step(later).cancel == [first]
    plan.settle(first, later, failed=False)
    assert sum(claim.start == 0 for claim in plan.claims) == 1


def test_one_more_peer_is_asked_with_each_delay_that_passes_without_an_answer() -> None:
    plan = ChunkPlan(MIB, SETTINGS)
    for name in "abcd":
        plan.join(Peer(name, 1))
    asked = [[claim.peer.host for claim in plan.step(n * SETTINGS.hedge_after).start] for n in range(4)]
    assert asked == [["a"], ["b"], ["c"], ["d"]]
    assert {(claim.start, claim.stop) for claim in plan.claims} == {(0, MIB)}
    first, *others = plan.claims
    assert plan.flows(others[-1], 1.0)
    assert not any(plan.flows(claim, 1.0) for claim in (first, *others[:-1]))
    for claim in (first, *others[:-1]):
        plan.settle(claim, 1.0, failed=False)
    assert plan.step(1.0).start == [], "every byte belongs to the one that answered"


@pytest.mark.parametrize(("after", "rests"), [(0.001, False), (SETTINGS.hedge_after, True)])
def test_one_that_was_beaten_rests_only_if_it_had_the_time_to_answer(after: float, rests: bool) -> None:
    plan = ChunkPlan(64 * MIB, SETTINGS)
    for name in "ab":
        plan.join(Peer(name, 1))
    first, second = plan.step(0.0).start
    plan.flows(second, 0.0)
    late = SETTINGS.hedge_after
    (rival,) = (claim for claim in plan.step(late).start if claim.start == 0)
    assert plan.flows(first, late + after)
    for claim in (rival, second):
        plan.settle(claim, late + after, failed=False)
    assert (rival.peer not in {claim.peer for claim in plan.step(late + after).start}) is rests


def test_all_who_race_may_fail_and_the_bytes_are_free_again() -> None:
    plan = ChunkPlan(MIB, SETTINGS)
    for name in "abc":
        plan.join(Peer(name, 1))
    (first,), (second,) = plan.step(0.0).start, plan.step(SETTINGS.hedge_after).start
    plan.settle(first, 0.2, failed=True)
    plan.settle(second, 0.2, failed=True)
    assert [(claim.peer.host, claim.start, claim.stop) for claim in plan.step(0.2).start] == [("c", 0, MIB)]


def test_of_equals_the_one_with_the_least_order_is_asked_first_and_a_far_faster_one_before_them() -> None:
    plan = ChunkPlan(64 * MIB, SETTINGS)
    plan.join(Peer("second", 1), 40e6, order=2)
    plan.join(Peer("first", 1), 38e6, order=1)
    plan.join(Peer("fast", 1), 300e6, order=3)
    claims = plan.step(0.0).start
    assert [claim.peer.host for claim in claims] == ["fast", "first", "second"]
    assert [claim.start for claim in claims] == sorted(claim.start for claim in claims)


def test_a_claim_that_is_spared_goes_on_as_if_it_had_just_moved() -> None:
    plan = ChunkPlan(MIB, SETTINGS)
    plan.join(Peer("a", 1))
    (claim,) = plan.step(0.0).start
    plan.flows(claim, 0.0)
    late = SETTINGS.stall_timeout
    assert plan.step(late).cancel == [claim]
    plan.spare(claim, late)
    again_at = plan.step(late).again_at
    assert again_at is not None
    assert again_at > late
    assert plan.step(again_at).cancel == [claim]


def test_one_who_pauses_is_waited_for_longer_where_nobody_else_could_go_on() -> None:
    for others, patience in ((0, SETTINGS.stall_timeout), (1, SETTINGS.least_stall)):
        plan = ChunkPlan(64 * MIB, SETTINGS)
        plan.join(Peer("a", 1))
        (claim,) = plan.step(0.0).start
        plan.flows(claim, 0.0)
        plan.arrived(claim, 1000, 0.0)
        for number in range(others):
            plan.join(Peer("b", number))
        assert claim not in plan.step(patience - 0.01).cancel
        assert claim in plan.step(patience + 0.01).cancel


# ---- readers that wait elsewhere than at the frontier


def started(plan: ChunkPlan, now: float = 0.0) -> list[tuple[int, int]]:
    return [(claim.start // MIB, claim.stop // MIB) for claim in plan.step(now).start]


def test_what_a_reader_waits_for_comes_first_and_the_rest_with_those_who_are_left() -> None:
    plan = ChunkPlan(512 * MIB, SETTINGS)
    for name in "abcd":
        plan.join(Peer(name, 1))
    plan.want([300 * MIB + 5])
    chunk = int(SETTINGS.guess * SETTINGS.chunk_seconds) // MIB
    ahead = SETTINGS.ahead // MIB
    spans = started(plan)
    assert spans[0] == (300, 300 + chunk)
    assert all(300 <= start < 300 + ahead + 1 or start < 64 for start, _ in spans)
    plan.want([])
    assert len(plan.claims) == 4


def test_readers_in_several_places_are_all_served() -> None:
    plan = ChunkPlan(512 * MIB, SETTINGS)
    for name in "abcd":
        plan.join(Peer(name, 1))
    plan.want([0, 100 * MIB, 200 * MIB])
    assert {start for start, _ in started(plan)[:3]} == {0, 100, 200}


def test_bytes_that_a_reader_waits_for_are_asked_for_twice_if_nobody_answers() -> None:
    plan = ChunkPlan(512 * MIB, SETTINGS)
    for name in "ab":
        plan.join(Peer(name, 1))
    plan.want([300 * MIB])
    first = plan.step(0.0).start[0]
    rivals = [claim for claim in plan.step(SETTINGS.hedge_after).start if claim.start == 300 * MIB]
    assert [claim.peer for claim in rivals] == [Peer("b", 1)]
    assert first.peer == Peer("a", 1)


def test_a_reader_that_waits_behind_what_has_arrived_waits_for_what_comes_next() -> None:
    plan = ChunkPlan(8 * MIB, SETTINGS)
    plan.join(Peer("a", 1))
    (claim,) = plan.step(0.0).start
    plan.flows(claim, 0.0)
    plan.arrived(claim, 5 * MIB, 0.1)
    plan.settle(claim, 0.1, failed=True)
    plan.want([2 * MIB])
    assert started(plan, 1.0) == [(5, 8)]


fates = st.sampled_from(list(Fate))
some_peer = st.builds(
    SimPeer,
    name=st.integers(0, 10**6).map(str),
    rate=st.floats(2e5, 2e8),
    delay=st.floats(0.0001, 0.04),
    fate=fates,
    at=st.floats(0.0, 3.0),
    joins=st.floats(0.0, 1.0),
)


@given(
    st.integers(1, 48 * MIB),
    st.lists(some_peer, max_size=5, unique_by=lambda peer: peer.name),
    st.floats(1e6, 1e8),
    st.floats(0.0, 1.0),
    st.lists(st.integers(0, 48 * MIB), max_size=4),
)
def test_any_schedule_brings_every_byte_once_while_one_peer_is_healthy(
    size: int, others: list[SimPeer], rate: float, joins: float, wanted: list[int]
) -> None:
    swarm = Swarm(size, [SimPeer("healthy", rate, joins=joins), *others], wanted=wanted)
    deadlines = (len(others) + 1) * 3 * (SETTINGS.answer_timeout + SETTINGS.stall_timeout)
    assert swarm.run() < joins + 2 * size / rate + deadlines
    assert list(swarm.written) == [Span(0, size)]
    assert swarm.plan.claims == () or swarm.plan.finished


spans = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: Span(min(pair), max(pair)))


@given(st.lists(st.tuples(st.booleans(), spans), max_size=30))
def test_span_sets_are_sets_of_bytes(changes: list[tuple[bool, Span]]) -> None:
    found, expected = SpanSet(), set[int]()
    for add, span in changes:
        if add:
            found.add(span)
            expected |= set(range(*span))
        else:
            found.remove(span)
            expected -= set(range(*span))
        assert {byte for span in found for byte in range(*span)} == expected
        pairs = list(found)
        assert all(one.stop < two.start for one, two in itertools.pairwise(pairs))
        assert found.count == len(expected) and found.first() == (pairs[0] if pairs else None)
        for position in (0, 7, 60):
            reach = position
            while reach in expected:
                reach += 1
            assert found.reach(position) == reach


def test_settings_leave_a_claim_time_to_be_found_slow() -> None:
    assert SETTINGS.least_stall <= SETTINGS.stall_timeout < math.inf
