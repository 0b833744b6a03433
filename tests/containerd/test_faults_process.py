"""What goes wrong within a mirror, or on its node's disk, while a real containerd pulls through it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.images import Image
from tests.kit.origin import Origin
from tests.kit.pair import Pair, Two, pair
from tests.kit.strace import traced

Make = Callable[..., Image]
CLIENTS = ("ctr", "cri")
SIZES = (20_000, 3_000_000)
FLAGS = {"lookup_timeout": "3s", "whole_bytes": 1 << 20}


def large(image: Image) -> str:
    """The digest of the large layer."""
    return list(image.blobs)[4]


@pytest.mark.needs("strace")
@pytest.mark.parametrize("client", CLIENTS)
def test_s05_a_disk_error_on_the_node_that_sends(
    both: Two, source: Origin, fresh_image: Make, tmp_path: Path, client: str
) -> None:
    image = fresh_image(sizes=SIZES)
    with pair(source, both, flags=FLAGS) as nodes:
        nodes.hold(image)
        assert nodes.theirs is not None
        with traced(nodes.theirs.pid, tmp_path / "trace", "-e", "inject=sendfile:error=EIO:when=2+"):
            pulled = nodes.pull(client, image)
        assert pulled, pulled
        assert "EIO" in (tmp_path / "trace").read_text()
        assert {asked.reference for asked in nodes.origin.asked() if asked.sent} == {large(image)}


@pytest.mark.needs("strace")
@pytest.mark.parametrize("client", CLIENTS)
def test_s06_a_socket_of_the_node_that_sends_takes_little(
    both: Two, source: Origin, fresh_image: Make, tmp_path: Path, client: str
) -> None:
    image = fresh_image(sizes=SIZES)
    with pair(source, both, flags=FLAGS) as nodes:
        nodes.hold(image)
        nodes.origin.off()
        assert nodes.theirs is not None
        with traced(nodes.theirs.pid, tmp_path / "trace", "-e", "inject=sendfile:error=EAGAIN:when=2+2"):
            pulled = nodes.pull(client, image)
        assert pulled, pulled
        assert "EAGAIN" in (tmp_path / "trace").read_text()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("what", ["n03 raises", "n05 blocks"])
def test_an_answer_that_meets_a_defect_or_blocks_the_loop(
    both: Two, source: Origin, fresh_image: Make, monkeypatch: pytest.MonkeyPatch, client: str, what: str
) -> None:
    image = fresh_image(sizes=SIZES)
    broken = list(image.blobs)[3]
    monkeypatch.setenv(f"FAILPOINT_{what[4:].upper()}", broken)
    with pair(source, both, flags=FLAGS, module="tests.kit.failpoint") as nodes:
        nodes.hold(image)
        assert nodes.ours is not None
        if what == "n03 raises":
            nodes.ours.expected.add("http.answer_failed")
        pulled = nodes.pull(client, image)
        assert pulled, pulled
        assert pulled.seconds < 30
        defects = "".join(nodes.ours.log.lines).count("a defect, on purpose")
        assert bool(defects) == (what == "n03 raises")
        sent = {asked.reference for asked in nodes.origin.asked() if asked.sent}
        assert sent == ({broken} if what == "n03 raises" else set())


@pytest.mark.parametrize("client", CLIENTS)
def test_u01_what_nobody_has_with_the_origin_away_fails_soon(nodes: Pair, fresh_image: Make, client: str) -> None:
    """The image's manifest is somewhere, one of its layers nowhere: there is nothing to wait for."""
    image = fresh_image()
    nodes.hold(image)
    nodes.holder.path(large(image)).unlink()
    nodes.origin.off()
    pulled = nodes.pull(client, image)
    assert not pulled
    assert "did not end" not in pulled.said
    assert pulled.seconds < 30


@pytest.mark.parametrize("client", CLIENTS)
def test_a_content_directory_that_is_swapped_for_a_link_sends_nothing_from_there(
    nodes: Pair, fresh_image: Make, tmp_path: Path, client: str
) -> None:
    """Below the link each blob has as many bytes as it should, and all of them are wrong."""
    image = fresh_image()
    nodes.hold(image)
    blobs = nodes.holder.content / "blobs" / "sha256"
    for digest, content in image.blobs.items():
        (tmp_path / digest.partition(":")[2]).write_bytes(bytes(len(content)))
    os.rename(blobs, blobs.with_name("aside"))
    try:
        blobs.symlink_to(tmp_path)
        pulled = nodes.pull(client, image)
    finally:
        blobs.unlink()
        os.rename(blobs.with_name("aside"), blobs)
    assert pulled, pulled
