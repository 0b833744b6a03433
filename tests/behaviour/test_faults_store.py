"""Faults of the local content, rows S01 to S07 of the fault matrix, on a real process.

S01 and S02 are in ``test_traps`` too, as traps of sendfile; here they are seen by a client like containerd, which goes
on at another host.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import proc
from tests.kit.content import blob
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.invariants import Witness, assert_invariants, assert_same
from tests.kit.layout import Layout, digest_of, image
from tests.kit.metrics import metric
from tests.kit.process import Node, start
from tests.kit.puller import Puller
from tests.kit.strace import traced
from tests.kit.waiting import NOISE, eventually, let_pass
from tests.kit.wire import Answer, End, Wire, ask, build_request

SIZE = 8 * 1024 * 1024
_seed = iter(range(1000, 2000))


class Local:
    """A node and its store. Each fault gets a fresh blob, part of an image, so that its size is known."""

    def __init__(self, node: Node, layout: Layout) -> None:
        self.node = node
        self.layout = layout

    def fresh(self, size: int = SIZE) -> tuple[bytes, str, Path]:
        """New content: its bytes, its digest, its file."""
        content = blob(size, next(_seed))
        manifest, blobs = image([content])
        digest = digest_of(content)
        self.layout.add_image(f"registry.example/faults/image:{digest[7:19]}", manifest, blobs)
        return content, digest, self.layout.path(digest)

    def ask(self, digest: str, **fields: str) -> Answer:
        """GET a blob."""
        return self.node.ask("GET", f"/v2/faults/image/blobs/{digest}", **fields)

    def begin(self, wire: Wire, digest: str, count: int = 1024 * 1024) -> None:
        """Ask for a blob and read the first part of it."""
        wire.send(build_request("GET", f"/v2/faults/image/blobs/{digest}"))
        assert wire.fill(count)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    layout = Layout(tmp_path_factory.mktemp("store"))
    with start(layout.directory) as node:
        yield Local(node, layout)


def test_s01_a_blob_removed_while_it_is_sent_arrives_and_is_then_absent(local: Local) -> None:
    content, digest, path = local.fresh()
    with Witness(local.node) as witness, Wire(local.node.registry, receive_buffer=65536) as wire:
        local.begin(wire, digest)
        path.unlink()
        answer = wire.answer()
        assert answer.complete
    assert_invariants(witness, [(answer, 0)], content, bound_seconds=2.0 * NOISE)
    eventually(lambda: proc.deleted_files(local.node.pid) == 0, "the removed file let go", 2 * NOISE)
    assert local.ask(digest).status == 404


def test_s02_a_pull_goes_on_at_the_next_host_when_the_file_is_cut_while_it_is_sent(local: Local) -> None:
    """Cut beyond what the socket may hold: bytes that were handed to it without a copy, and are cut from the file
    before they leave, arrive as zeros (seen here; the kernel clears the rest of a large folio that it cannot split).
    """
    content, digest, path = local.fresh(2 * SIZE)
    with FaultyPeer([content]) as other, Witness(local.node) as witness:
        with Wire(local.node.registry, receive_buffer=65536) as wire:
            local.begin(wire, digest)
            os.truncate(path, 12 * 1024 * 1024)
            answer = wire.answer()
            assert answer.end is End.FIN
            assert not answer.complete
        puller = Puller([local.node.registry, other.address])
        rest = puller.open(f"/v2/faults/image/blobs/{digest}", len(answer.body))
        assert_same(answer.body + rest.body, content)
        assert puller.steps[0].status in (404, 416)
        assert_invariants(witness, [(answer, 0)], content, bound_seconds=1.0 * NOISE)
    assert metric(local.node, "fastmirror_hangups_total", reason="file") == 1
    assert metric(local.node, "fastmirror_hangups_total") == 1
    assert local.ask(digest).status == 404, "a blob that is shorter than its manifest says must not be offered"


def test_s02_a_file_cut_before_it_is_asked_for_is_absent_not_short(local: Local) -> None:
    content, digest, path = local.fresh()
    assert_same(local.ask(digest).body, content)
    os.truncate(path, SIZE - 1)
    assert local.ask(digest).status == 404
    assert local.ask(digest, Range="bytes=0-9").status == 404
    assert local.node.ask("HEAD", f"/v2/faults/image/blobs/{digest}").status == 404


def test_s03_bytes_changed_in_place_never_change_the_length_or_the_framing(local: Local) -> None:
    """Zero copy has no snapshot: what is written into a file that is being sent may arrive. The pull's own check of
    the digest is what finds it; the answer itself must stay whole, and the connection usable.
    """
    content, digest, path = local.fresh()
    with Wire(local.node.registry, receive_buffer=65536) as wire:
        local.begin(wire, digest)
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(6 * 1024 * 1024)
            file.write(bytes(4096))
        answer = wire.answer()
        assert answer.complete
        assert len(answer.body) == SIZE
        assert answer.body[: 1024 * 1024] == content[: 1024 * 1024]
        assert wire.ask("GET", "/v2/").status == 200


def test_s04_a_manifest_that_rotted_on_disk_is_not_served(local: Local) -> None:
    """What is small enough to be checked whole is never served with a wrong byte."""
    manifest, blobs = image([blob(1000, next(_seed))])
    digest = local.layout.add_image("registry.example/faults/rotten:1", manifest, blobs)
    path = local.layout.path(digest)
    rotten = bytearray(manifest)
    rotten[-3] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(rotten))
    for reference in (digest, "1"):
        answer = local.node.ask("GET", f"/v2/faults/rotten/manifests/{reference}?ns=registry.example")
        assert answer.status == 404, reference


def test_s04_a_blob_that_rotted_on_disk_is_served_once_and_peers_and_lists_do_not_get_it_after(local: Local) -> None:
    content, digest, path = local.fresh(200_000)
    right = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(100_000)
        file.write(bytes([right[100_000] ^ 1]))
    assert len(local.ask(digest).body) == len(content), "it cannot be known beforehand"
    eventually(lambda: local.ask(digest).status == 404, "it was found")
    for method in ("GET", "HEAD"):
        assert ask(local.node.peer, method, f"/v2/fastmirror/lookup/blobs/{digest}").status == 404
    assert ask(local.node.peer, "GET", f"/fastmirror/v1/chunks/{digest}").status == 404
    assert metric(local.node, "fastmirror_wrong_blobs_total") >= 1
    other = path.with_name("other")
    other.write_bytes(right)
    other.rename(path)
    assert_same(local.ask(digest).body, content)


@pytest.mark.needs("strace", "root")
def test_s05_an_error_of_the_disk_in_a_body_ends_it_by_fin(local: Local, tmp_path: Path) -> None:
    content, digest, _ = local.fresh()
    with FaultyPeer([content]) as other, Witness(local.node) as witness:
        with Wire(local.node.registry, receive_buffer=65536) as wire:
            with traced(local.node.pid, tmp_path / "trace", "-e", "inject=sendfile:error=EIO:when=3"):
                wire.send(build_request("GET", f"/v2/faults/image/blobs/{digest}"))
                answer = wire.answer()
            assert "EIO" in (tmp_path / "trace").read_text()
            assert not answer.complete
            assert answer.end is End.FIN
            assert 0 < len(answer.body) < SIZE
        puller = Puller([local.node.registry, other.address])
        rest = puller.open(f"/v2/faults/image/blobs/{digest}", len(answer.body))
        assert_same(answer.body + rest.body, content)
    assert_invariants(witness, [(answer, 0)], content, bound_seconds=2.0 * NOISE)


@pytest.mark.needs("strace", "root")
def test_s06_a_socket_that_takes_little_is_waited_for_and_not_spun_on(local: Local, tmp_path: Path) -> None:
    """EAGAIN on every second sendfile: the loop waits until the socket can be written to."""
    content, digest, _ = local.fresh()
    with Witness(local.node) as witness, Wire(local.node.registry, receive_buffer=65536) as wire:
        with traced(local.node.pid, tmp_path / "trace", "-e", "inject=sendfile:error=EAGAIN:when=2+2"):
            wire.send(build_request("GET", f"/v2/faults/image/blobs/{digest}"))
            answer = wire.answer()
        assert_same(answer.body, content)
        calls = (tmp_path / "trace").read_text().count("sendfile(")
        assert calls < 5000, calls
    assert_invariants(witness, [(answer, 0)], content, bound_seconds=5.0 * NOISE)


@pytest.mark.needs("strace", "root")
def test_s06_a_blocked_socket_costs_no_cpu(local: Local) -> None:
    _, digest, _ = local.fresh()
    with Wire(local.node.registry, receive_buffer=4096) as wire:
        local.begin(wire, digest, 1000)
        before = proc.cpu_seconds(local.node.pid)
        let_pass(1.0, "a second in which it could spin")
        assert proc.cpu_seconds(local.node.pid) - before < 0.05


@pytest.mark.parametrize("kind", ["link", "directory", "pipe", "device"])
def test_s07_what_is_no_regular_file_is_absent(local: Local, kind: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("outside of the store")
    digest = digest_of(f"nothing has this content: {kind}".encode())
    path = local.layout.path(digest)
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    began = time.monotonic()
    answer = local.ask(digest)
    assert answer.status == 404
    assert time.monotonic() - began < 0.5 * NOISE
    assert b"outside" not in answer.body


def test_s07_an_absent_root_is_404_and_not_ready_and_comes_back(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "store")
    content = blob(100_000, 1)
    digest = layout.add(content)
    with start(layout.directory) as node:
        assert node.ask("GET", f"/v2/a/blobs/{digest}").body == content
        (layout.directory / "blobs").rename(layout.directory / "away")
        assert eventually(lambda: ask(node.admin, "GET", "/readyz").status != 200, "not ready")
        answer = node.ask("GET", f"/v2/a/blobs/{digest}")
        assert answer.status == 404
        (layout.directory / "away").rename(layout.directory / "blobs")
        eventually(lambda: ask(node.admin, "GET", "/readyz").status == 200, "ready again")
        assert eventually(lambda: node.ask("GET", f"/v2/a/blobs/{digest}").body == content, "the content again")


@pytest.mark.needs("setpriv")
def test_s07_a_blob_that_may_not_be_read_is_absent(tmp_path: Path) -> None:
    """Root reads every file by a capability: without it, its own unreadable files are refused to it, too."""
    layout = Layout(tmp_path / "store")
    readable, unreadable = layout.add(b"content" * 1000), layout.add(b"secret" * 1000)
    layout.path(unreadable).chmod(0)
    before = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    with start(layout.directory, before=before) as node:
        assert node.ask("GET", f"/v2/a/blobs/{readable}").status == 200
        assert node.ask("GET", f"/v2/a/blobs/{unreadable}").status == 404
        assert node.ask("HEAD", f"/v2/a/blobs/{unreadable}").status == 404
