"""Pulls through real containerds and real mirrors, when all is well."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.containerd import Generation, containerd, write_hosts
from tests.kit.images import Image, make_image
from tests.kit.layout import Layout
from tests.kit.netns import places
from tests.kit.origin import Origin, origin
from tests.kit.pair import Pair, Two, pair
from tests.kit.process import Node, Setup
from tests.kit.waiting import eventually
from tests.kit.wire import ask

Make = Callable[..., Image]
CLIENTS = ("ctr", "cri")


@pytest.mark.needs("curl")
def test_two_nodes_in_namespaces_and_the_origin_off(generation: Generation, fresh_image: Make, tmp_path: Path) -> None:
    """The first slice: each containerd, mirror and registry in a network of its own."""
    image = fresh_image()
    layout = Layout(tmp_path / "origin")
    image.write(layout)
    with contextlib.ExitStack() as stack:
        first, second, third = stack.enter_context(places(3))
        registry = stack.enter_context(origin(layout, third.host, 5000, tmp_path / "log", third.prefix))
        nodes = []
        for here, other in ((first, second), (second, first)):
            node = stack.enter_context(containerd(generation, prefix=here.prefix))
            write_hosts(node, "registry.test", ["http://127.0.0.1:5000"], registry.url)
            setup = Setup(
                f"containerd:{node.socket}",
                host="0.0.0.0",
                registry_port=5000,
                peer_port=5001,
                peers=[f"{other.host}:5001"],
                flags={"resolve_tags": "true", "lookup_timeout": "3s"},
                before=here.prefix,
            )
            stack.enter_context(Node(setup))
            nodes.append(node)
        pulled = nodes[0].pull("ctr", image.name)
        assert pulled, pulled
        url = f"http://127.0.0.1:5000/v2/{image.name.partition('/')[2].replace(':', '/manifests/')}?ns=registry.test"
        eventually(lambda: first.run("curl", "-sfI", url, check=False).returncode == 0, "its mirror knows the tag")
        registry.off()
        for client in CLIENTS:
            pulled = nodes[1].pull(client, image.name)
            assert pulled, pulled
            assert nodes[1].has(image.blobs)
            nodes[1].remove(image.name)
            eventually(lambda: not nodes[1].has(image.blobs), "the image is gone")


@pytest.mark.parametrize("client", CLIENTS)
def test_an_image_that_a_peer_has_comes_from_it_with_the_origin_off(
    nodes: Pair, fresh_image: Make, client: str
) -> None:
    image = fresh_image(sizes=(20_000, 12_000_000))
    nodes.hold(image)
    nodes.origin.off()
    pulled = nodes.pull(client, image)
    assert pulled, pulled
    assert nodes.from_origin() == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_an_image_that_a_peer_has_costs_the_origin_no_body(nodes: Pair, fresh_image: Make, client: str) -> None:
    image = fresh_image()
    nodes.hold(image)
    pulled = nodes.pull(client, image)
    assert pulled, pulled
    assert nodes.from_origin() == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_an_image_that_nobody_has_comes_from_the_origin(nodes: Pair, fresh_image: Make, client: str) -> None:
    image = fresh_image()
    nodes.publish(image)
    pulled = nodes.pull(client, image)
    assert pulled, pulled
    assert nodes.from_origin() == sum(map(len, image.blobs.values()))


@pytest.mark.parametrize("client", CLIENTS)
def test_an_image_that_is_here_is_pulled_again(nodes: Pair, fresh_image: Make, client: str) -> None:
    image = fresh_image()
    nodes.publish(image)
    assert nodes.pull(client, image)
    eventually(lambda: nodes.knows(image), "the mirror knows the tag")
    nodes.origin.off()
    nodes.origin.forget()
    pulled = nodes.pull(client, image)
    assert pulled, pulled
    assert nodes.from_origin() == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_an_image_that_was_removed_is_pulled_again(nodes: Pair, fresh_image: Make, client: str) -> None:
    image = fresh_image()
    nodes.hold(image)
    for _ in range(2):
        pulled = nodes.pull(client, image)
        assert pulled, pulled
        nodes.puller.remove(image.name)
        eventually(lambda: not nodes.puller.path(image.digest).exists(), "the image is gone")
    assert nodes.from_origin() == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_tags_go_to_the_origin_and_digests_to_the_mirror_by_default(
    both: Two, source: Origin, fresh_image: Make, client: str
) -> None:
    image = fresh_image()
    with pair(source, both, tags=False, flags={"lookup_timeout": "3s"}) as nodes:
        nodes.hold(image)
        pulled = nodes.pull(client, image)
        assert pulled, pulled
        assert nodes.from_origin() == 0
        assert {asked.method for asked in nodes.origin.asked()} == {"HEAD"}


@pytest.mark.parametrize("client", CLIENTS)
def test_one_layer_that_no_peer_has_comes_from_the_origin_and_the_others_do_not(
    nodes: Pair, fresh_image: Make, client: str
) -> None:
    image = fresh_image(sizes=(20_000, 300_000, 400_000))
    nodes.hold(image)
    lost = list(image.blobs)[4]
    nodes.holder.path(lost).unlink()
    pulled = nodes.pull(client, image)
    assert pulled, pulled
    assert [asked.reference for asked in nodes.origin.asked() if asked.sent] == [lost]


def test_content_of_a_denied_registry_with_a_port_is_not_served(both: Two, source: Origin) -> None:
    """containerd's labels name the registry without its port, its image with it."""
    image = make_image("registry.test:5000/t/denied:1", seed="denied")
    image.write(source.layout)
    write_hosts(both.holder, "registry.test:5000", [], source.url)
    pulled = both.holder.pull("ctr", image.name)
    assert pulled, pulled
    targets = [f"/v2/t/denied/blobs/{digest}" for digest in image.blobs]
    with Node(Setup(f"containerd:{both.holder.socket}", flags={"deny": "registry.test:5000"})) as denying:
        mirror = both.mirror()
        eventually(lambda: {ask(mirror.peer, "HEAD", target).status for target in targets} == {200}, "others serve it")
        eventually(lambda: ask(denying.admin, "GET", "/readyz").status == 200, "it knows all names")
        assert {ask(denying.peer, "HEAD", target).status for target in targets} == {404}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_second_pull_of_the_same_image_at_once(nodes: Pair, fresh_image: Make, client: str) -> None:
    image = fresh_image(sizes=(20_000, 12_000_000))
    nodes.hold(image)
    with nodes.puller.pulling(client, image.name) as one, nodes.puller.pulling(client, image.name) as two:
        for pulled in (one.wait(), two.wait()):
            assert pulled, pulled
    nodes.check(image)
    assert nodes.from_origin() == 0
