"""The containerd store when containerd, its directory or the helper process is not as it should be."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmirror.containerd.store import Place
from fastmirror.oci.descriptor import OCI_INDEX
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, Gone, Untagged
from tests.kit.containerd import Containerd
from tests.kit.images import Image
from tests.kit.listening import offer, place, pull, running, served
from tests.kit.origin import Origin
from tests.kit.waiting import NOISE

Make = Callable[..., Image]


async def test_content_stays_while_containerd_is_killed_and_news_come_after_its_restart(
    node: Containerd, source: Origin, fresh_image: Make
) -> None:
    first, second = fresh_image(), fresh_image()
    offer(node, source, first)
    second.write(source.layout)
    await pull(node, first)
    async with running(place(node)) as heard:
        await heard.until(lambda: heard.store.resolve(Reference.parse(first.name)), "the tag is known")
        await asyncio.to_thread(node.stop, signal.SIGKILL)
        await heard.until(lambda: heard.store.problem() is not None, "the loss is noticed")
        assert served(heard.store, first)
        assert heard.store.resolve(Reference.parse(first.name)) is not None
        await asyncio.to_thread(node.start)
        await pull(node, second)
        await heard.until(lambda: heard.store.resolve(Reference.parse(second.name)), "the new tag is known")
        assert served(heard.store, second)
        assert heard.store.problem() is None
        assert not any(isinstance(event, Gone | Untagged) for event in heard.events)


async def test_names_that_went_while_containerd_was_away_are_gone_after_its_return(
    node: Containerd, source: Origin, fresh_image: Make
) -> None:
    image = fresh_image()
    offer(node, source, image)
    await pull(node, image, "cri")
    reference = Reference.parse(image.name)
    async with running(place(node)) as heard:
        await heard.until(lambda: heard.store.resolve(reference), "the tag is known")
        helper = heard.store.helper_pid
        assert helper is not None
        os.kill(helper, signal.SIGSTOP)  # the helper misses every event
        await asyncio.to_thread(node.remove, image.name)
        await asyncio.to_thread(node.stop)
        os.kill(helper, signal.SIGCONT)
        await asyncio.to_thread(node.start)
        await heard.until(lambda: Untagged(reference) in heard.times, "the tag went")
        assert heard.store.resolve(reference) is None


async def test_a_frozen_containerd_delays_no_look_up(node: Containerd, source: Origin, fresh_image: Make) -> None:
    image = fresh_image()
    offer(node, source, image)
    await pull(node, image)
    async with running(place(node)) as heard:
        await heard.until(lambda: heard.store.resolve(Reference.parse(image.name)), "the tag is known")
        node.freeze()
        try:
            slowest = 0.0
            for _ in range(200):
                began = time.perf_counter()
                assert served(heard.store, image)
                assert heard.store.resolve(Reference.parse(image.name))
                slowest = max(slowest, time.perf_counter() - began)
                await asyncio.sleep(0)
            assert slowest < 0.050 * NOISE
            await heard.until(lambda: heard.store.problem() is not None, "the silence is noticed")
            assert served(heard.store, image)
        finally:
            node.thaw()
        await heard.until(lambda: heard.store.problem() is None, "containerd is heard again")
        assert not any(isinstance(event, Gone) for event in heard.events)


async def test_a_socket_that_is_missing_at_the_start_is_waited_for_while_files_are_served(
    node: Containerd, source: Origin, fresh_image: Make
) -> None:
    image = fresh_image()
    offer(node, source, image)
    await pull(node, image)
    node.stop()
    node.socket.unlink(missing_ok=True)
    async with running(place(node, content=node.content)) as heard:
        await heard.until(lambda: served(heard.store, image), "files are served by digest")
        assert "does not answer" in (heard.store.problem() or "")
        assert heard.store.resolve(Reference.parse(image.name)) is None
        began = time.monotonic()
        await asyncio.to_thread(node.start)
        await heard.until(lambda: heard.store.resolve(Reference.parse(image.name)), "the tag is known")
        assert time.monotonic() - began < 5
        assert heard.store.problem() is None


async def test_without_a_socket_and_a_directory_it_waits_and_serves_nothing(
    node: Containerd, source: Origin, fresh_image: Make
) -> None:
    image = fresh_image()
    offer(node, source, image)
    await pull(node, image)
    node.stop()
    async with running(place(node)) as heard:
        await heard.until(lambda: "does not answer" in (heard.store.problem() or ""), "the silence is noticed")
        assert heard.store.root is None
        assert heard.store.open(Digest.parse(image.digest)) is None
        await asyncio.to_thread(node.start)
        await heard.until(lambda: served(heard.store, image), "all is served")


async def test_a_killed_helper_process_is_replaced_and_nothing_is_lost(
    shared: Containerd, source: Origin, fresh_image: Make
) -> None:
    first, second = fresh_image(), fresh_image()
    offer(shared, source, first)
    second.write(source.layout)
    await pull(shared, first)
    async with running(place(shared)) as heard:
        await heard.until(lambda: heard.store.resolve(Reference.parse(first.name)), "the tag is known")
        before = heard.store.helper_pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        await heard.until(lambda: heard.store.helper_pid not in (None, before), "another helper runs")
        assert served(heard.store, first)
        await pull(shared, second)
        await heard.until(lambda: heard.store.resolve(Reference.parse(second.name)), "the new tag is known")
        assert not any(isinstance(event, Gone | Untagged) for event in heard.events)


async def test_a_content_directory_that_vanishes_is_waited_for(
    node: Containerd, source: Origin, fresh_image: Make
) -> None:
    image = fresh_image()
    offer(node, source, image)
    await pull(node, image)
    blobs = node.content / "blobs"
    async with running(place(node)) as heard:
        await heard.until(lambda: served(heard.store, image), "all is served")
        os.rename(blobs, node.content / "aside")
        await heard.until(lambda: not heard.store.digests(), "nothing is there")
        assert heard.store.problem() is not None
        assert heard.store.open(Digest.parse(image.digest)) is None
        os.rename(node.content / "aside", blobs)
        await heard.until(lambda: served(heard.store, image) and heard.store.problem() is None, "it is back")


@pytest.mark.parametrize("swapped", ["blobs", "blobs/sha256"])
async def test_a_directory_that_is_swapped_for_a_link_is_not_followed(
    node: Containerd, source: Origin, fresh_image: Make, swapped: str, tmp_path: Path
) -> None:
    image = fresh_image()
    offer(node, source, image)
    await pull(node, image)
    secret = tmp_path / "elsewhere" / ("sha256" if swapped == "blobs" else ".")
    secret.mkdir(parents=True)
    digest = Digest.of(b"not containerd's")
    (secret / digest.hex).write_bytes(b"not containerd's")
    async with running(place(node, all_namespaces=True)) as heard:
        await heard.until(lambda: served(heard.store, image), "all is served")
        os.rename(node.content / swapped, node.content / "aside")
        (node.content / swapped).symlink_to(tmp_path / "elsewhere")
        await heard.until(lambda: not heard.store.digests(), "the link was noticed")
        assert heard.store.open(digest) is None
        assert heard.store.open(Digest.parse(image.digest)) is None
        os.unlink(node.content / swapped)
        os.rename(node.content / "aside", node.content / swapped)
        await heard.until(lambda: served(heard.store, image), "it is back")


async def test_a_blob_that_is_a_link_a_directory_or_a_fifo_is_not_served(shared: Containerd, tmp_path: Path) -> None:
    digests = [Digest.of(os.urandom(16)) for _ in range(3)]
    link, directory, fifo = (shared.path(digest) for digest in digests)
    link.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "secret").write_text("secret")
    link.symlink_to(tmp_path / "secret")
    directory.mkdir()
    os.mkfifo(fifo)
    try:
        async with running(place(shared, all_namespaces=True)) as heard:
            await heard.until(lambda: heard.store.problem() is None, "containerd was heard of")
            assert [heard.store.open(digest) for digest in digests] == [None, None, None]
            assert not set(digests) & set(heard.store.digests())
    finally:
        link.unlink()
        directory.rmdir()
        fifo.unlink()


async def test_without_a_socket_only_files_are_needed(shared: Containerd, source: Origin, fresh_image: Make) -> None:
    image, later = fresh_image(), fresh_image()
    offer(shared, source, image)
    later.write(source.layout)
    await pull(shared, image)
    async with running(Place(content=shared.content)) as heard:
        assert served(heard.store, image)
        assert heard.store.helper_pid is None
        assert heard.store.problem() is None
        assert heard.store.media_type(Digest.parse(image.digest)) == OCI_INDEX
        assert heard.store.names(Digest.parse(image.digest)) == frozenset()
        assert heard.store.references() == []
        await pull(shared, later)
        await heard.until(lambda: Arrived(Digest.parse(later.digest)) in heard.times, "new content is heard of")
        assert served(heard.store, later)
