"""The node's own mirror dies, hangs or restarts while containerd pulls: no pull fails because of it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kit.containerd import Containerd, Generation, Pulled, Pulling, containerd
from tests.kit.faults import Plan, on_get, stall
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.images import Image
from tests.kit.origin import Origin
from tests.kit.pair import Pair, pair
from tests.kit.waiting import eventually

Make = Callable[..., Image]
CLIENTS = ("ctr", "cri")
BIG = (20_000, 12_000_000)


@pytest.fixture(scope="module")
def containerds(generation: Generation) -> Iterator[tuple[Containerd, Containerd]]:
    with containerd(generation) as holder, containerd(generation) as puller:
        yield holder, puller


@pytest.fixture
def nodes(containerds: tuple[Containerd, Containerd], source: Origin) -> Iterator[Pair]:
    with pair(source, *containerds) as made:
        yield made


@pytest.mark.parametrize("client", CLIENTS)
def test_a_mirror_that_is_not_running_costs_nothing(nodes: Pair, fresh_image: Make, client: str) -> None:
    image = fresh_image()
    nodes.publish(image)
    assert nodes.ours is not None
    nodes.ours.stop()
    pulled = nodes.pull(client, image)
    assert pulled, pulled
    assert nodes.from_origin() == sum(map(len, image.blobs.values()))


def recovered(nodes: Pair) -> None:
    """The supervised mirror serves again, and its log says why it had to."""
    ours = nodes.ours
    assert ours is not None
    ours.expected |= {"supervisor.process_died", "supervisor.process_stuck"}
    eventually(lambda: [event["event"] for event in ours.log.events()].count("daemon.serving") == 2, "it serves again")


class Halfway:
    """A pull that is in the middle of its large layer: the only peer has sent 5 MB of it and is silent then.

    (Up to 8 MiB would be held back until they are verified as a whole.)
    """

    def __init__(self, nodes: Pair, peer: FaultyPeer, image: Image) -> None:
        self.nodes, self.peer, self.image = nodes, peer, image

    def wait(self, pulling: Pulling) -> None:
        """Until the large layer is on its way."""
        large = list(self.image.blobs)[4]
        try:
            eventually(lambda: self.peer.gets(large), "the large layer is on its way")
        except AssertionError:
            asked = [(seen.method, seen.target[-30:], seen.start) for seen in self.peer.requests]
            said = f"peer: {asked}\norigin: {self.nodes.origin.asked()}\npull: {pulling.running}"
            raise AssertionError(said) from None

    def check(self, pulled: Pulled) -> None:
        assert pulled, pulled
        self.nodes.check(self.image)


def _half_of(large: str) -> Plan:
    return lambda seen: stall(5_000_000) if seen.method == "GET" and seen.reference == large else None


@pytest.fixture
def halfway(
    containerds: tuple[Containerd, Containerd], source: Origin, fresh_image: Make
) -> Iterator[Callable[..., Halfway]]:
    with contextlib.ExitStack() as stack:

        def begin(*, supervise: bool = False, **more: Any) -> Halfway:
            image = fresh_image(sizes=BIG)
            image.write(source.layout)
            peer = stack.enter_context(FaultyPeer(image.blobs.values(), _half_of(list(image.blobs)[4])))
            # No stall deadline before the test has done its deed.
            flags = {
                "stall_timeout": "20s",
                "first_byte_timeout": "20s",
                "min_rate": "1",
                "lookup_timeout": "3s",
                **more,
            }
            nodes = stack.enter_context(pair(source, *containerds, peers=[str(peer)], flags=flags, supervise=supervise))
            return Halfway(nodes, peer, image)

        yield begin


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGTERM])
def test_a_mirror_that_dies_in_mid_pull(halfway: Callable[..., Halfway], client: str, how: signal.Signals) -> None:
    """SIGABRT is what a defect in native code ends in. SIGTERM gives running transfers their drain time first."""
    half = halfway(drain_timeout="1s")
    nodes = half.nodes
    assert nodes.ours is not None
    with nodes.puller.pulling(client, half.image.name) as pulling:
        half.wait(pulling)
        assert pulling.running
        nodes.ours.signal(how)
        nodes.ours.wait()
        half.check(pulling.wait())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_mirror_that_is_restarted_in_mid_pull(halfway: Callable[..., Halfway], client: str) -> None:
    half = halfway()
    nodes = half.nodes
    assert nodes.ours is not None
    with nodes.puller.pulling(client, half.image.name) as pulling:
        half.wait(pulling)
        nodes.ours.kill()
        half.peer.plan = on_get(None)
        nodes.start_ours()
        half.check(pulling.wait())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.timeout(120)
def test_a_mirror_that_is_stuck_when_the_pull_begins(
    containerds: tuple[Containerd, Containerd], source: Origin, fresh_image: Make, client: str
) -> None:
    """containerd before 2.3 would wait for ever: the supervisor ends that."""
    image = fresh_image()
    with pair(source, *containerds, supervise=True) as nodes:
        nodes.hold(image)
        assert nodes.ours is not None
        child = nodes.ours.child
        assert child is not None
        os.kill(child, signal.SIGSTOP)
        pulled = nodes.pull(client, image)
        assert pulled, pulled
        recovered(nodes)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.timeout(120)
def test_a_mirror_that_gets_stuck_in_mid_pull(halfway: Callable[..., Halfway], client: str) -> None:
    half = halfway(supervise=True)
    nodes = half.nodes
    assert nodes.ours is not None
    with nodes.puller.pulling(client, half.image.name) as pulling:
        half.wait(pulling)
        child = nodes.ours.child
        assert child is not None
        os.kill(child, signal.SIGSTOP)
        half.peer.plan = on_get(None)
        half.check(pulling.wait())
    recovered(nodes)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGABRT])
def test_a_supervised_mirror_that_dies_in_mid_pull(
    halfway: Callable[..., Halfway], client: str, how: signal.Signals
) -> None:
    half = halfway(supervise=True)
    nodes = half.nodes
    assert nodes.ours is not None
    with nodes.puller.pulling(client, half.image.name) as pulling:
        half.wait(pulling)
        child = nodes.ours.child
        assert child is not None
        half.peer.plan = on_get(None)
        os.kill(child, how)
        half.check(pulling.wait())
    recovered(nodes)
