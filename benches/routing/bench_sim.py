"""A thousand nodes and more: the real state machines in virtual time, and what they cost on paper.

``python -m benches.routing.bench_sim [--nodes 1000] [--keys 20] [--degree 64]``: joins that many nodes (no real
network, no real signatures), then changes one, kills one, freezes one. Seconds are virtual; frames and bytes are
counted. The paper figures multiply counts by the cost of a frame and of a connection (``--frame-ms, --connection-ms``):
0.15 ms to send or to receive one, 12 ms for a handshake at each end, both measured with py-libp2p 0.8.1 on the machine
of ``bench_cluster``.
"""

from __future__ import annotations

import argparse
import time

from tests.kit.inventory_sim import Sim, keys_of


def simulate(count: int, keys: int, degree: int) -> None:
    sim = Sim(1, degree)
    for number in range(count):
        sim.start(number, keys_of(number, keys))
    real = time.monotonic()
    for number in range(1, count):
        sim.join(number, sim.dice.randrange(number))
    waited = 0.0
    while len(sim.nodes[0].offered) < count - 1 or sim.wrong():
        sim.run(1.0)
        waited += 1.0
        print(
            f"  {waited:.0f} s: node 0 knows {len(sim.nodes[0].offered)}; {time.monotonic() - real:.0f} s real",
            flush=True,
        )
    print(f"{count} nodes x {keys} keys, degree {degree}: all known after {waited:.0f} s (virtual)")
    links = [len(node.inventory.links) for node in sim.nodes.values()]
    frames = sum(node.sent for node in sim.nodes.values()) / count
    sent = sum(node.sent_bytes for node in sim.nodes.values()) / count
    print(f"  a node: {min(links)} to {max(links)} links, {frames:.0f} frames and {sent / 2**20:.1f} MiB sent to join")
    sim.run(10)

    owner = sim.nodes[count - 1].owner
    before = sum(node.sent for node in sim.nodes.values())
    sim.change(count - 1, add={7})
    sim.run(0.0001)
    rest = list(sim.nodes.values())[:-1]
    took = sim.run_until(lambda: all(7 in node.offered[owner] for node in rest), 30)
    frames = (sum(node.sent for node in sim.nodes.values()) - before) / count
    print(f"  a new key is known everywhere after {took * 1000:.1f} ms of network delays, {frames:.1f} frames a node")

    for what, act in (("killed", sim.kill), ("frozen", sim.freeze)):
        number = count // 2 if what == "killed" else 1
        owner = sim.nodes[number].owner
        act(number)
        rest = [node for node in sim.nodes.values() if node.number != number]
        took = sim.run_until(lambda owner=owner, rest=rest: not any(owner in node.offered for node in rest), 30)
        print(f"  a {what} node is gone everywhere after {took * 1000:.0f} ms")

    before = sum(node.sent for node in sim.nodes.values())
    sim.run(10)
    print(
        f"  idle: {(sum(node.sent for node in sim.nodes.values()) - before) / 10 / count:.1f} frames a second and node"
    )


def paper(frame_ms: float, connection_ms: float, degree: int) -> None:
    costs = f"at each end {frame_ms} ms a frame, {connection_ms} ms a connection"
    print(f"On paper, 2,000 keys a node, degree {degree}; {costs}:")
    print("  nodes  links  to join: CPU s  received MiB  state MiB  index MiB  idle %  rollout % (10 layers in 60 s)")
    for nodes in (100, 1000, 5000):
        links = min(nodes - 1, degree)
        met = nodes - 1  # each address is dialled back once
        join = (links + met) * connection_ms / 1000 + nodes * frame_ms / 1000
        received = nodes * 2000 * 8 / 2**20
        index = nodes * 2000 * 24 / 2**20
        idle = 4 * 2 * frame_ms / 10  # PING and PONG, both ways, twice a second
        told = nodes * 10 / 60  # changes a second; above the degree they travel together, 10 times a second to 10 links
        rollout = (told if nodes - 1 <= degree else min(told, 10.0) * 10 * 2 + told / 3) * frame_ms / 10
        row = f"  {nodes:5}  {links:5}  {join:14.1f}  {received:12.1f}  {received:9.1f}  {index:9.1f}"
        print(f"{row}  {idle:6.2f}  {rollout:9.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--degree", type=int, default=64)
    parser.add_argument("--frame-ms", type=float, default=0.15)
    parser.add_argument("--connection-ms", type=float, default=12.0)
    given = parser.parse_args()
    paper(given.frame_ms, given.connection_ms, given.degree)
    simulate(given.nodes, given.keys, given.degree)


if __name__ == "__main__":
    main()
