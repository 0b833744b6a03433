"""Peers break in the middle of a layer while a real containerd pulls it: the pull goes on, and no byte is wrong."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit import faults
from tests.kit.faults import Fault, Plan, on_get
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.images import Image, make_image
from tests.kit.layout import Layout
from tests.kit.origin import Origin
from tests.kit.pair import Pair, Two, pair
from tests.kit.process import Node, Setup

Make = Callable[..., Image]
CLIENTS = ("ctr", "cri")
SMALL, LARGE = 1_000_000, 3_500_000  # below and above what is verified as a whole before its first byte goes out
HALF = 1_300_000
FLAGS = {"lookup_timeout": "3s", "whole_bytes": 1 << 20}

FAULTS: dict[str, Fault] = {
    "killed": faults.truncate(HALF),
    "reset": faults.reset(HALF),
    "stalled": faults.stall(HALF),
    "silent": faults.silent(),
    "half a status line": faults.half_status(),
    "too short": faults.wrong_length(-1000),
    "too long": faults.wrong_length(1000),
    "shorter than promised": faults.promised_length(1000),
    "nothing after the head": faults.truncate(0),
    "500": faults.status(500),
    "404 after it announced": faults.status(404),
    "redirect": faults.redirect("http://127.0.0.1:9/"),
    "lying at the end": faults.corrupt(-1),
    "garbage": faults.garbage(),
    "dripping": faults.drip(1000, 0.2),
}


NEEDS_THE_ORIGIN = {"lying at the end"}
"""What was passed on of a layer that turned out wrong cannot be vouched for: the last part comes from the next host."""


def of(digest: str, fault: Fault) -> Plan:
    """Break the answers to GETs of this content only."""
    return lambda seen: fault if seen.method == "GET" and seen.reference == digest else None


@pytest.fixture
def broken(both: Two, source: Origin) -> Iterator[Callable[..., Pair]]:
    """Two nodes, and a peer that the puller's mirror finds first and that breaks one layer's answers."""
    with contextlib.ExitStack() as stack:

        def begin(
            image: Image, plan: Plan, *, listening: bool = True, held: bool = False, also: Image | None = None
        ) -> Pair:
            images = [image, also] if also else [image]
            contents = [content for image in images for content in image.blobs.values()]
            peer = stack.enter_context(FaultyPeer(contents, plan, listening=listening))
            nodes = stack.enter_context(pair(source, both, peers=[str(peer)], flags=FLAGS))
            for image in images:
                (nodes.hold if held else nodes.publish)(image)
            return nodes

        yield begin


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_good_peer_goes_on_where_a_bad_one_broke(
    broken: Callable[..., Pair], fresh_image: Make, client: str, fault: str
) -> None:
    image = fresh_image(sizes=(20_000, LARGE))
    nodes = broken(image, of(list(image.blobs)[4], FAULTS[fault]), held=True)
    if fault not in NEEDS_THE_ORIGIN:
        nodes.origin.off()
    pulled = nodes.pull(client, image)
    assert pulled, pulled
    assert pulled.seconds < 30


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"dripping"}))
def test_the_origin_goes_on_where_the_only_peer_broke(
    broken: Callable[..., Pair], fresh_image: Make, client: str, fault: str
) -> None:
    image = fresh_image(sizes=(20_000, LARGE))
    large = list(image.blobs)[4]
    nodes = broken(image, of(large, FAULTS[fault]))
    pulled = nodes.pull(client, image)
    assert pulled, pulled
    assert pulled.seconds < 30
    if fault not in NEEDS_THE_ORIGIN:  # a liar is asked for nothing more
        assert {asked.reference for asked in nodes.origin.asked() if asked.sent} <= {large}
    if fault == "stalled":  # containerd goes on at the byte where the mirror had to end
        (rest,) = [asked for asked in nodes.origin.asked() if asked.sent]
        assert 0 < rest.start <= HALF
        assert rest.start + rest.sent == len(image.blobs[large])


def test_the_origin_goes_on_where_the_only_peer_drips(broken: Callable[..., Pair], fresh_image: Make) -> None:
    """It takes the mirror five seconds to be sure, so both clients pull at once."""
    image, other = fresh_image(sizes=(20_000, LARGE)), fresh_image(sizes=(20_000, LARGE))
    slow = {list(image.blobs)[4], list(other.blobs)[4]}
    drip = FAULTS["dripping"]
    nodes = broken(image, lambda seen: drip if seen.method == "GET" and seen.reference in slow else None, also=other)
    with nodes.puller.pulling("ctr", image.name) as one, nodes.puller.pulling("cri", other.name) as two:
        for pulling, what in ((one, image), (two, other)):
            pulled = pulling.wait()
            assert pulled, pulled
            assert pulled.seconds < 30
            nodes.check(what)
    assert {asked.reference for asked in nodes.origin.asked() if asked.sent} <= slow


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("at", [0, SMALL // 2, -1])
def test_not_one_wrong_byte_of_a_small_layer_is_passed_on(
    broken: Callable[..., Pair], fresh_image: Make, client: str, at: int
) -> None:
    image = fresh_image(sizes=(20_000, SMALL))
    nodes = broken(image, of(list(image.blobs)[4], faults.corrupt(at)))
    pulled = nodes.pull(client, image)
    assert pulled, pulled


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_not_one_wrong_byte_of_an_index_a_manifest_or_a_config_is_passed_on(
    broken: Callable[..., Pair], fresh_image: Make, client: str, which: int
) -> None:
    image = fresh_image()
    nodes = broken(image, of(list(image.blobs)[which], faults.corrupt(40)))
    pulled = nodes.pull(client, image)
    assert pulled, pulled


@pytest.mark.parametrize("client", CLIENTS)
def test_a_peer_that_refuses_connections_costs_nothing(
    broken: Callable[..., Pair], fresh_image: Make, client: str
) -> None:
    image = fresh_image()
    nodes = broken(image, on_get(None), listening=False, held=True)
    nodes.origin.off()
    pulled = nodes.pull(client, image)
    assert pulled, pulled


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_only_holders_mirror_is_dead_or_frozen(
    both: Two, source: Origin, fresh_image: Make, client: str, how: signal.Signals
) -> None:
    image = fresh_image()
    with Two(both.holder, both.puller) as own, pair(source, own, flags=FLAGS) as nodes:
        nodes.hold(image)
        assert nodes.theirs is not None
        nodes.theirs.signal(how)
        pulled = nodes.pull(client, image)
        assert pulled, pulled
        if how is signal.SIGSTOP:
            nodes.theirs.thaw()
        else:
            nodes.theirs.wait()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_tag_on_which_peers_do_not_agree_is_left_to_the_origin(
    both: Two, source: Origin, fresh_image: Make, tmp_path: Path, client: str
) -> None:
    image = fresh_image()
    other = make_image(image.name, seed="another image of the same name")
    layout = Layout(tmp_path / "other")
    other.write(layout)
    with Node(Setup(layout.directory)) as liar:
        address = f"{liar.peer[0]}:{liar.peer[1]}"
        with pair(source, both, peers=[address], flags=FLAGS) as nodes:
            nodes.hold(image)
            pulled = nodes.pull(client, image)
            assert pulled, pulled
            assert [asked.method for asked in nodes.origin.asked()] == ["HEAD"]
