"""The containerd store over real containerds: what it serves, what it hears, and what it does when they are away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fastmirror.containerd.store import ContainerdStore, Place
from fastmirror.oci.descriptor import OCI_INDEX, OCI_MANIFEST
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, ContentEvent, Gone, Tagged, Untagged
from tests.kit.containerd import Containerd, write_hosts
from tests.kit.images import Image
from tests.kit.layout import Layout
from tests.kit.origin import Origin, origin
from tests.kit.waiting import NOISE

Make = Callable[..., Image]


class Heard:
    """The events of a running store with the time of each, and a wait for what they lead to."""

    def __init__(self, store: ContainerdStore) -> None:
        self.store = store
        self.events: list[ContentEvent] = []
        self.times: dict[ContentEvent, float] = {}
        store.subscribe(self._note)

    def _note(self, event: ContentEvent) -> None:
        self.events.append(event)
        self.times.setdefault(event, time.monotonic())

    async def until(self, true: Callable[[], object], what: str, seconds: float = 10.0) -> None:
        """Wait until something is so; AssertionError naming it otherwise."""
        try:
            async with asyncio.timeout(seconds):
                while not true():  # noqa: ASYNC110 - what is waited for is not all told by events
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {what}; problem: {self.store.problem()}") from None


@contextlib.asynccontextmanager
async def running(place: Place) -> AsyncIterator[Heard]:
    """A store that runs, and is stopped and closed with the block."""
    store = ContainerdStore(place)
    heard = Heard(store)
    task = asyncio.create_task(store.run())
    try:
        yield heard
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        store.close()


def place(node: Containerd, **more: object) -> Place:
    return Place(socket=str(node.socket), **more)  # type: ignore[arg-type]


def served(store: ContainerdStore, image: Image) -> bool:
    """Whether all of an image is served, with the right bytes."""
    for digest, content in image.blobs.items():
        blob = store.open(Digest.parse(digest))
        if blob is None:
            return False
        with blob:
            assert blob.read_span(0, blob.size) == content
    return True


@pytest.fixture
def source(tmp_path: Path) -> object:
    """An origin with an empty layout, to be filled by the test."""
    layout = Layout(tmp_path / "origin")
    with origin(layout, "127.0.0.1", _port(), tmp_path / "origin.log") as running:
        yield running


def _port() -> int:
    from tests.kit.cluster import free_port

    return free_port("127.0.0.1")


def offer(node: Containerd, source: Origin, image: Image) -> None:
    """Let containerd pull an image straight from the origin."""
    image.write(source.layout)
    write_hosts(node, "registry.test", [], source.url)


async def pull(node: Containerd, image: Image, client: str = "ctr") -> None:
    """Pull beside the running loop."""
    pulled = await asyncio.to_thread(node.pull, client, image.name)
    assert pulled, pulled


async def test_images_pulled_before_the_start_are_there_with_names_and_media_types(
    shared: Containerd, source: Origin, fresh_image: Make
) -> None:
    image = fresh_image()
    offer(shared, source, image)
    await pull(shared, image, "cri")
    async with running(place(shared)) as heard:
        reference = Reference.parse(image.name)
        await heard.until(lambda: heard.store.resolve(reference), "the tag is known")
        store = heard.store
        assert store.root == shared.content
        assert store.problem() is None
        target = store.resolve(reference)
        assert target is not None
        assert (target.digest, target.media_type, target.size) == (image.digest, OCI_INDEX, len(image.index))
        assert served(store, image)
        kinds = [store.media_type(Digest.parse(digest)) for digest in image.blobs]
        assert kinds == [OCI_INDEX, OCI_MANIFEST, None, None, None]
        for digest, content in image.blobs.items():
            assert store.names(Digest.parse(digest)) == {reference.name}
            assert store.size(Digest.parse(digest)) == len(content)
        assert (reference, target) in store.references()


async def test_each_layer_is_heard_of_when_it_is_committed_before_the_pull_ends(
    shared: Containerd, source: Origin, fresh_image: Make
) -> None:
    image = fresh_image(sizes=(50_000, 30_000_000))
    offer(shared, source, image)
    async with running(place(shared)) as heard:
        await heard.until(lambda: heard.store.problem() is None, "containerd was heard of")
        await pull(shared, image)
        ended = time.monotonic()
        reference = Reference.parse(image.name)
        await heard.until(lambda: heard.store.resolve(reference), "the tag is known")
        arrived = [Arrived(Digest.parse(digest)) for digest in image.blobs]
        assert all(heard.events.count(event) == 1 for event in arrived)
        assert not any(isinstance(event, Gone) and event.digest in image.blobs for event in heard.events)
        # The small layer is known while the large one is still downloaded and unpacked.
        assert heard.times[arrived[3]] < ended
        tagged = next(event for event in heard.events if isinstance(event, Tagged) and event.reference == reference)
        assert max(heard.times[event] for event in arrived) <= heard.times[tagged]
        for event in arrived:
            assert heard.store.names(event.digest) == {reference.name}


async def test_a_layer_is_served_soon_after_the_commit(shared: Containerd, source: Origin, fresh_image: Make) -> None:
    """The file's own change time is containerd's commit (it sets the mode right after the rename)."""
    image = fresh_image(sizes=tuple(range(1000, 9000, 200)))
    offer(shared, source, image)
    async with running(place(shared)) as heard:
        await heard.until(lambda: heard.store.problem() is None, "containerd was heard of")
        offset = time.time() - time.monotonic()
        await pull(shared, image)
        await heard.until(lambda: served(heard.store, image), "all is served")
        late = sorted(
            heard.times[Arrived(Digest.parse(digest))] + offset - os.stat(shared.path(digest)).st_ctime
            for digest in image.blobs
        )
        assert late[-1] < 0.050 * NOISE, late


async def test_a_removed_image_is_untagged_and_its_content_goes(
    shared: Containerd, source: Origin, fresh_image: Make
) -> None:
    image = fresh_image()
    offer(shared, source, image)
    async with running(place(shared)) as heard:
        await pull(shared, image, "cri")
        reference = Reference.parse(image.name)
        await heard.until(lambda: heard.store.resolve(reference), "the tag is known")
        await asyncio.to_thread(shared.remove, image.name)
        gone = [Gone(Digest.parse(digest)) for digest in image.blobs]
        await heard.until(lambda: all(event in heard.times for event in gone), "all content went")
        await heard.until(lambda: Untagged(reference) in heard.times, "the tag went")
        assert heard.store.resolve(reference) is None
        assert not any(heard.store.open(event.digest) for event in gone)
        await pull(shared, image, "cri")
        await heard.until(lambda: heard.store.resolve(reference) and served(heard.store, image), "it is back")


async def test_a_blob_that_is_removed_while_it_is_sent_stays_readable(
    shared: Containerd, source: Origin, fresh_image: Make
) -> None:
    image = fresh_image()
    offer(shared, source, image)
    await pull(shared, image, "cri")
    async with running(place(shared)) as heard:
        await heard.until(lambda: served(heard.store, image), "all is served")
        digest = Digest.of(image.layers[1])
        blob = heard.store.open(digest)
        assert blob is not None
        with blob:
            await asyncio.to_thread(shared.remove, image.name)
            await heard.until(lambda: not shared.path(digest).exists(), "containerd has removed it")
            assert blob.read_span(0, blob.size) == image.layers[1]
            assert heard.store.open(digest) is None


async def test_imported_images_have_the_names_of_their_images(
    shared: Containerd, fresh_image: Make, tmp_path: Path
) -> None:
    image = fresh_image()
    async with running(place(shared)) as heard:
        await heard.until(lambda: heard.store.problem() is None, "containerd was heard of")
        await asyncio.to_thread(shared.load, image.write_archive(tmp_path / "image.tar"))
        reference = Reference.parse(image.name)
        await heard.until(lambda: heard.store.resolve(reference), "the tag is known")
        await heard.until(lambda: served(heard.store, image), "all is served")
        assert all(heard.store.names(Digest.parse(digest)) == {reference.name} for digest in image.blobs)


async def test_content_of_other_namespaces_is_not_served_unless_told(
    shared: Containerd, fresh_image: Make, tmp_path: Path
) -> None:
    before, after, ours = fresh_image(), fresh_image(), fresh_image()
    shared.load(before.write_archive(tmp_path / "before.tar"), namespace="moby")
    shared.load(ours.write_archive(tmp_path / "ours.tar"))
    async with running(place(shared)) as heard, running(place(shared, all_namespaces=True)) as told:
        await heard.until(lambda: served(heard.store, ours), "the namespace's own content is served")
        await told.until(lambda: served(told.store, before), "the other namespace's content is served when told")
        await asyncio.to_thread(shared.load, after.write_archive(tmp_path / "after.tar"), "moby")
        await told.until(lambda: served(told.store, after), "new content of the other namespace is served when told")
        for image in (before, after):
            for digest in image.blobs:
                assert heard.store.open(Digest.parse(digest)) is None
                assert heard.store.size(Digest.parse(digest)) is None
                assert Arrived(Digest.parse(digest)) not in heard.times
            assert told.store.resolve(Reference.parse(image.name)) is None
        # Then the namespace gets the same content: no file changes, and yet it is the namespace's now.
        await asyncio.to_thread(shared.load, tmp_path / "after.tar")
        await heard.until(lambda: served(heard.store, after), "shared content is served")


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


def test_at_least_two_generations_are_tested_in_ci() -> None:
    from tests.kit.containerd import generations

    if os.environ.get("CI"):
        assert len({generation.number for generation in generations()}) >= 2
    else:
        assert shutil.which("bash")
