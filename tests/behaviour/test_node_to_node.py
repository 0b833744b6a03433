"""What one node has, the others serve: real processes with static peers, and clients like containerd."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.behaviour.data_sets import DataSet, make
from tests.kit import faults, proc
from tests.kit.cluster import cluster
from tests.kit.content import blob
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.invariants import Witness, assert_invariants, assert_same
from tests.kit.layout import Layout, digest_of, image
from tests.kit.metrics import metric
from tests.kit.process import Node, start
from tests.kit.puller import Puller, PullFailed
from tests.kit.waiting import NOISE, eventually, let_pass
from tests.kit.wire import End, Wire, build_request

LAYER = blob(20 * 1024 * 1024, 41)
SMALL = blob(50_000, 42)
MANIFEST, BLOBS = image([LAYER, SMALL])
NAME = "registry.example/team/app:v1"
LAYER_TARGET = f"/v2/team/app/blobs/{digest_of(LAYER)}?ns=registry.example"
PATIENT = {"lookup_timeout": 2, "connect_timeout": 2, "first_byte_timeout": 2, "grace": 0.3}


class Trio:
    """Three nodes; the first has an image, the second and third have nothing."""

    def __init__(self, nodes: list[Node]) -> None:
        self.full, self.empty, self.third = nodes


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    layouts = [Layout(tmp_path_factory.mktemp(f"node{number}")) for number in range(3)]
    layouts[0].add_image(NAME, MANIFEST, BLOBS)
    for data in make():
        data.write(layouts[0])
    with cluster([layout.directory for layout in layouts], flags=PATIENT) as nodes:
        yield Trio(nodes)


def settled(node: Node) -> None:
    """Wait until nothing is being fetched and no spool is open."""
    eventually(lambda: metric(node, "fastmirror_fetches_active") == 0, "no fetch", 10)
    eventually(lambda: proc.deleted_files(node.pid) == 0, "no spool", 10)


def test_an_image_is_pulled_by_digest_on_one_node_from_another(trio: Trio) -> None:
    with Witness(trio.empty) as witness:
        puller = Puller([trio.empty.registry], "registry.example")
        assert puller.fetch("team/app", digest_of(MANIFEST), kind="manifests") == MANIFEST
        for content in BLOBS:
            assert_same(puller.fetch("team/app", digest_of(content), len(content)), content)
        assert {step.status for step in puller.steps} == {200}
        settled(trio.empty)
        assert_invariants(witness, [], b"", bound_seconds=1.0)
    assert metric(trio.empty, "fastmirror_fetched_bytes_total") >= len(LAYER)


@pytest.mark.parametrize("data", make(), ids=lambda data: data.name)
def test_every_data_set_of_the_conformance_suite_comes_through_a_peer(trio: Trio, data: DataSet) -> None:
    for media_type, content in data.manifests:
        answer = trio.empty.ask("GET", f"/v2/{data.repository}/manifests/{digest_of(content, data.algorithm)}")
        assert (answer.status, answer.headers["content-type"]) == (200, media_type)
        assert answer.body == content
    for content in data.blobs:
        target = f"/v2/{data.repository}/blobs/{digest_of(content, data.algorithm)}"
        assert trio.third.ask("GET", target).body == content
        head = trio.third.ask("HEAD", target)
        assert (head.status, head.headers["content-length"]) == (200, str(len(content)))


def test_a_range_of_a_blob_that_a_peer_has(trio: Trio) -> None:
    target = f"/v2/team/app/blobs/{digest_of(SMALL)}"
    answer = trio.third.ask("GET", target, Range="bytes=1-3")
    assert (answer.status, answer.body) == (206, SMALL[1:4])
    assert answer.headers["content-range"] == f"bytes 1-3/{len(SMALL)}"
    assert trio.third.ask("GET", target, Range=f"bytes={len(SMALL)}-").status == 416
    answer = trio.third.ask("GET", LAYER_TARGET, Range=f"bytes={len(LAYER) - 5}-")
    assert (answer.status, answer.body) == (206, LAYER[-5:])


def test_a_layer_is_fetched_in_parallel_ranges_through_a_node_with_one_peer(trio: Trio) -> None:
    puller = Puller([trio.third.registry], "registry.example")
    body = puller.fetch_parallel("team/app", digest_of(LAYER), len(LAYER), chunk=4 * 1024 * 1024)
    assert_same(body, LAYER)
    settled(trio.third)


def test_a_blob_asked_for_as_a_manifest_and_the_reverse(trio: Trio) -> None:
    assert trio.empty.ask("GET", f"/v2/team/app/manifests/{digest_of(SMALL)}").status == 404
    assert trio.empty.ask("GET", f"/v2/team/app/blobs/{digest_of(MANIFEST)}").status in (200, 404)


def test_the_peer_listener_serves_only_what_is_here(trio: Trio) -> None:
    with Wire(trio.empty.peer) as wire:
        assert wire.ask("GET", LAYER_TARGET).status == 404
    with Wire(trio.full.peer) as wire:
        assert wire.ask("HEAD", LAYER_TARGET).status == 200


def test_a_tag_is_not_taken_from_a_peer_unless_that_is_asked_for(trio: Trio) -> None:
    """containerd believes whatever digest a mirror gives for a tag."""
    assert trio.empty.ask("HEAD", "/v2/team/app/manifests/v1?ns=registry.example").status == 404
    assert trio.full.ask("HEAD", "/v2/team/app/manifests/v1?ns=registry.example").status == 200


def test_what_nobody_has_is_a_quick_404_that_is_not_passed_around(trio: Trio) -> None:
    latencies = []
    with Witness(trio.empty) as witness:
        asked = metric(trio.empty, "fastmirror_requests_total")
        for number in range(100):
            answer = trio.empty.ask("GET", f"/v2/a/blobs/{digest_of(b'absent %d' % number)}")
            assert answer.status == 404
            latencies.append(answer.seconds)
        # the only others that asked this node anything in between are the healthy client and this test
        assert metric(trio.third, "fastmirror_fetches_active") == 0
        assert asked > 0
        assert_invariants(witness, [], b"", bound_seconds=1.0)
    assert statistics.median(latencies) < 0.02 * NOISE
    assert not [event for event in trio.empty.log.events() if event["level"] in ("warning", "error")]


def test_eight_readers_of_one_blob_cost_one_transfer_between_nodes(trio: Trio) -> None:
    settled(trio.empty)
    before = metric(trio.empty, "fastmirror_fetched_bytes_total")
    with ThreadPoolExecutor(8) as pool:
        asks = [pool.submit(trio.empty.ask, "GET", LAYER_TARGET) for _ in range(8)]
        for ask in asks:
            assert_same(ask.result().body, LAYER)
    fetched = metric(trio.empty, "fastmirror_fetched_bytes_total") - before
    assert fetched < 1.5 * len(LAYER)


def test_a_client_that_leaves_lets_the_transfer_between_nodes_end_after_the_grace(trio: Trio) -> None:
    settled(trio.third)
    with Witness(trio.third) as witness:
        for _ in range(10):
            with Wire(trio.third.registry, receive_buffer=4096) as wire:
                wire.send(build_request("GET", LAYER_TARGET))
                wire.fill(1000)
                wire.reset()
        settled(trio.third)
        assert_invariants(witness, [], b"", bound_seconds=1.0)


def test_a_slow_reader_gets_true_bytes_long_after_the_fetch_was_over(trio: Trio) -> None:
    """What was handed to the socket without a copy must not be written over by a later fetch."""
    with Wire(trio.third.registry, receive_buffer=4096) as wire:
        wire.send(build_request("GET", LAYER_TARGET))
        wire.fill(1_000_000)
        others = Puller([trio.third.registry])
        for data in make():
            for content in data.blobs:
                assert others.fetch(data.repository, digest_of(content, data.algorithm), len(content)) == content
        let_pass(0.5, "the grace of a fetch without readers")
        assert_same(wire.answer().body, LAYER)
    settled(trio.third)


def test_nothing_of_a_clients_credentials_reaches_a_peer(tmp_path_factory: pytest.TempPathFactory) -> None:
    layout = Layout(tmp_path_factory.mktemp("empty"))
    secret = "canary-3f1c"
    with FaultyPeer([SMALL]) as peer, start(layout.directory, peers=[str(peer)], flags=PATIENT) as node:
        fields = {"Authorization": f"Bearer {secret}", "Cookie": secret, "X_Forwarded_For": secret}
        assert node.ask("GET", f"/v2/a/blobs/{digest_of(SMALL)}", **fields).body == SMALL
        assert peer.requests
        for seen in peer.requests:
            assert secret not in f"{seen}"
        assert secret not in "\n".join(node.log.lines)


def test_two_nodes_without_content_do_not_ask_each_other_in_circles(tmp_path_factory: pytest.TempPathFactory) -> None:
    stores = [Layout(tmp_path_factory.mktemp(f"empty{number}")).directory for number in range(2)]
    with FaultyPeer([]) as observer, cluster(stores, extra_peers=[str(observer)], flags=PATIENT) as nodes:
        assert nodes[0].ask("GET", f"/v2/a/blobs/{digest_of(b'absent')}").status == 404
        assert len([seen for seen in observer.requests if digest_of(b"absent") in seen.target]) == 1


def test_descriptors_and_memory_do_not_grow_over_many_fetches(trio: Trio) -> None:
    def round_() -> None:
        puller = Puller([trio.empty.registry], "registry.example")
        assert_same(puller.fetch("team/app", digest_of(LAYER), len(LAYER)), LAYER)
        assert puller.fetch("team/app", digest_of(SMALL), len(SMALL)) == SMALL
        assert trio.empty.ask("GET", f"/v2/a/blobs/{digest_of(b'absent')}").status == 404
        settled(trio.empty)

    for _ in range(3):
        round_()
    fds, memory = proc.fd_count(trio.empty.pid), []
    for _ in range(8):
        round_()
        memory.append(proc.rss_kib(trio.empty.pid))
        eventually(lambda: proc.fd_count(trio.empty.pid) <= fds + 2, f"descriptors back to {fds}", 5)
    slopes = [(b - a) / (j - i) for i, a in enumerate(memory) for j, b in enumerate(memory) if i < j]
    assert statistics.median(slopes) < 128, memory


def test_a_pull_goes_to_the_origin_for_what_no_node_has(trio: Trio) -> None:
    missing = blob(100_000, 77)
    with FaultyPeer([missing]) as origin:
        puller = Puller([trio.empty.registry, origin.address], "registry.example")
        assert puller.fetch("team/app", digest_of(missing), len(missing)) == missing
        assert [step.status for step in puller.steps] == [404, 200]
    with pytest.raises(PullFailed, match="no host has"):
        Puller([trio.empty.registry]).fetch("team/app", digest_of(missing))


def test_a_node_that_is_told_of_dead_peers_still_serves_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    layout = Layout(tmp_path_factory.mktemp("own"))
    layout.add(SMALL)
    with (
        FaultyPeer([], listening=False) as refusing,
        FaultyPeer([], faults.always(faults.silent())) as silent,
        start(layout.directory, peers=[str(refusing), str(silent)]) as node,
    ):
        assert node.ask("GET", f"/v2/a/blobs/{digest_of(SMALL)}").body == SMALL
        first = node.ask("GET", f"/v2/a/blobs/{digest_of(b'absent')}")
        assert first.status == 404
        assert first.seconds < 0.3 * NOISE
        again = node.ask("GET", f"/v2/a/blobs/{digest_of(b'absent, too')}")
        assert again.status == 404
        assert again.seconds < 0.02 * NOISE, "a silent peer costs its deadline once, not each time"
        with Wire(node.registry) as wire:
            wire.send(build_request("GET", f"/v2/a/blobs/{digest_of(b'absent')}", Connection="close"))
            assert wire.answer().status == 404
            assert wire.rest() == b""
            assert wire.end is End.FIN
