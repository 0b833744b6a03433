"""Clusters of inventories in virtual time: whatever happens to them, once it is over every view equals the truth."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmirror.inventory import messages as m
from fastmirror.inventory.card import Version
from fastmirror.inventory.facts import Down, Send, Up
from fastmirror.inventory.keys import KeySet
from fastmirror.inventory.members import DOUBT_SECONDS, MAX_UNMET_KEYS
from fastmirror.inventory.wire import HEADER
from tests.kit.inventory_sim import Sim, SimNode, card_of, keys_of, sign_as

SIZES = [pytest.param(3, 64, id="3 at 64"), pytest.param(12, 4, id="12 at 4")]


def joined(count: int, degree: int, seed: int = 1, keys: int = 20) -> Sim:
    sim = Sim(seed, degree)
    for number in range(count):
        sim.start(number, keys_of(number, keys))
    for number in range(1, count):
        sim.join(number, 0)
    sim.run_until(lambda: not sim.wrong(), 10)
    sim.run(10)
    assert not sim.wrong()
    return sim


@pytest.mark.parametrize(("count", "degree"), SIZES)
def test_a_new_key_is_known_everywhere_at_once(count, degree):
    sim = joined(count, degree)
    sim.change(count - 1, add={7})
    assert (
        sim.run_until(lambda: all(7 in n.offered[sim.nodes[count - 1].owner] for n in others(sim, count - 1)), 1) < 0.05
    )
    sim.change(count - 1, drop={7})
    assert sim.run_until(lambda: not sim.wrong(), 1) < 0.05


def others(sim: Sim, number: int):
    return [node for node in sim.nodes.values() if node.number != number]


@pytest.mark.parametrize(("count", "degree"), SIZES)
def test_the_first_change_goes_at_once_and_what_follows_together(count, degree):
    sim = joined(count, degree)
    node = sim.nodes[0]
    before = node.inventory.deltas_out
    for key in range(10):
        sim.change(0, add={500_000 + key})
        sim.run(0.001)
    sim.run(0.1)
    assert node.inventory.deltas_out - before == 2
    assert not sim.wrong()


@pytest.mark.parametrize(("count", "degree"), SIZES)
def test_a_killed_node_is_gone_everywhere_within_200_ms(count, degree):
    sim = joined(count, degree)
    sim.kill(1)
    assert sim.run_until(lambda: not sim.wrong(), 5) < 0.2


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("count", "degree"), SIZES)
def test_a_frozen_node_is_gone_everywhere_within_4_s_and_comes_back(count, degree, seed):
    sim = joined(count, degree, seed)
    sim.freeze(1)
    assert sim.run_until(lambda: not sim.wrong(), 10) < 4
    sim.run(20)
    assert not sim.wrong()
    sim.thaw(1)
    assert sim.run_until(lambda: not sim.wrong(), 15) < 10


@pytest.mark.parametrize(("count", "degree"), SIZES)
def test_a_node_that_leaves_is_gone_before_it_ends(count, degree):
    sim = joined(count, degree)
    owner = sim.nodes[2].owner
    sim.leave(2)
    assert sim.run_until(lambda: not any(owner in node.offered for node in others(sim, 2)), 1) < 0.1


def test_a_node_that_dies_just_after_its_connection_ended_in_good_order_is_gone_too():
    sim = joined(2, 64)
    node = sim.nodes[0]
    (link,) = node.inventory.links.values()
    node.inventory._drop_link(link, "pruned", m.PRUNED)
    sim._settle(node)
    sim.kill(1)
    assert sim.run_until(lambda: not sim.wrong(), 10) < 4


def test_invented_nodes_change_nothing_about_who_is_connected_to_whom(monkeypatch):
    sim = joined(12, 16)
    before = {node.number: set(node.inventory._by_owner) for node in sim.nodes.values()}
    node = sim.nodes[3]
    (number, pipe) = next(iter(node.pipes.items()))
    for fake in range(200):
        owner = hashlib.sha256(b"fake %d" % fake).digest()
        card = card_of(owner, 5000 + fake, 1)._replace(root=KeySet().root).signed(sign_as(owner))
        sim._arrive(pipe, node, number, m.Snapshot(card, KeySet()).encode())
    monkeypatch.setattr(sim, "_meet", lambda *_: None)  # where they say that they are nobody answers for long
    sim.run(20)
    assert len(node.inventory.members) == 211
    assert {node.number: set(node.inventory._by_owner) for node in sim.nodes.values()} == before
    assert not sim.wrong()


def test_nodes_that_nobody_finds_cost_bounded_memory_no_link_and_are_forgotten():
    sim = joined(3, 64)
    node = sim.nodes[0]
    (number, pipe) = next(iter(node.pipes.items()))
    keys = KeySet(range(60_000))
    for fake in range(100):
        owner = hashlib.sha256(b"fake %d" % fake).digest()
        card = card_of(owner, 5000 + fake, 1)._replace(key_count=len(keys), root=keys.root).signed(sign_as(owner))
        sim._arrive(pipe, node, number, m.Snapshot(card, keys).encode())
    assert sum(len(member.keys) for member in node.inventory.members) <= MAX_UNMET_KEYS + 100
    assert node.inventory.members.refused["room"] >= 30
    assert number in node.inventory.links, "who passes on what there is no room for has done nothing wrong"
    sim.run(DOUBT_SECONDS + 60)
    assert all(len(node.inventory.members.live) == 2 for node in sim.nodes.values())
    assert all(len(member.keys) < 100 for member in node.inventory.members)
    assert not sim.wrong()


@pytest.mark.parametrize(("count", "degree"), SIZES)
def test_a_partition_heals(count, degree):
    sim = joined(count, degree)
    half = count // 2
    here, there = set(range(half)), set(range(half, count))
    sim.part(here, there)
    sim.run(30)
    for node in sim.nodes.values():
        side = here if node.number in here else there
        assert node.offered.keys() == {sim.nodes[n].owner for n in side - {node.number}}
    sim.change(0, add={5})
    sim.change(count - 1, add={6}, drop=keys_of(count - 1, 3))
    sim.heal()
    assert sim.run_until(lambda: not sim.wrong(), 30) < 15


@pytest.mark.parametrize(("count", "degree"), SIZES)
def test_a_restart_with_the_same_identity_and_other_keys_is_believed(count, degree):
    sim = joined(count, degree)
    owner = sim.nodes[1].owner
    sim.kill(1)
    sim.start(1, {1, 2, 3}, owner)
    sim.join(1, 0)
    assert sim.run_until(lambda: not sim.wrong(), 10) < 5


@pytest.mark.parametrize("degree", [4, 8, 64])
def test_connections_are_bounded_by_the_degree_and_idle_nodes_are_quiet(degree):
    sim = joined(30, degree)
    sim.run(30)
    assert max(len(node.inventory.links) for node in sim.nodes.values()) <= max(degree + 8, min(degree, 29))
    assert min(len(node.inventory.links) for node in sim.nodes.values()) >= 2
    before = sum(node.sent for node in sim.nodes.values())
    sim.run(20)
    assert (sum(node.sent for node in sim.nodes.values()) - before) / 20 / 30 < 6
    assert not sim.wrong()


def test_a_clone_is_noticed_and_one_of_the_two_changes():
    sim = joined(3, 64)
    owner = sim.nodes[1].owner
    clone = sim.start(9, {99}, owner)
    sim.join(9, 0)
    sim.run(10)
    assert clone.renewed or sim.nodes[1].renewed
    assert not (clone.renewed and sim.nodes[1].renewed)


def clone_at(sim: Sim) -> tuple[SimNode, m.Hello]:
    """A clone of node 1 has come to node 0, which is linked to node 1: node 0, and what node 1 says first."""
    node, original = sim.nodes[0], sim.nodes[1].inventory.hello()
    later = original.card._replace(version=Version(original.card.version.epoch + 1, 0))
    hello = m.Hello(1, later.signed(sign_as(later.owner)))
    node.inventory.linked(9001, hello, False, "", sim.now)
    return node, original


def told_to_be_a_clone(node: SimNode) -> bool:
    return Send(9001, m.Part(m.CLONE).encode()) in node.inventory.facts


def test_a_clone_is_told_so_even_if_the_connection_it_competes_with_is_replaced_just_then():
    sim = joined(3, 64)
    node, original = clone_at(sim)
    (old,) = (link for link in node.inventory.links.values() if link.owner == original.card.owner)
    node.inventory.linked(9002, original, old.outbound, old.host, sim.now + 0.01)
    node.inventory.tick(sim.now + 0.02)
    assert told_to_be_a_clone(node)
    assert sorted(link.owner for link in node.inventory.links.values()) == sorted(n.owner for n in others(sim, 0))


def test_a_clone_is_told_so_by_a_node_that_was_stuck_meanwhile():
    sim = joined(3, 64)
    node, original = clone_at(sim)
    (link,) = (link for link in node.inventory.links.values() if link.owner == original.card.owner)
    pong = m.Pong(link.nonce, 0).encode()
    node.inventory.heard(link.number, pong[4], pong[HEADER.size :], sim.now + 0.01)
    node.inventory.tick(node.inventory.wake + 0.9)
    assert told_to_be_a_clone(node)


def test_a_restart_is_no_clone():
    sim = joined(3, 64)
    owner = sim.nodes[1].owner
    sim.part({1}, {0, 2})  # it vanishes without a word: the others hold its old connections for live ones
    sim.kill(1)
    sim.heal()
    node = sim.start(1, {1}, owner)
    sim.join(1, 0)
    sim.run_until(lambda: not sim.wrong(), 10)
    assert not node.renewed


@pytest.mark.parametrize("goodbye", [True, False])
@pytest.mark.parametrize(("count", "degree"), SIZES)
def test_a_clock_that_went_back_before_a_restart_does_no_harm(count, degree, goodbye):
    sim = joined(count, degree)
    owner = sim.nodes[1].owner
    if goodbye:
        sim.leave(1)
        sim.run(0.2)
    else:
        sim.kill(1)
    sim.run(1)
    sim._epoch = iter([0])  # epoch 0, where the others remember a later one
    sim.start(1, {1, 2}, owner)
    sim.join(1, 0)
    assert sim.run_until(lambda: not sim.wrong(), 10) < 5
    assert all(node.offered[owner] == {1, 2} for node in others(sim, 1))


def test_a_false_suspicion_is_refuted():
    sim = joined(12, 4)
    liar = sim.nodes[3].inventory
    downs = len([entry for entry in sim.log if isinstance(entry[2], Down)])
    for node in others(sim, 3):
        for link in node.inventory.links.values():
            if link.owner == liar.me:
                version = liar.members.get(sim.nodes[7].owner)
                sim._arrive(
                    node.pipes[link.number], node, link.number, m.Suspect(sim.nodes[7].owner, version.version).encode()
                )
    assert sim.run_until(lambda: not sim.wrong(), 10) < 3
    assert sim.nodes[7].alive
    assert len([entry for entry in sim.log if isinstance(entry[2], Down)]) - downs < 12


_FAULT = st.one_of(
    st.tuples(st.just("change"), st.integers(0, 7), st.sets(st.integers(0, 30), max_size=5)),
    st.tuples(st.just("drop"), st.integers(0, 7), st.sets(st.integers(0, 30), max_size=5)),
    st.tuples(st.just("kill"), st.integers(0, 7)),
    st.tuples(st.just("leave"), st.integers(0, 7)),
    st.tuples(st.just("freeze"), st.integers(0, 7)),
    st.tuples(st.just("lie"), st.integers(0, 7), st.integers(0, 7)),
    st.tuples(st.just("thaw"), st.integers(0, 7)),
    st.tuples(st.just("start"), st.integers(0, 7), st.booleans()),
    st.tuples(st.just("part"), st.integers(1, 255)),
    st.tuples(st.just("heal")),
    st.tuples(st.just("wait"), st.floats(0.001, 8)),
)


@given(st.integers(0, 1000), st.sampled_from([4, 64]), st.lists(_FAULT, max_size=25))
@settings(max_examples=60, deadline=None)
def test_after_healing_every_view_equals_the_truth(seed, degree, faults):
    sim = Sim(seed, degree)
    owners = {}
    for number in range(8):
        owners[number] = sim.start(number, keys_of(number, 5)).owner
    for number in range(1, 8):
        sim.join(number, 0)
    sim.run(1)
    for fault in faults:
        node = sim.nodes.get(fault[1]) if len(fault) > 1 and isinstance(fault[1], int) else None
        match fault:
            case ("change", number, keys) if node and not node.frozen:
                sim.change(number, add=keys)
            case ("drop", number, keys) if node and not node.frozen:
                sim.change(number, drop=keys)
            case ("kill", number) if node and not node.frozen and len(sim.nodes) > 2:
                sim.kill(number)
            case ("leave", number) if node and not node.frozen and len(sim.nodes) > 2:
                sim.leave(number)
                sim.run(0.2)
            case ("lie", number, about) if node and about in sim.nodes:
                accused = sim.nodes[about].inventory
                accusation = m.Suspect(accused.me, accused.ledger.version).encode()
                for link, pipe in list(node.pipes.items()):
                    sim._arrive(pipe, *pipe.other(node, link), accusation)
            case ("freeze", number) if node and not node.frozen:
                sim.freeze(number)
            case ("thaw", number) if node and node.frozen:
                sim.thaw(number)
            case ("start", number, same) if not node:
                fresh = random.Random(sim.now).randbytes(32)
                owners[number] = sim.start(number, keys_of(number, 3), owners[number] if same else fresh).owner
                sim.join(number, min(sim.nodes.keys() - {number}))
            case ("part", mask):
                here = {number for number in range(8) if mask >> number & 1}
                sim.part(here, set(range(8)) - here)
            case ("heal",):
                sim.heal()
            case ("wait", seconds):
                sim.run(seconds)
    sim.heal()
    for number in [n for n, node in sim.nodes.items() if node.frozen]:
        sim.thaw(number)
    for _ in range(8):  # what runs bootstraps again when it is alone, and every 15 s
        for number in sim.nodes:
            sim.join(number, sim.dice.choice(sorted(sim.nodes)))
        sim.run(8)
    sim.run_until(lambda: not sim.wrong(), 60)
    sim.run(5)
    assert not sim.wrong()


def test_what_is_offered_is_told_once_and_taken_back_once():
    sim = joined(5, 64)
    sim.kill(2)
    sim.run(5)
    ups = [(node, fact.card.owner) for _, node, fact in sim.log if isinstance(fact, Up)]
    downs = [(node, fact.owner) for _, node, fact in sim.log if isinstance(fact, Down)]
    assert len(ups) == len(set(ups))
    assert len(downs) == len(set(downs)) == 4
