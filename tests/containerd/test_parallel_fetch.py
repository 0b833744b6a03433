"""containerd's own parallel fetch (2.1 and later, off by default): open-ended ranges, each left early."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.kit import faults
from tests.kit.containerd import Generation, at_least
from tests.kit.faults import Fault
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.images import Image
from tests.kit.metrics import metric
from tests.kit.origin import Origin
from tests.kit.pair import Two, pair, two

Make = Callable[..., Image]
CLIENTS = ("ctr", "cri")
SIZES = (20_000, 24_000_000)
FOUR_PIECES = (20_000, 13_000_000)
BUFFER = 4 << 20
SETTINGS = f"""[plugins.'io.containerd.transfer.v1.local']
concurrent_layer_fetch_buffer = {BUFFER}
max_concurrent_downloads = 3
"""


@pytest.fixture(scope="module", params=at_least(2, 1), ids=str)
def both(request: pytest.FixtureRequest) -> Iterator[Two]:
    generation: Generation = request.param
    with two(generation, settings=SETTINGS) as running:
        yield running


def ranges(origin: Origin, digest: str) -> list[int]:
    """Where the requests for this content began."""
    return [asked.start for asked in origin.asked() if asked.reference == digest]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_layer_in_pieces_from_a_peer(both: Two, source: Origin, fresh_image: Make, client: str) -> None:
    image = fresh_image(sizes=SIZES)
    with pair(source, both, flags={"lookup_timeout": "3s"}) as nodes:
        nodes.hold(image)
        nodes.origin.off()
        pulled = nodes.pull(client, image)
        assert pulled, pulled
        assert nodes.from_origin() == 0
        assert nodes.ours is not None
        assert nodes.ours.log.problems() == []


@pytest.mark.parametrize("client", CLIENTS)
def test_the_setting_is_in_force(both: Two, source: Origin, fresh_image: Make, client: str) -> None:
    image = fresh_image(sizes=SIZES)
    with pair(source, both, flags={"lookup_timeout": "3s"}) as nodes:
        nodes.publish(image)
        assert nodes.ours is not None
        nodes.ours.stop()
        pulled = nodes.pull(client, image)
        assert pulled, pulled
        assert len(ranges(nodes.origin, list(image.blobs)[4])) > 3


@pytest.mark.parametrize("client", CLIENTS)
def test_pieces_that_are_left_early_do_not_cost_much_more_than_the_layer(
    both: Two, source: Origin, fresh_image: Make, client: str
) -> None:
    image = fresh_image(sizes=SIZES)
    with pair(source, both, flags={"lookup_timeout": "3s"}) as nodes:
        nodes.hold(image)
        pulled = nodes.pull(client, image)
        assert pulled, pulled
        assert nodes.ours is not None
        sent = metric(nodes.ours, "fastmirror_pull_bytes_total", source="peers")
        assert sent < 1.5 * sum(map(len, image.blobs.values()))


FAULTS: dict[str, Fault] = {
    "killed": faults.truncate(5_500_000),
    "reset": faults.reset(5_500_000),
    "stalled": faults.stall(5_500_000),
    "lying at the end": faults.corrupt(-1),
    "shorter than promised": faults.promised_length(1000),
    "500": faults.status(500),
}


@pytest.mark.parametrize("held", [True, False], ids=["a good peer", "no other peer"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_peer_breaks_in_the_middle_of_the_pieces(
    both: Two,
    source: Origin,
    fresh_image: Make,
    *,
    client: str,
    fault: str,
    held: bool,
) -> None:
    image = fresh_image(sizes=FOUR_PIECES)
    large = list(image.blobs)[4]
    with contextlib.ExitStack() as stack:
        peer = FaultyPeer(
            image.blobs.values(),
            lambda seen: FAULTS[fault] if seen.method == "GET" and seen.reference == large else None,
        )
        stack.enter_context(peer)
        flags = {"lookup_timeout": "3s"}
        nodes = stack.enter_context(pair(source, both, peers=[str(peer)], flags=flags))
        if held:
            nodes.hold(image)
        else:
            nodes.publish(image)
        pulled = nodes.pull(client, image)
        assert pulled, pulled
        assert pulled.seconds < 30
