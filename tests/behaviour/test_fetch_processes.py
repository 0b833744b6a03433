"""Real nodes, real processes: a holder is killed, frozen or ended while it sends, and the reader sees nothing of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit import proc
from tests.kit.cluster import cluster
from tests.kit.faults import Fault, Plan, Seen, drip, slow_first_byte
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.invariants import Witness, assert_invariants
from tests.kit.layout import Layout
from tests.kit.process import Node
from tests.kit.waiting import NOISE, eventually
from tests.kit.wire import End, Wire, build_request

SIZE = 192 * 1024 * 1024
BOUND = 15.0  # seconds for all of it on a machine that others use too


class Three:
    """Two nodes that hold a large blob of zeros, and one that fetches it."""

    def __init__(self, nodes: list[Node], digest: str) -> None:
        self.reader, *self.holders = nodes
        self.target = f"/v2/team/app/blobs/{digest}"


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    layouts = [Layout(tmp_path / name) for name in ("reader", "one", "two")]
    digest = ""
    for layout in layouts[1:]:
        digest = layout.add_zeros(SIZE)
    with cluster([layout.directory for layout in layouts]) as nodes:
        yield Three(nodes, digest)


def _sending(three: Three) -> Node:
    """The holder whose connection to the reader carries the body: it has used the most time."""
    return max(three.holders, key=lambda node: proc.cpu_seconds(node.pid) if node.alive else 0.0)


def kill(node: Node) -> None:
    node.kill()


def freeze(node: Node) -> None:
    node.freeze()


@pytest.mark.parametrize("end", [kill, freeze])
def test_a_holder_that_is_gone_in_mid_body_is_replaced_in_the_same_answer(
    three: Three, end: Callable[[Node], None]
) -> None:
    with Witness(three.reader, memory_slack_kib=48 * 1024) as witness, Wire(three.reader.registry) as wire:
        began = time.monotonic()
        wire.send(build_request("GET", three.target))
        wire.fill(1 << 20)
        gone = _sending(three)
        end(gone)
        answer = wire.answer()
        assert answer.status == 200
        assert answer.complete, f"{len(answer.body)} bytes, {answer.end}"
        assert answer.body.count(0) == SIZE
        assert time.monotonic() - began < BOUND * NOISE
        answer = answer._replace(body=b"")
    if end is freeze:
        gone.thaw()
    assert_invariants(witness, [(answer, 0)], b"", bound_seconds=BOUND * NOISE)


def test_a_fetch_whose_only_holder_dies_ends_by_fin_and_leaves_nothing(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "one")
    content = bytes(range(256)) * 40_000
    digest = layout.add(content)

    def plan(seen: Seen) -> Fault | None:
        return drip(100_000, 0.05) if seen.method == "GET" else None

    with FaultyPeer([content], plan) as peer, cluster([tmp_path / "reader"], extra_peers=[str(peer)]) as (node,):
        with Witness(node) as witness:
            with Wire(node.registry) as wire:
                wire.send(build_request("GET", f"/v2/a/b/blobs/{digest}"))
                wire.fill(1_000_000)
                peer.plan = _gone
                for sock in list(peer._open):
                    sock.shutdown(2)
                answer = wire.answer()
            assert answer.status == 200
            assert answer.end is End.FIN
            assert not answer.complete
            again = node.ask("GET", f"/v2/a/b/blobs/{digest}", Range=f"bytes={len(answer.body)}-")
            assert again.status == 404
            eventually(lambda: proc.deleted_files(node.pid) == 0, "the spool is gone")
        assert_invariants(witness, [(answer, 0), (again, 0)], content, bound_seconds=5.0)


def _gone(seen: Seen) -> Fault | None:
    return Fault("status", at=404)


@pytest.mark.parametrize("plan", [lambda seen: None, lambda seen: slow_first_byte(0.05)], ids=["quick", "slow"])
def test_a_miss_costs_a_round_trip_to_the_slowest_peer(tmp_path: Path, plan: Plan) -> None:
    with FaultyPeer([], plan) as one, FaultyPeer([]) as two, FaultyPeer([], listening=False) as dead:
        peers = [str(one), str(two), str(dead)]
        with cluster([tmp_path / "reader"], extra_peers=peers) as (node,), Wire(node.registry) as wire:
            seconds = []
            for number in range(100):
                began = time.monotonic()
                assert wire.ask("GET", f"/v2/a/b/blobs/sha256:{number:064x}").status == 404
                seconds.append(time.monotonic() - began)
            assert sorted(seconds)[50] < 0.02 * NOISE
            assert max(seconds) < 0.25 * NOISE
        assert one.gets() == two.gets() == []
        assert len(one.requests) == len(two.requests) == 100
