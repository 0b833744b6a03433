"""The node's own mirror dies, hangs or restarts while containerd pulls: no pull fails because of it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kit.containerd import Pulled, Pulling
from tests.kit.faults import on_get, stall
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.images import Image
from tests.kit.origin import Origin
from tests.kit.pair import Pair, Two, pair
from tests.kit.waiting import eventually

Make = Callable[..., Image]
CLIENTS = ("ctr", "cri")
BIG = (20_000, 4_000_000)
HALF = 2_000_000


@pytest.fixture
def nodes(both: Two, source: Origin) -> Iterator[Pair]:
    with pair(source, both) as made:
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
    """Pulls that are in the middle of their large layer: the only peer has sent half of it and is silent then."""

    def __init__(self, nodes: Pair, peer: FaultyPeer, images: list[Image]) -> None:
        self.nodes, self.peer, self.images = nodes, peer, images

    @property
    def image(self) -> Image:
        """The first image."""
        return self.images[0]

    def wait(self, pulling: Pulling, image: Image | None = None) -> None:
        """Until the large layer is on its way."""
        large = list((image or self.image).blobs)[4]
        try:
            eventually(lambda: self.peer.gets(large), "the large layer is on its way")
        except AssertionError:
            asked = [(seen.method, seen.target[-30:], seen.start) for seen in self.peer.requests]
            said = f"peer: {asked}\norigin: {self.nodes.origin.asked()}\npull: {pulling.running}"
            raise AssertionError(said) from None
        assert pulling.running

    def go_on(self) -> None:
        """From now on the peer answers in full."""
        self.peer.plan = on_get(None)

    def check(self, pulled: Pulled, image: Image | None = None) -> None:
        assert pulled, pulled
        self.nodes.check(image or self.image)


@pytest.fixture
def halfway(both: Two, source: Origin, fresh_image: Make) -> Iterator[Callable[..., Halfway]]:
    with contextlib.ExitStack() as stack:

        def begin(*, supervise: bool = False, images: int = 1, **more: Any) -> Halfway:
            made = [fresh_image(sizes=BIG) for _ in range(images)]
            large = {list(image.blobs)[4] for image in made}
            for image in made:
                image.write(source.layout)
            contents = [content for image in made for content in image.blobs.values()]
            plan = lambda seen: stall(HALF) if seen.method == "GET" and seen.reference in large else None  # noqa: E731
            peer = stack.enter_context(FaultyPeer(contents, plan))
            # No stall deadline before the test has done its deed; what is larger than whole_bytes is passed on at once.
            flags = {
                "stall_timeout": "20s",
                "first_byte_timeout": "20s",
                "min_rate": "1",
                "lookup_timeout": "3s",
                "whole_bytes": 1 << 20,
                **more,
            }
            nodes = stack.enter_context(pair(source, both, peers=[str(peer)], flags=flags, supervise=supervise))
            return Halfway(nodes, peer, made)

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
        half.go_on()
        nodes.start_ours()
        half.check(pulling.wait())


@pytest.mark.timeout(120)
def test_a_mirror_that_gets_stuck_before_and_in_the_middle_of_pulls(halfway: Callable[..., Halfway]) -> None:
    """containerd before 2.3 would wait for ever: the supervisor ends that, for all of them in the same seconds."""
    half = halfway(supervise=True, images=4)
    nodes = half.nodes
    assert nodes.ours is not None
    child = nodes.ours.child
    assert child is not None
    with contextlib.ExitStack() as stack:
        pulls = []
        for client, image in zip(CLIENTS, half.images[:2], strict=True):
            pulls.append(stack.enter_context(nodes.puller.pulling(client, image.name)))
            half.wait(pulls[-1], image)
        os.kill(child, signal.SIGSTOP)
        pulls += [
            stack.enter_context(nodes.puller.pulling(client, image.name))
            for client, image in zip(CLIENTS, half.images[2:], strict=True)
        ]
        half.go_on()
        for pulling, image in zip(pulls, half.images, strict=True):
            half.check(pulling.wait(), image)
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
        half.go_on()
        os.kill(child, how)
        half.check(pulling.wait())
    recovered(nodes)
