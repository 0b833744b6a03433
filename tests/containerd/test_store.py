"""The containerd store over real containerds: what it serves and what it hears."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from fastmirror.oci.descriptor import OCI_INDEX, OCI_MANIFEST
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, Gone, Tagged, Untagged
from tests.kit.containerd import Containerd, generations
from tests.kit.images import Image
from tests.kit.listening import offer, place, pull, running, served
from tests.kit.origin import Origin
from tests.kit.waiting import NOISE

Make = Callable[..., Image]


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


async def test_a_containerd_that_has_never_pulled_is_no_problem_and_its_first_image_is_heard_of(
    node: Containerd, source: Origin, fresh_image: Make
) -> None:
    image = fresh_image()
    offer(node, source, image)
    async with running(place(node)) as heard:
        await heard.until(lambda: heard.store.problem() is None, "containerd was heard of, and nothing is wrong")
        assert heard.store.digests() == []
        await pull(node, image)
        await heard.until(lambda: served(heard.store, image), "all is served")


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
        assert max(heard.times[event] for event in arrived) <= heard.times[tagged] + 0.02 * NOISE
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
        # The file's time is that of the rename; containerd's own record follows when its database is on disk.
        assert late[len(late) // 2] < 0.050 * NOISE, late
        assert late[-1] < 0.4 * NOISE, late


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


def test_at_least_two_generations_are_tested_in_ci() -> None:
    found = {generation.number for generation in generations()}
    assert len(found) >= (2 if os.environ.get("CI") else 0)
    assert len(found) == len(generations())
