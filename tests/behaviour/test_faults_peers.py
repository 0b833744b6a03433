"""Peers that die, stall, lie or talk nonsense, seen by a client of a real node between them.

What each fault does to the fetching itself is in ``test_fetch_faults``; here it is the whole process that must keep the
seven invariants.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit import faults, proc
from tests.kit.cluster import cluster
from tests.kit.content import blob
from tests.kit.faults import Fault
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.invariants import Witness, assert_invariants, assert_same
from tests.kit.layout import Layout, digest_of, image
from tests.kit.metrics import metric
from tests.kit.process import Node, start
from tests.kit.puller import Puller
from tests.kit.waiting import NOISE, eventually
from tests.kit.wire import Answer, End, Wire, build_request

LAYER = blob(12 * 1024 * 1024, 51)
SMALL = blob(300_000, 52)
MEDIUM = blob(4 * 1024 * 1024, 54)
MANIFEST, BLOBS = image([LAYER, SMALL, MEDIUM])
CONTENT = [MANIFEST, *BLOBS]
CUT = 5_345_678
STALL = 0.5
FLAGS = {"lookup_timeout": 1, "connect_timeout": 1, "first_byte_timeout": STALL, "stall_timeout": STALL, "grace": 0.3}
HUGE = 64 * 1024 * 1024


def target(content: bytes, kind: str = "blobs") -> str:
    return f"/v2/team/app/{kind}/{digest_of(content)}?ns=registry.example"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Layout(tmp_path_factory.mktemp("peers")).directory


@contextlib.contextmanager
def between(empty: Path, bad: FaultyPeer, good: FaultyPeer | None = None, **flags: object) -> Iterator[Node]:
    """A node without content between a client and these peers; it has seen the manifest, so it knows the sizes."""
    peers = [str(peer) for peer in (bad, good) if peer is not None]
    plan, bad.plan = bad.plan, faults.healthy
    with start(empty, peers=peers, flags=FLAGS | flags) as node:
        assert node.ask("GET", target(MANIFEST, "manifests")).body == MANIFEST
        bad.plan = plan
        bad.requests.clear()
        yield node


ANY: dict[str, Fault] = {
    "silent": faults.silent(),
    "half a status line": faults.half_status(),
    "FIN": faults.truncate(CUT),
    "FIN at once": faults.truncate(0),
    "RST": faults.reset(CUT),
    "stall": faults.stall(CUT),
    "stall at once": faults.stall(0),
    "404 after announcing": faults.status(404),
    "503": faults.status(503),
    "429": faults.status(429),
    "short": faults.wrong_length(-1000),
    "long": faults.wrong_length(1000),
    "promised": faults.promised_length(100),
    "extra bytes": faults.extra(1000),
    "gzip": faults.encoded(),
    "chunks": faults.chunked(),
    "long head": faults.header_bomb(1_000_000),
    "many fields": faults.many_headers(10_000),
    "no HTTP": faults.garbage(),
}


class Many:
    """A node, two good peers that have everything (one may be busy), and for each fault a bad one, with its layer."""

    def __init__(
        self, node: Node, layers: dict[str, bytes], bad: dict[str, FaultyPeer], good: list[FaultyPeer]
    ) -> None:
        self.node = node
        self.layers = layers
        self.bad = bad
        self.good = good

    def drop(self) -> None:
        """End what goes on between the node and its peers."""
        for peer in (*self.good, *self.bad.values()):
            peer.drop()


@pytest.fixture(scope="module")
def many(empty: Path) -> Iterator[Many]:
    layers = {name: blob(9 * 1024 * 1024, 60 + number) for number, name in enumerate(ANY)}
    manifest, blobs = image(list(layers.values()))
    with contextlib.ExitStack() as stack:
        bad = {
            name: stack.enter_context(FaultyPeer([layer], faults.on_get(ANY[name]))) for name, layer in layers.items()
        }
        good = [stack.enter_context(FaultyPeer([manifest, *blobs])) for _ in range(2)]
        for number, peer in enumerate(good):  # the bad one says first that it has it, so it is asked first
            peer.head_delay = 0.3 + 0.1 * number
        peers = [str(peer) for peer in (*good, *bad.values())]
        node = stack.enter_context(start(empty, peers=peers, flags=FLAGS))
        assert node.ask("GET", target(manifest, "manifests")).body == manifest
        for peer in (*good, *bad.values()):
            peer.drop()
        yield Many(node, layers, bad, good)


@pytest.mark.parametrize("name", ANY)
def test_a_bad_peer_beside_good_ones_costs_at_most_a_stall_and_no_byte(many: Many, name: str) -> None:
    truth = many.layers[name]
    with Witness(many.node) as witness:
        answer = many.node.ask("GET", target(truth))
        assert answer.status == 200
        assert_same(answer.body, truth)
        eventually(lambda: proc.deleted_files(many.node.pid) == 0, "no spool left", 10)
        assert_invariants(witness, [(answer, 0)], truth, bound_seconds=(2 * STALL + 0.5) * NOISE)
    many.drop()
    assert many.bad[name].gets(), "the bad peer was not asked"


@pytest.mark.parametrize("at", [0, CUT, -1], ids=["first", "middle", "last"])
def test_a_wrong_byte_never_makes_a_whole_layer(empty: Path, at: int) -> None:
    """Alone with a liar: the layer is not completed here, and the pull goes on at the origin or fails as a whole."""
    with FaultyPeer(CONTENT, faults.on_get(faults.corrupt(at))) as liar, between(empty, liar) as node:
        with Witness(node) as witness:
            answer = node.ask("GET", target(LAYER))
            assert liar.gets()
            assert answer.status in (200, 404)
            assert answer.status == 404 or not answer.complete
            assert answer.end is not End.RST
        assert not witness.failures
        witness.settled()


@pytest.mark.parametrize("content", [SMALL, MEDIUM], ids=["300 kB", "4 MiB"])
def test_content_that_is_checked_whole_is_never_given_with_a_wrong_byte(empty: Path, content: bytes) -> None:
    with FaultyPeer(CONTENT, faults.on_get(faults.corrupt(-1))) as liar, between(empty, liar) as node:
        answer = node.ask("GET", target(content))
        assert liar.gets()
        assert answer.status == 404
        assert content[:100] not in answer.body


def test_a_liar_is_left_alone_once_it_was_found_out(empty: Path) -> None:
    """The retry of a failed pull, and every other pull, must not meet it again."""
    liar, good = FaultyPeer(CONTENT, faults.on_get(faults.corrupt(1000))), FaultyPeer(CONTENT)
    with liar, good, between(empty, liar, good) as node:
        good.head_delay = 0.3  # the liar says first that it has it
        assert_same(node.ask("GET", target(SMALL)).body, SMALL)
        assert len(liar.gets()) == 1, "the liar was not asked first"
        for content in (LAYER, MEDIUM, SMALL):
            assert_same(node.ask("GET", target(content)).body, content)
        assert len(liar.gets()) == 1


def test_a_challenge_or_redirect_of_a_peer_is_followed_nowhere(empty: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.3)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/token"
        for fault in (faults.unauthorized(url), faults.redirect(url)):
            with FaultyPeer(CONTENT, faults.always(fault)) as bad, between(empty, bad) as node:
                assert node.ask("GET", target(SMALL)).status == 404
            with pytest.raises(TimeoutError):
                trap.accept()


def test_a_bomb_in_the_head_of_an_answer_costs_no_memory(empty: Path) -> None:
    with FaultyPeer(CONTENT, faults.on_get(faults.header_bomb(64 * 1024 * 1024))) as bad, between(empty, bad) as node:
        proc.reset_peak(node.pid)
        before = proc.rss_kib(node.pid)
        for _ in range(3):
            assert node.ask("GET", target(SMALL)).status == 404
        assert proc.peak_kib(node.pid) - before < 4096


@pytest.mark.parametrize("name", ["FIN", "RST", "stall"])
def test_with_no_source_left_the_pull_goes_on_at_the_origin_from_the_same_byte(empty: Path, name: str) -> None:
    """The body ends by FIN after new bytes; the reopen at exactly that offset is sent on; nothing else is refused."""
    plan = faults.on_get(ANY[name], faults.status(404))
    with FaultyPeer(CONTENT, plan) as bad, FaultyPeer(CONTENT) as origin, between(empty, bad) as node:
        with Witness(node) as witness:
            puller = Puller([node.registry, origin.address], "registry.example")
            assert_same(puller.fetch("team/app", digest_of(LAYER), len(LAYER)), LAYER)
        statuses = [(step.host, step.status) for step in puller.steps]
        assert statuses == [(0, 200), (0, 404), (1, 206)]
        assert puller.steps[0].received > 0
        assert puller.steps[1].start == puller.steps[0].received
        assert all(step.seconds < (STALL + 1.0) * NOISE for step in puller.steps)
        bad.plan = faults.healthy
        assert eventually(lambda: node.ask("GET", target(LAYER)).status == 200, "the digest itself is not refused")
        assert not witness.failures
        witness.settled()


def read_while(node: Node, act: threading.Event) -> Answer:
    """A layer of zeros, read through ``node``; ``act`` is set when its first megabyte is there."""
    with Wire(node.registry) as wire:
        wire.send(build_request("GET", f"/v2/a/blobs/{_zeros}"))
        assert wire.fill(1024 * 1024)
        act.set()
        return wire.answer()


_zeros = ""


@pytest.fixture(scope="module")
def holders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Stores of two nodes that have a large layer, and of one that has nothing."""
    global _zeros
    layouts = [Layout(tmp_path_factory.mktemp(f"holder{number}")) for number in range(3)]
    for layout in layouts[:2]:
        _zeros = layout.add_zeros(HUGE)
    return [layout.directory for layout in layouts]


@pytest.mark.parametrize("way", [Node.kill, Node.freeze, Node.stop], ids=["killed", "frozen", "stopped"])
def test_a_serving_node_that_goes_in_the_middle_of_a_layer_costs_the_reader_nothing(
    holders: list[Path], way: Callable[[Node], object]
) -> None:
    """The same response goes on at the same byte from the other holder."""
    with cluster(holders, flags=FLAGS) as (one, two, reader), Witness(reader) as witness:
        began = threading.Event()
        result: list[Answer] = []
        thread = threading.Thread(target=lambda: result.append(read_while(reader, began)))
        thread.start()
        assert began.wait(20)
        serving = one if sent(one) >= sent(two) else two
        way(serving)
        thread.join(30)
        if way is Node.freeze:
            serving.thaw()
        (answer,) = result
        assert answer.complete
        assert not answer.body.strip(b"\0")
        assert len(answer.body) == HUGE
        assert answer.seconds < (3 * STALL + 2.0) * NOISE
        assert not witness.failures


def sent(node: Node) -> float:
    return metric(node, "fastmirror_sent_body_bytes_total", listener="peer")


def test_the_only_holder_is_killed_and_the_origin_finishes_the_layer(holders: list[Path]) -> None:
    truth = bytes(HUGE)
    with FaultyPeer([truth]) as origin, cluster([holders[0], holders[2]], flags=FLAGS) as (holder, reader):
        killer = threading.Timer(0.15, holder.kill)
        puller = Puller([reader.registry, origin.address])
        killer.start()
        body = puller.fetch("a", digest_of(truth), HUGE)
        killer.join()
        assert body == truth
        assert all(step.end is not End.RST or step.status == 0 for step in puller.steps)
        assert eventually(lambda: metric(reader, "fastmirror_fetches_active") == 0, "no fetch left")


def test_a_peer_that_comes_back_without_its_content_is_a_miss(tmp_path: Path, empty: Path) -> None:
    layout = Layout(tmp_path / "holder")
    path = layout.path(layout.add(SMALL))
    with cluster([layout.directory, empty], flags=FLAGS | {"grace": 0.05}) as (holder, reader):
        assert reader.ask("GET", target(SMALL)).body == SMALL
        path.unlink()
        eventually(lambda: proc.deleted_files(reader.pid) == 0, "what was fetched is let go")
        with Wire(holder.peer) as wire:
            assert wire.ask("GET", target(SMALL)).status == 404
        answer = reader.ask("GET", target(SMALL))
        assert answer.status == 404
        assert answer.seconds < 0.5 * NOISE


@pytest.mark.needs("root", "mount")
def test_n08_a_full_disk_under_the_spool_never_fails_a_pull(empty: Path, tmp_path: Path) -> None:
    """What is begun goes on or ends by FIN; what is not yet begun is a prompt 404; small content is not concerned."""
    spool = tmp_path / "spool"
    spool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", spool], check=True)
    try:
        with FaultyPeer(CONTENT) as peer, FaultyPeer(CONTENT) as origin, between(empty, peer, spool_dir=spool) as node:
            with Witness(node) as witness:
                for _ in range(3):
                    puller = Puller([node.registry, origin.address], "registry.example")
                    assert_same(puller.fetch("team/app", digest_of(LAYER), len(LAYER)), LAYER)
                    assert all(step.seconds < 2.0 * NOISE for step in puller.steps)
                    assert node.ask("GET", target(SMALL)).body == SMALL
                eventually(lambda: proc.deleted_files(node.pid) == 0, "no spool left", 10)
            assert not witness.failures
            witness.settled()
            said = [event for event in node.log.events() if event["event"] == "fetch.spool_failed"]
            assert said[0]["errno"] == errno.ENOSPC
    finally:
        subprocess.run(["umount", spool], check=True)


def test_a_spool_that_is_used_up_is_a_prompt_404_for_what_is_not_begun(empty: Path) -> None:
    other = blob(12 * 1024 * 1024, 53)
    plan = faults.on_get(faults.drip(256 * 1024, 0.02))
    with FaultyPeer([*CONTENT, other], plan) as peer, between(empty, peer, spool_bytes=20 * 1024 * 1024) as node:
        with Wire(node.registry) as wire:
            wire.send(build_request("GET", target(LAYER)))
            assert wire.fill(1024 * 1024), "the first one has begun"
            began = time.monotonic()
            assert node.ask("GET", target(other)).status == 404
            assert time.monotonic() - began < 1.0 * NOISE
            assert_same(wire.answer().body, LAYER)
        eventually(lambda: node.ask("GET", target(other)).status == 200, "room again", 20)


def test_more_fetches_than_allowed_are_a_prompt_404_and_the_begun_one_goes_on(empty: Path) -> None:
    plan = faults.on_get(faults.drip(256 * 1024, 0.02))
    with FaultyPeer(CONTENT, plan) as peer, between(empty, peer, max_fetches=1) as node:
        with Wire(node.registry) as wire:
            wire.send(build_request("GET", target(LAYER)))
            assert wire.fill(1024 * 1024)
            answer = node.ask("GET", target(SMALL))
            assert answer.status == 404
            assert answer.seconds < 1.0 * NOISE
            assert_same(wire.answer().body, LAYER)
        assert eventually(lambda: node.ask("GET", target(SMALL)).status == 200, "room again", 10)
