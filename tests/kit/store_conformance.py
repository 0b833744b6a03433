"""What every store must do. A test class takes these tests by inheriting from StoreConformance."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from fastmirror.errors import DigestMismatch, StoreError
from fastmirror.oci.descriptor import OCI_INDEX, OCI_MANIFEST, OCTET_STREAM, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, ContentEvent, Gone, ImportTarget, Tagged, Untagged
from tests.kit import content

ABSENT = Digest.of(b"absent")
NAME = "registry.example/team/app:1"
OTHER = "registry.example:5000/team/other:2"


class Heard(list[ContentEvent]):
    """The events of a store, in order."""

    def position(self, event: ContentEvent) -> int:
        assert self.count(event) == 1, f"{event} was told {self.count(event)} times"
        return self.index(event)


class StoreConformance:
    """Inherit, and give the fixture ``store``: an empty store that can be written. Other processes do not change it."""

    @pytest.fixture
    def store(self) -> ImportTarget:
        raise NotImplementedError

    def remove(self, store: Any, digest: Digest) -> None:
        """Take content away as its owner would."""
        raise NotImplementedError

    def untag(self, store: Any, reference: Reference) -> None:
        """Take a name away as its owner would."""
        raise NotImplementedError

    @pytest.fixture
    def heard(self, store: ImportTarget) -> Heard:
        heard = Heard()
        store.subscribe(heard.append)
        return heard

    def test_absent_content_is_none_everywhere(self, store: ImportTarget) -> None:
        assert store.open(ABSENT) is None
        assert store.open(Digest.of(b"absent", "sha512")) is None
        assert store.size(ABSENT) is None
        assert store.media_type(ABSENT) is None
        assert store.names(ABSENT) == frozenset()
        assert store.resolve(Reference.parse(NAME)) is None
        assert list(store.digests()) == []
        assert list(store.references()) == []

    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    @pytest.mark.parametrize("size", [0, 1, 4096, 3 << 20])
    def test_content_is_read_back_as_it_was_written(self, store: ImportTarget, algorithm: str, size: int) -> None:
        whole = content.blob(size, seed=size)
        digest = content.put_blob(store, whole, Digest.of(whole, algorithm))
        blob = store.open(digest)
        assert blob is not None
        with blob:
            assert (blob.size, blob.digest) == (size, digest)
            assert os.pread(blob.fileno(), size + 1, 0) == whole
            assert blob.read_span(size // 2, size) == whole[size // 2 :]
        assert store.size(digest) == size
        assert list(store.digests()) == [digest]

    def test_an_open_blob_is_closed_once_and_stays_readable_after_removal(self, store: ImportTarget) -> None:
        digest = content.put_blob(store, b"kept while open")
        blob = store.open(digest)
        assert blob is not None
        self.remove(store, digest)
        assert store.open(digest) is None
        assert blob.read_span(0, blob.size) == b"kept while open"
        blob.close()
        blob.close()
        assert blob.fd == -1

    def test_two_readers_of_one_blob_do_not_move_each_other(self, store: ImportTarget) -> None:
        digest = content.put_blob(store, b"0123456789")
        first, second = store.open(digest), store.open(digest)
        assert first is not None
        assert second is not None
        with first, second:
            assert first.read_span(0, 5) == b"01234"
            assert second.read_span(0, 5) == b"01234"
            assert first.fd != second.fd

    def test_content_in_progress_cannot_be_seen(self, store: ImportTarget, heard: Heard) -> None:
        digest = Digest.of(b"in progress")
        ingest = store.ingest(digest, 11)
        ingest.write(b"in ")
        ingest.write(memoryview(b"progress"))
        assert store.open(digest) is None
        assert list(store.digests()) == []
        assert heard == []
        ingest.commit()
        assert store.size(digest) == 11
        assert heard == [Arrived(digest)]

    @pytest.mark.parametrize(("written", "size"), [(b"other bytes", None), (b"promised", 9), (b"promise", 8)])
    def test_content_that_is_not_what_was_promised_is_refused(
        self, store: ImportTarget, heard: Heard, written: bytes, size: int | None
    ) -> None:
        digest = Digest.of(b"promised")
        ingest = store.ingest(digest, size)
        ingest.write(written)
        with pytest.raises(DigestMismatch):
            ingest.commit()
        assert store.open(digest) is None
        assert list(store.digests()) == []
        assert heard == []

    def test_aborted_content_is_not_there_and_abort_may_come_again_or_after_commit(self, store: ImportTarget) -> None:
        digest = Digest.of(b"once")
        ingest = store.ingest(digest)
        ingest.write(b"once")
        ingest.abort()
        ingest.abort()
        assert store.open(digest) is None
        ingest = store.ingest(digest)
        ingest.write(b"once")
        ingest.commit()
        ingest.abort()
        assert store.size(digest) == 4

    def test_content_written_again_arrives_once(self, store: ImportTarget, heard: Heard) -> None:
        digest = content.put_blob(store, b"again")
        content.put_blob(store, b"again")
        assert heard == [Arrived(digest)]
        assert store.size(digest) == 5

    def test_a_tag_resolves_to_the_manifest_with_the_media_type_of_its_bytes(self, store: ImportTarget) -> None:
        made = content.image()
        (reference,) = content.put(store, made, NAME)
        assert store.resolve(reference) == Descriptor(OCI_MANIFEST, made.target.digest, len(made.manifest))
        assert list(store.references()) == [(reference, made.target)]
        store.tag(reference, made.target._replace(media_type=OCTET_STREAM))
        assert store.resolve(reference) == made.target

    def test_only_manifests_and_indexes_have_a_media_type(self, store: ImportTarget) -> None:
        first, second = content.image(seed=1), content.image(seed=2)
        whole = content.index([first, second])
        content.put(store, whole, NAME)
        loose = content.image(seed=3)
        content.put(store, loose)
        assert store.media_type(whole.target.digest) == OCI_INDEX
        assert store.media_type(second.target.digest) == OCI_MANIFEST
        assert store.media_type(loose.target.digest) == OCI_MANIFEST
        assert first.config is not None
        for other in (first.config.digest, first.layers[0].digest, content.put_blob(store, b'{"schemaVersion":2}')):
            assert store.media_type(other) is None

    def test_all_content_below_a_tag_has_its_name(self, store: ImportTarget) -> None:
        shared = content.image(seed=1)
        whole = content.index([shared, content.image(seed=2)])
        content.put(store, whole, NAME)
        content.put(store, shared, OTHER)
        stray = content.put_blob(store, b"stray")
        both = {"registry.example/team/app", "registry.example:5000/team/other"}
        for digest in whole.blobs:
            assert store.names(digest) == (both if digest in shared.blobs else {"registry.example/team/app"})
        assert store.names(stray) == frozenset()

    def test_an_image_with_sha512_digests_is_served_alike(self, store: ImportTarget) -> None:
        made = content.image(algorithm="sha512")
        (reference,) = content.put(store, made, NAME)
        target = store.resolve(reference)
        assert target is not None
        assert target.digest.algorithm == "sha512"
        assert all(store.names(digest) == {"registry.example/team/app"} for digest in made.blobs)

    def test_the_largest_manifest_is_known_as_one(self, store: ImportTarget) -> None:
        made = content.large_image()
        assert len(made.manifest) > 3_900_000
        (reference,) = content.put(store, made, NAME)
        assert store.resolve(reference) == made.target
        assert store.media_type(made.target.digest) == OCI_MANIFEST
        assert store.names(made.layers[0].digest) == {"registry.example/team/app"}

    def test_a_tag_of_absent_content_is_refused(self, store: ImportTarget, heard: Heard) -> None:
        with pytest.raises(StoreError, match=r"not here|not in"):
            store.tag(Reference.parse(NAME), Descriptor(OCI_MANIFEST, ABSENT, 6))
        assert store.resolve(Reference.parse(NAME)) is None
        assert heard == []

    def test_a_moved_tag_names_the_new_image_and_no_longer_the_old_one(self, store: ImportTarget, heard: Heard) -> None:
        old, new = content.image(seed=1), content.image(seed=2)
        (reference,) = content.put(store, old, NAME)
        content.put(store, new, NAME)
        assert store.resolve(reference) == new.target
        assert store.names(new.layers[0].digest) == {"registry.example/team/app"}
        assert store.names(old.layers[0].digest) == frozenset()
        assert heard.position(Tagged(reference, old.target)) < heard.position(Tagged(reference, new.target))
        assert not any(isinstance(event, Untagged) for event in heard)

    def test_a_tag_set_again_is_no_event(self, store: ImportTarget, heard: Heard) -> None:
        made = content.image()
        (reference,) = content.put(store, made, NAME)
        before = len(heard)
        store.tag(reference, made.target)
        assert len(heard) == before

    def test_a_name_and_content_that_go_are_told_once_and_known_no_more(
        self, store: ImportTarget, heard: Heard
    ) -> None:
        made = content.image()
        (reference,) = content.put(store, made, NAME)
        self.untag(store, reference)
        assert store.resolve(reference) is None
        assert all(store.names(digest) == frozenset() for digest in made.blobs)
        for digest in made.blobs:
            self.remove(store, digest)
        assert list(store.digests()) == []
        assert heard.position(Untagged(reference)) < min(heard.position(Gone(digest)) for digest in made.blobs)
        assert store.media_type(made.target.digest) is None

    def test_a_name_whose_manifest_goes_is_untagged_before_it_is_gone_and_comes_back_with_it(
        self, store: ImportTarget, heard: Heard
    ) -> None:
        made = content.image()
        (reference,) = content.put(store, made, NAME)
        self.remove(store, made.target.digest)
        assert store.resolve(reference) is None
        assert list(store.digests()) != []
        assert heard.position(Untagged(reference)) < heard.position(Gone(made.target.digest))
        del heard[:]
        content.put_blob(store, made.manifest)
        store.tag(reference, made.target)
        assert store.resolve(reference) == made.target
        assert heard.position(Arrived(made.target.digest)) < heard.position(Tagged(reference, made.target))

    def test_a_batch_becomes_visible_at_once_and_in_order(self, store: ImportTarget, heard: Heard) -> None:
        whole = content.index([content.image(seed=1), content.image(seed=2)])
        reference = Reference.parse(NAME)
        with store.batch() as batch:
            for digest, each in reversed(whole.blobs.items()):
                ingest = batch.ingest(digest, len(each))
                ingest.write(each)
                ingest.commit()
            batch.tag(reference, whole.target)
            assert list(store.digests()) == []
            assert heard == []
            batch.commit()
        assert set(store.digests()) == set(whole.blobs)
        arrived = [event.digest for event in heard if isinstance(event, Arrived)]
        assert len(arrived) == len(whole.blobs)
        manifests = [digest for digest in arrived if store.media_type(digest) == OCI_MANIFEST]
        assert arrived[-3:] == [*manifests, whole.target.digest]
        assert heard[-1] == Tagged(reference, whole.target)

    def test_a_batch_that_is_not_committed_leaves_nothing(self, store: ImportTarget, heard: Heard) -> None:
        with store.batch() as batch:
            ingest = batch.ingest(Digest.of(b"one"), 3)
            ingest.write(b"one")
            ingest.commit()
            batch.tag(Reference.parse(NAME), content.describe(OCI_MANIFEST, b"one"))
        assert list(store.digests()) == []
        assert store.resolve(Reference.parse(NAME)) is None
        assert heard == []

    def test_a_listener_hears_nothing_after_its_undo(self, store: ImportTarget) -> None:
        heard = Heard()
        undo = store.subscribe(heard.append)
        first = content.put_blob(store, b"first")
        undo()
        undo()
        content.put_blob(store, b"second")
        assert heard == [Arrived(first)]

    def test_a_listener_may_ask_the_store_while_it_is_told(self, store: ImportTarget) -> None:
        seen = []

        def look(event: ContentEvent) -> None:
            if isinstance(event, Arrived):
                seen.append((event.digest, store.size(event.digest), store.media_type(event.digest)))

        store.subscribe(look)
        made = content.image()
        content.put(store, made, NAME)
        assert (made.target.digest, made.target.size, OCI_MANIFEST) in seen
        assert all(size == len(made.blobs[digest]) for digest, size, _ in seen)

    async def test_it_runs_until_cancelled_and_answers_as_before(self, store: ImportTarget, heard: Heard) -> None:
        made = content.image()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(store.run())
            await asyncio.sleep(0)
            (reference,) = content.put(store, made, NAME)
            assert store.resolve(reference) == made.target
            assert set(store.digests()) == set(made.blobs)
            assert not running.done()
            running.cancel()
        assert running.cancelled()
        assert store.resolve(reference) == made.target
        assert heard[-1] == Tagged(reference, made.target)

    def test_scratch_is_an_empty_file_without_a_name(self, store: ImportTarget) -> None:
        with store.scratch() as file:
            file.write(b"on its way")
            assert os.pread(file.fileno(), 100, 0) == b"on its way"
            assert os.fstat(file.fileno()).st_nlink == 0
        assert list(store.digests()) == []

    def test_close_may_come_again(self, store: ImportTarget) -> None:
        content.put_blob(store, b"x")
        store.close()
        store.close()
