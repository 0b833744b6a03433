"""``fastmirror pull`` through real nodes: what it prints, what it keeps, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import faults
from tests.kit.cluster import cluster, free_port
from tests.kit.content import blob
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.images import make_image
from tests.kit.layout import Layout, digest_of, image
from tests.kit.origin import origin
from tests.kit.process import Node, Setup, environment
from tests.kit.waiting import eventually
from tests.kit.wire import Address

IMAGE = make_image("registry.example/team/app:1", (20_000, 12_000_000), seed="pull")


def url(address: Address) -> str:
    return f"http://{address[0]}:{address[1]}"


def pull(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastmirror", "pull", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=50, check=False)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    """Two that hold the image, and one that has nothing."""
    for name in "ab":
        IMAGE.write(Layout(tmp_path / name))
    Layout(tmp_path / "empty")
    stores = [tmp_path / name for name in ("a", "b", "empty")]
    with cluster(stores, flags={"resolve_tags": "true", "grace": 30}) as running:
        yield running


def test_a_pull_through_an_empty_node_tells_what_each_peer_gave(nodes):
    mirror = nodes[-1]
    done = pull(IMAGE.name, "--mirror", url(mirror.registry), "--admin", url(mirror.admin), "-o", "json", "--progress")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["digest"] == IMAGE.digest
    assert {one["digest"]: one["bytes"] for one in report["objects"]} == {
        digest: len(content) for digest, content in IMAGE.blobs.items()
    }
    assert [one["kind"] for one in report["objects"]] == ["index", "manifest", "config", "layer", "layer"]
    assert {one["source"] for one in report["objects"]} == {"peers"}
    layer = report["objects"][-1]
    assert sum(peer["bytes"] for peer in layer["fetch"]["peers"]) == layer["size"]
    assert {peer["peer"] for peer in layer["fetch"]["peers"]} <= {f"{h}:{p}" for h, p in (n.peer for n in nodes[:2])}
    assert done.stderr.count("\n") == 5  # a line per object: this is no terminal


def test_the_table_says_it_too_and_of_a_second_pull_that_it_was_there_before(nodes):
    mirror = nodes[-1]
    arguments = (IMAGE.name, "--mirror", url(mirror.registry), "--admin", url(mirror.admin))
    first, second = pull(*arguments), pull(*arguments)
    assert (first.returncode, first.stderr, second.returncode) == (0, "", 0)
    assert "LONGEST GAP" in first.stdout.splitlines()[0]
    assert "PEER" in first.stdout
    assert f"{nodes[0].peer[0]}:" in first.stdout or f"{nodes[1].peer[0]}:" in first.stdout
    assert "peers, before this pull" in second.stdout
    own = pull(IMAGE.name, "--mirror", url(nodes[0].registry), "--admin", url(nodes[0].admin))
    assert own.stdout.count("the mirror's own store") == 5


def test_an_image_can_be_kept_and_served_again(nodes, tmp_path):
    done = pull(IMAGE.name, "--mirror", url(nodes[-1].registry), "--into", f"oci:{tmp_path / 'kept'}")
    assert done.returncode == 0, done.stderr
    with Node(Setup(tmp_path / "kept")) as served:
        again = pull(IMAGE.name, "--mirror", url(served.registry), "-o", "json")
        assert json.loads(again.stdout)["digest"] == IMAGE.digest


def test_a_miss_is_said_as_one_and_the_origin_is_asked_if_it_is_named(nodes, tmp_path):
    other = make_image("registry.example/team/other:2", (30_000,), seed="elsewhere")
    missed = pull(other.name, "--mirror", url(nodes[-1].registry), "-o", "json")
    assert (missed.returncode, missed.stderr.count("\n")) == (1, 1)
    assert "A miss: " in missed.stderr
    assert "--origin URL" in missed.stderr
    assert json.loads(missed.stdout)["missed"] is True
    layout = Layout(tmp_path / "origin")
    other.write(layout)
    with origin(layout, "127.0.0.1", free_port("127.0.0.1"), tmp_path / "log") as registry:
        done = pull(other.name, "--mirror", url(nodes[-1].registry), "--origin", registry.url, "-o", "json")
    assert done.returncode == 0, done.stderr
    assert {one["hosts"][0] for one in json.loads(done.stdout)["objects"]} == {registry.url}


def test_a_peer_that_hangs_up_in_the_middle_is_in_the_report_and_the_pull_is_well(tmp_path):
    layer = blob(24 << 20, 91)
    manifest, blobs = image([layer])
    Layout(tmp_path / "empty")
    once = iter([faults.truncate(1_000_000)])

    def plan(seen: faults.Seen) -> faults.Fault | None:
        return next(once, None) if seen.method == "GET" and seen.reference == digest_of(layer) else None

    with FaultyPeer([manifest, *blobs], plan) as peer, Node(Setup(tmp_path / "empty", peers=[str(peer)])) as mirror:
        name = f"registry.example/team/app@{digest_of(manifest)}"
        done = pull(name, "--mirror", url(mirror.registry), "--admin", url(mirror.admin), "-o", "json")
        assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["objects"][-1]["fetch"]["peers"]
    assert (told["peer"], told["failed"], told["bytes"]) == (str(peer), {"truncated": 1}, len(layer))
    assert told["requests"] >= 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("UPPER",), "image: "), (("a", "--mirror", "x"), "from --mirror"), (("a", "--at-once", "0"), "at-once"),
        (("a", "--platform", "linux"), "platform: "), (("a", "--into", "dir"), "from --into"), ((), "IMAGE"),
        (("a", "--into", "containerd:/run/x"), "give oci:DIR"), (("a", "--admin", "x"), "from --admin"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_exit_code_2(arguments, said):
    done = pull(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


def test_an_interrupted_pull_ends_at_once_and_keeps_nothing(tmp_path):
    manifest, blobs = image([blob(1_000_000, 92)])
    plan = lambda seen: faults.stall(1000) if seen.reference == digest_of(blobs[-1]) else None  # noqa: E731
    with FaultyPeer([manifest, *blobs], plan) as peer:
        name = f"registry.example/team/app@{digest_of(manifest)}"
        command = [sys.executable, "-m", "fastmirror", "pull", name, "--mirror", f"http://{peer}"]
        running = subprocess.Popen([*command, "--into", f"oci:{tmp_path / 'out'}"], env=environment())
        eventually(lambda: peer.gets(digest_of(blobs[-1])), "the layer is asked for")
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
    assert list((tmp_path / "out/blobs/sha256").iterdir()) == []
