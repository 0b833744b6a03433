"""containerd itself is restarted, frozen or away, and content is collected, while others pull what it has."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.cluster import free_port
from tests.kit.containerd import Containerd, Generation, containerd, write_hosts
from tests.kit.images import Image
from tests.kit.origin import Origin
from tests.kit.pair import Pair, Two, pair
from tests.kit.process import Node, Setup
from tests.kit.waiting import NOISE, eventually
from tests.kit.wire import ask

Make = Callable[..., Image]
CLIENTS = ("ctr", "cri")


@pytest.fixture(scope="module")
def puller(generation: Generation) -> Iterator[Containerd]:
    with containerd(generation) as running:
        yield running


@pytest.fixture
def nodes(node: Containerd, puller: Containerd, source: Origin) -> Iterator[Pair]:
    """The holder's containerd is the test's own: it may be ended."""
    with Two(node, puller) as both, pair(source, both, flags={"lookup_timeout": "3s"}) as made:
        yield made


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("how", ["frozen", "killed", "restarted", "its socket missing"])
def test_what_a_node_has_is_pulled_whatever_its_containerd_does(
    nodes: Pair, fresh_image: Make, client: str, how: str
) -> None:
    image = fresh_image()
    nodes.hold(image)
    nodes.origin.off()
    if how == "frozen":
        nodes.holder.freeze()
    elif how == "its socket missing":
        nodes.holder.socket.unlink()
    else:
        nodes.holder.stop(signal.SIGKILL if how == "killed" else signal.SIGTERM)
        if how == "restarted":
            nodes.holder.start()
    pulled = nodes.pull(client, image)
    assert pulled, pulled
    assert nodes.theirs is not None
    assert nodes.theirs.log.problems() == []


def test_a_mirror_that_starts_while_containerd_is_frozen_serves_soon_and_is_not_ready_yet(
    nodes: Pair, fresh_image: Make
) -> None:
    image = fresh_image()
    nodes.hold(image)
    nodes.holder.freeze()
    store = f"containerd:{nodes.holder.socket},content={nodes.holder.content}"
    with Node(Setup(store)) as late:
        target = f"/v2/t/app/blobs/{image.digest}"
        eventually(lambda: late.ask("GET", target).status == 200, "it serves by digest")
        assert ask(late.admin, "GET", "/readyz").status == 503
        nodes.holder.thaw()
        eventually(lambda: ask(late.admin, "GET", "/readyz").status == 200, "it is ready")


def test_an_answer_does_not_wait_for_a_frozen_containerd(nodes: Pair, fresh_image: Make) -> None:
    image = fresh_image()
    nodes.hold(image)
    nodes.holder.freeze()
    assert nodes.theirs is not None
    for digest, content in image.blobs.items():
        answer = ask(nodes.theirs.registry, "GET", f"/v2/t/app/blobs/{digest}")
        assert answer.body == content
        assert answer.seconds < 0.050 * NOISE


@pytest.mark.parametrize("client", CLIENTS)
def test_an_image_is_collected_on_the_node_that_sends_it(nodes: Pair, fresh_image: Make, client: str) -> None:
    """What is being sent is sent to its end; what was not begun comes from the origin."""
    image = fresh_image(sizes=(20_000, 40_000_000))
    nodes.hold(image)
    with nodes.puller.pulling(client, image.name) as pulling:
        nodes.holder.remove(image.name)
        pulled = pulling.wait()
    assert pulled, pulled
    nodes.check(image)


def test_files_alone_are_served_without_rights_and_without_a_socket(
    node: Containerd, source: Origin, fresh_image: Make
) -> None:
    """content:DIR needs read access to the content directory and nothing else: a nobody without capabilities."""
    image = fresh_image()
    image.write(source.layout)
    write_hosts(node, "registry.test", [], source.url)
    assert node.pull("ctr", image.name)
    node.stop()
    for directory in (node.directory, node.root):  # as a mount of the inner directory would have it
        directory.chmod(0o711)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    port = free_port("127.0.0.1")
    with Node(Setup(f"content:{node.content}", before=[*nobody, "--no-new-privs"], registry_port=port)) as mirror:
        assert stat.S_IMODE(os.stat(node.content / "blobs").st_mode) == 0o755
        status = Path(f"/proc/{mirror.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "Uid:\t65534" in status
        for digest, content in image.blobs.items():
            answer = mirror.ask("GET", f"/v2/any/name/blobs/{digest}")
            assert (answer.status, answer.body) == (200, content)
        manifest = mirror.ask("GET", f"/v2/any/name/manifests/{image.digest}")
        assert manifest.headers["content-type"] == "application/vnd.oci.image.index.v1+json"
        assert mirror.ask("GET", "/v2/t/app/manifests/1?ns=registry.test").status == 404
        assert ask(mirror.admin, "GET", "/readyz").status == 200
