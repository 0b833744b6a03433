"""The look-up index against its twin (a dictionary of sets), its memory, and that keys cannot be chosen to collide."""

from __future__ import annotations

import random
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmirror._native.index import Index
from tests.twins.index import Index as Twin


def pack(*keys: int) -> bytes:
    return struct.pack(f"<{len(keys)}Q", *keys)


def distinct(seed: int, count: int) -> list[int]:
    source = random.Random(seed)
    return [source.getrandbits(64) for _ in range(count)]


@pytest.fixture(params=[Index, Twin], ids=["native", "twin"])
def index(request):
    return request.param(12345)


def test_a_node_is_seen_once_it_is_shown(index):
    node = index.open()
    index.add(node, pack(7))
    assert index.find(7) == []
    index.show(node)
    assert index.find(7) == [node]
    assert index.find(8) == []


def test_dropped_keys_are_not_found(index):
    node = index.open()
    index.show(node)
    index.add(node, pack(1, 2, 2, 3))
    index.drop(node, pack(2, 99))
    assert [index.find(key) for key in (1, 2, 3)] == [[node], [], [node]]
    assert index.entries == 2


def test_a_closed_node_vanishes_at_once_and_its_number_is_used_again_after_a_sweep(index):
    first, second = index.open(), index.open()
    for node in (first, second):
        index.show(node)
        index.add(node, pack(*range(100)))
    index.close(first)
    assert index.find(5) == [second]
    assert index.open() not in (first, second)
    while index.sweep(16):
        pass
    assert index.entries == 100
    assert index.open() == first


def test_numbers_that_are_not_open_are_refused(index):
    with pytest.raises(ValueError, match="no such node"):
        index.add(0, pack(1))
    node = index.open()
    index.close(node)
    for use in (lambda: index.add(node, b""), lambda: index.show(node), lambda: index.close(node)):
        with pytest.raises(ValueError, match="no such node"):
            use()
    with pytest.raises(ValueError, match="8 bytes"):
        index.add(index.open(), b"1234567")


def test_there_is_a_last_node():
    index = Index(1)
    for _ in range(32766):
        index.open()
    with pytest.raises(OverflowError):
        index.open()


_STEP = st.one_of(
    st.tuples(st.just("open")),
    st.tuples(st.just("close"), st.integers(0, 9)),
    st.tuples(st.just("add"), st.integers(0, 9), st.lists(st.integers(0, 60), max_size=40)),
    st.tuples(st.just("drop"), st.integers(0, 9), st.lists(st.integers(0, 60), max_size=40)),
    st.tuples(st.just("sweep"), st.integers(1, 50)),
)


@given(st.integers(0, 2**64 - 1), st.lists(_STEP, max_size=60))
@settings(max_examples=200, deadline=None)
def test_it_answers_as_its_twin_does_whatever_happens(seed, steps):
    native, twin = Index(seed), Twin(seed)
    pairs: list[tuple[int, int]] = []  # numbers may differ, as sweeps go at different speeds
    for step in steps:
        if step[0] == "open":
            pairs.append((native.open(), twin.open()))
            native.show(pairs[-1][0])
            twin.show(pairs[-1][1])
        elif step[0] == "sweep":
            native.sweep(step[1])
        elif step[1] < len(pairs):
            ours, theirs = pairs[step[1]]
            if step[0] == "close":
                del pairs[step[1]]
                native.close(ours)
                twin.close(theirs)
            else:
                getattr(native, step[0])(ours, pack(*step[2]))
                getattr(twin, step[0])(theirs, pack(*step[2]))
    while native.sweep(7):
        pass
    while twin.sweep(7):
        pass
    for key in range(61):
        names = dict(pairs)
        assert sorted(names[node] for node in native.find(key)) == sorted(twin.find(key))
    assert native.entries == twin.entries
    assert len(native) == len(twin)


def test_many_nodes_with_the_same_keys_and_with_their_own():
    index = Index(99)
    shared = distinct(1, 500)
    nodes = [index.open() for _ in range(300)]
    for node in nodes:
        index.show(node)
        index.add(node, pack(*shared, *range(node * 1000, node * 1000 + 20)))
    assert sorted(index.find(shared[7])) == nodes
    for node in nodes[10:]:
        index.close(node)
    while index.sweep(1000):
        pass
    assert sorted(index.find(shared[7])) == nodes[:10]
    assert index.entries == 10 * 520


@pytest.mark.parametrize("holders", [1, 2, 3, 50])
def test_an_entry_takes_at_most_24_bytes(holders):
    index = Index(5)
    base = index.memory
    total = 50 * 2000
    keys = distinct(2, total // holders)
    nodes = [index.open() for _ in range(50)]
    worst = 0.0
    for number, key in enumerate(keys):
        for copy in range(holders):
            index.add(nodes[(number + copy) % 50], pack(key))
        if index.entries > 10_000:
            worst = max(worst, (index.memory - base) / index.entries)
    assert worst <= 24


def test_a_look_up_takes_microseconds_with_50_nodes_of_2000_keys():
    index = Index(6)
    keys = distinct(3, 100_000)
    for number in range(50):
        node = index.open()
        index.show(node)
        index.add(node, pack(*keys[number * 2000 : (number + 1) * 2000]))
    times = []
    for key in keys[::50]:
        began = time.perf_counter_ns()
        index.find(key)
        times.append(time.perf_counter_ns() - began)
    assert sorted(times)[int(len(times) * 0.99)] < 50_000


def test_keys_chosen_for_another_seed_do_not_pile_up():
    # 20,000 keys in arithmetic progression: the usual way to make a weak hash degenerate
    for step in (1, 2**32, 2**44, 2**48 + 1):
        index = Index(random.Random(step).getrandbits(64))
        node = index.open()
        began = time.perf_counter()
        index.add(node, pack(*((number * step) % 2**64 for number in range(20_000))))
        assert time.perf_counter() - began < 0.5
