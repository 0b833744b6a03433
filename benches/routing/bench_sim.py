"""A thousand nodes and more: the real state machines in virtual time, and what they cost on paper.

``python -m benches.routing.bench_sim [--nodes 1000] [--keys 20] [--degree 64]``: joins that many nodes (no real
network, no real signatures), then changes one, kills one, freezes one. Seconds are virtual; frames and bytes are
counted. The paper figures multiply counts by what one of everything costs, measured here and now with py-libp2p
(``primitives``). A thousand nodes take some minutes.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass

from benches.routing import primitives
from benches.routing.primitives import Costs
from tests.kit.inventory_sim import Sim, keys_of

IDLE_SECONDS = 10.0


@dataclass(frozen=True)
class Simulated:
    """What came out: virtual seconds, and frames and bytes of a node."""

    nodes: int
    keys: int
    degree: int
    known: float
    least_links: int
    most_links: int
    join_frames: float
    join_mib: float
    visible: float
    visible_frames: float
    killed: float
    frozen: float
    idle_frames: float


def simulate(count: int, keys: int, degree: int) -> Simulated:
    """Join so many nodes, each by a random earlier one, and see what happens to them."""
    sim = Sim(1, degree)
    for number in range(count):
        sim.start(number, keys_of(number, keys))
    real = time.monotonic()
    for number in range(1, count):
        sim.join(number, sim.dice.randrange(number))
    waited = 0.0
    while len(sim.nodes[0].offered) < count - 1 or sim.wrong():
        sim.run(0.25)
        waited += 0.25
        print(f"  {waited:.2f} s: {len(sim.nodes[0].offered)} known; {time.monotonic() - real:.0f} s real", flush=True)
    links = [len(node.inventory.links) for node in sim.nodes.values()]
    join_frames = _sent(sim) / count
    join_bytes = sum(node.sent_bytes for node in sim.nodes.values()) / count
    sim.run(10)

    owner, before = sim.nodes[count - 1].owner, _sent(sim)
    sim.change(count - 1, add={7})
    sim.run(0.0001)
    rest = list(sim.nodes.values())[:-1]
    visible = sim.run_until(lambda: all(7 in node.offered[owner] for node in rest), 30)
    visible_frames = (_sent(sim) - before) / count

    gone = []
    for number, act in ((count // 2, sim.kill), (1, sim.freeze)):
        owner = sim.nodes[number].owner
        act(number)
        rest = [node for node in sim.nodes.values() if node.number != number]
        gone.append(sim.run_until(lambda owner=owner, rest=rest: not any(owner in n.offered for n in rest), 30))
    sim.run(5)
    before = _sent(sim)
    sim.run(IDLE_SECONDS)
    idle = (_sent(sim) - before) / IDLE_SECONDS / count
    return Simulated(
        count,
        keys,
        degree,
        waited,
        min(links),
        max(links),
        join_frames,
        join_bytes / 2**20,
        visible,
        visible_frames,
        gone[0],
        gone[1],
        idle,
    )


def _sent(sim: Sim) -> int:
    return sum(node.sent for node in sim.nodes.values())


@dataclass(frozen=True)
class Paper:
    """One size on paper: CPU seconds and MiB to join, MiB of memory, shares of a core in percent."""

    nodes: int
    links: int
    join_cpu: float
    received: float
    index: float
    idle: float
    rollout: float


def paper(costs: Costs, degree: int, nodes: int, keys: int = 2000) -> Paper:
    """A node of a cluster of that size. Rollout: each node gets 10 layers within 60 s."""
    links = min(nodes - 1, degree)
    met = nodes - 1  # each address is dialled back once
    join = (links + met) * costs.connection + nodes * (costs.frame + costs.heard)
    idle = 4 * 2 * costs.frame / 10  # PING and PONG, both ways, twice a second
    changes = nodes * 10 / 60  # a second; above the degree they travel together, 10 times a second to 10 links
    frames = changes if nodes - 1 <= degree else min(changes, 10.0) * 10 * 2
    rollout = (frames * costs.frame + changes * costs.heard) / 10
    return Paper(nodes, links, join / 1000, nodes * keys * 8 / 2**20, nodes * keys * 24 / 2**20, idle, rollout)


SIZES = (100, 1000, 5000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--degree", type=int, default=64)
    given = parser.parse_args()
    costs = primitives.measure()
    print(costs)
    for nodes in SIZES:
        print(paper(costs, given.degree, nodes))
    for name, value in asdict(simulate(given.nodes, given.keys, given.degree)).items():
        print(f"  {name}: {value:.4g}")


if __name__ == "__main__":
    main()
