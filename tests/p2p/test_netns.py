"""Real nodes in network namespaces: what only a network can do to them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.netns import Place, places
from tests.kit.process import Node, Setup
from tests.kit.waiting import NOISE, eventually
from tests.p2p.swarm import router_pid

pytestmark = [pytest.mark.needs("root", "ip", "nft"), pytest.mark.timeout(120)]

STARTED = 60.0


class Net:
    """Nodes by number, each in a namespace of its own. They are looked at from inside their namespaces."""

    def __init__(self, root: Path, stack: contextlib.ExitStack, where: list[Place]) -> None:
        self.root = root
        self.stack = stack
        self.places = where
        self.nodes: dict[int, Node] = {}

    def start(self, number: int, **flags: object) -> Node:
        place = self.places[number]
        given = {
            "bootstrap": f"{self.places[0].host}:4400", "router_addr": "0.0.0.0:4400", "node_name": f"node{number}",
            "peer_cidr": "198.18.0.0/16", **flags,
        }  # fmt: skip
        # the admin listener is on loopback, which each namespace has for itself
        setup = Setup(self.root / str(number), host="0.0.0.0", peer_port=5001, flags=given, before=place.prefix)
        self.nodes[number] = self.stack.enter_context(Node(setup))
        return self.nodes[number]

    def metric(self, number: int, name: str) -> int:
        port = self.nodes[number].admin[1]
        shown = self.places[number].run("curl", "-s", f"http://127.0.0.1:{port}/metrics", check=False).stdout
        for line in shown.splitlines():
            if line.startswith(f"fastmirror_router_{name} "):
                return int(float(line.split()[1]))
        return -1

    def live(self, number: int) -> int:
        return self.metric(number, 'nodes{state="live"}')

    def wait_losses(self, count: int, *numbers: int) -> None:
        """Until these nodes have found others gone that many times, however short the others were away."""
        for number in numbers:
            eventually(lambda n=number: self.metric(n, "losses_total") >= count, f"node {number} saw it go", 10, 0.05)

    def wait(self, counts: dict[int, int], what: str, seconds: float) -> float:
        began = time.monotonic()
        for number, count in counts.items():
            eventually(lambda n=number, c=count: self.live(n) == c, f"{what}: node {number}", seconds, 0.05)
        return time.monotonic() - began

    def isolate(self, *numbers: int, others: tuple[int, ...]) -> None:
        """From now on packets between these and the others vanish without a word."""
        for number in numbers:
            self.places[number].run(
                "nft",
                "add table ip cut; add chain ip cut in { type filter hook input priority 0; };"
                "add chain ip cut out { type filter hook output priority 0; };",
            )
            for other in others:
                host = self.places[other].host
                rule = f"add rule ip cut in ip saddr {host} drop; add rule ip cut out ip daddr {host} drop;"
                self.places[number].run("nft", rule)

    def heal(self, *numbers: int) -> None:
        for number in numbers:
            self.places[number].run("nft", "delete table ip cut")


@pytest.fixture
def net(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Net]:
    with places(request.param) as where, contextlib.ExitStack() as stack:
        made = Net(tmp_path, stack, where)
        for number in range(request.param):
            made.start(number)
        made.wait(dict.fromkeys(range(request.param), request.param - 1), "all are joined", STARTED)
        yield made


@pytest.mark.parametrize("net", [3], indirect=True)
def test_a_black_holed_node_is_gone_within_4_s_and_comes_back(net):
    net.isolate(1, others=(0, 2))
    assert net.wait({0: 1, 2: 1}, "the black hole is noticed", 20) < 4 + 0.2 * NOISE
    net.wait({1: 0}, "the node itself sees nobody", 20)
    net.heal(1)
    net.wait({0: 2, 1: 2, 2: 2}, "all are back", 15)


@pytest.mark.parametrize("net", [4], indirect=True)
def test_a_partition_heals_within_15_s(net):
    net.isolate(0, 1, others=(2, 3))
    net.wait(dict.fromkeys(range(4), 1), "each half sees itself only", 20)
    healed = time.monotonic() + 10
    eventually(lambda: time.monotonic() > healed, "a partition lasts", 20, 0.5)
    net.heal(0, 1)
    assert net.wait(dict.fromkeys(range(4), 3), "both halves are one again", 30) < 15


@pytest.mark.parametrize("net", [3], indirect=True)
def test_a_node_whose_power_goes_off_is_gone_within_4_s(net):
    net.isolate(1, others=(0, 2))  # no FIN gets out
    net.nodes[1].kill()
    assert net.wait({0: 1, 2: 1}, "the death is noticed", 20) < 4 + 0.2 * NOISE


@pytest.mark.parametrize("net", [3], indirect=True)
def test_a_restarted_node_is_back_at_once(net):
    net.nodes[2].kill()
    net.wait_losses(1, 0, 1)
    net.start(2)
    net.wait(dict.fromkeys(range(3), 2), "it is back", STARTED)


@pytest.mark.parametrize("net", [2], indirect=True)
def test_the_router_process_dies_and_the_others_see_it_come_back(net):
    pid = router_pid(net.nodes[1])
    os.kill(pid, signal.SIGKILL)
    net.wait_losses(1, 0)
    net.wait({0: 1, 1: 1}, "it is back", STARTED)


def test_a_node_with_both_families_is_found_and_serves_over_either(tmp_path):
    with places(3) as where, contextlib.ExitStack() as stack:
        for number, place in enumerate(where):
            place.run("ip", "addr", "add", f"fd00:f5::{number + 1}/64", "dev", "eth0", "nodad")
        net = Net(tmp_path, stack, where)
        both, four, six = "198.18.0.0/16,fd00:f5::/64", "198.18.0.0/16", "fd00:f5::/64"
        net.start(0, router_addr="[::]:4400", peer_addr="[::]:5001", peer_cidr=both)
        net.start(1, router_addr="0.0.0.0:4400", peer_addr="0.0.0.0:5001", peer_cidr=four)
        net.start(2, bootstrap="[fd00:f5::1]:4400", router_addr="[::]:4400", peer_addr="[::]:5001", peer_cidr=six)
        net.wait({0: 2, 1: 1, 2: 1}, "each is met where it can be", STARTED)
        where[1].run("curl", "-sf", f"http://{where[0].host}:5001/v2/")
        where[2].run("curl", "-sf", "http://[fd00:f5::1]:5001/v2/")


def test_a_node_is_met_at_another_address_where_its_first_does_not_answer(tmp_path):
    with places(2) as where, contextlib.ExitStack() as stack:
        for number, place in enumerate(where):
            place.run("ip", "addr", "add", f"198.18.0.{number + 101}/24", "dev", "eth0")
            place.run("nft", "add table ip faults; add chain ip faults input { type filter hook input priority 0; }")
            place.run("nft", f"add rule ip faults input ip daddr {place.host} tcp dport 4400 drop")
        net = Net(tmp_path, stack, where)
        for number in range(2):
            net.start(number, bootstrap="198.18.0.101:4400")
        net.wait({0: 1, 1: 1}, "both are joined", STARTED)
