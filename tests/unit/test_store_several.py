"""Several stores as one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from fastmirror.errors import StoreError, StoreUnavailable
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, Batch, Blob, ContentEvent, Gone, Ingest, Tagged, Untagged
from fastmirror.store.layout import open_layout
from fastmirror.store.memory import MemoryStore
from fastmirror.store.several import SeveralStores
from tests.kit import content
from tests.kit.foreign import Foreign, Listener
from tests.kit.store_conformance import NAME, StoreConformance

REFERENCE = Reference.parse(NAME)


class WritableSeveral(SeveralStores):
    """With what an import needs besides, from the first store."""

    def __init__(self, *stores: MemoryStore) -> None:
        super().__init__(stores)
        self.parts = stores

    def batch(self) -> Batch:
        return self.parts[0].batch()

    def scratch(self) -> BinaryIO:
        return self.parts[0].scratch()


class TestSeveralStores(StoreConformance):
    @pytest.fixture
    def store(self) -> WritableSeveral:
        return WritableSeveral(MemoryStore(), MemoryStore())

    def remove(self, store: Any, digest: Digest) -> None:
        store.parts[0].remove(digest)

    def untag(self, store: Any, reference: Reference) -> None:
        store.parts[0].untag(reference)


class Mute(MemoryStore):
    """A store that does not answer."""

    def open(self, digest: Digest) -> Blob | None:
        raise StoreUnavailable("restarting")

    def size(self, digest: Digest) -> int | None:
        raise StoreUnavailable("restarting")

    def ingest(self, digest: Digest, size: int | None = None) -> Any:
        raise StoreError("read-only")

    def tag(self, reference: Reference, target: Any) -> None:
        raise StoreError("read-only")


@pytest.fixture
def first() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def second() -> MemoryStore:
    return MemoryStore()


def listen(store: SeveralStores) -> list[ContentEvent]:
    heard: list[ContentEvent] = []
    store.subscribe(heard.append)
    return heard


def test_content_of_any_store_is_found_and_counted_once(first: MemoryStore, second: MemoryStore) -> None:
    both = SeveralStores([first, second])
    one, two, shared = first.put(b"one"), second.put(b"two"), first.put(b"shared")
    second.put(b"shared")
    assert sorted(both.digests()) == sorted([one, two, shared])
    for digest in (one, two, shared):
        blob = both.open(digest)
        assert blob is not None
        blob.close()


def test_of_one_name_in_several_stores_the_first_meaning_counts(first: MemoryStore, second: MemoryStore) -> None:
    early, late = content.image(seed=1), content.image(seed=2)
    content.put(first, early, NAME)
    content.put(second, late, NAME, "registry.example/only:1")
    both = SeveralStores([first, second])
    assert both.resolve(REFERENCE) == early.target
    assert dict(both.references())[REFERENCE] == early.target
    assert both.resolve(Reference.parse("registry.example/only:1")) == late.target
    assert both.names(late.layers[0].digest) == {"registry.example/team/app", "registry.example/only"}


def test_content_is_gone_with_its_last_holder(first: MemoryStore, second: MemoryStore) -> None:
    before = first.put(b"before")
    both = SeveralStores([first, second])
    heard = listen(both)
    second.put(b"before")
    first.remove(before)
    assert heard == []
    second.remove(before)
    assert heard == [Gone(before)]
    first.put(b"before")
    second.put(b"before")
    assert heard == [Gone(before), Arrived(before)]


def test_a_name_falls_back_to_the_next_store_that_knows_it(first: MemoryStore, second: MemoryStore) -> None:
    early, late = content.image(seed=1), content.image(seed=2)
    content.put(second, late, NAME)
    both = SeveralStores([first, second])
    content.put(first, early)
    heard = listen(both)
    first.tag(REFERENCE, early.target)
    second.untag(REFERENCE)
    content.put(second, late, NAME)
    assert heard == [Tagged(REFERENCE, early.target)]
    first.untag(REFERENCE)
    assert heard[1:] == [Tagged(REFERENCE, late.target)]
    second.untag(REFERENCE)
    assert heard[2:] == [Untagged(REFERENCE)]


def test_a_store_that_does_not_answer_is_passed_over(second: MemoryStore) -> None:
    digest = second.put(b"here")
    both = SeveralStores([Mute(), second])
    blob = both.open(digest)
    assert blob is not None
    blob.close()
    assert both.size(digest) == 4
    with pytest.raises(StoreUnavailable):
        both.open(Digest.of(b"perhaps in the one that does not answer"))


def test_the_first_store_that_can_be_written_is_written(second: MemoryStore) -> None:
    mute = Mute()
    both = SeveralStores([mute, second])
    made = content.image()
    for digest, whole in made.blobs.items():
        ingest: Ingest = both.ingest(digest)
        ingest.write(whole)
        ingest.commit()
    both.tag(REFERENCE, made.target)
    assert second.resolve(REFERENCE) == made.target
    with pytest.raises(StoreError, match="read-only"):
        SeveralStores([mute]).ingest(made.target.digest)


@pytest.fixture
def layouts(tmp_path: Path) -> Iterator[Callable[[], SeveralStores]]:
    opened = []

    def make() -> SeveralStores:
        store = SeveralStores([open_layout(tmp_path / name, create=True) for name in ("a", "b")])
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


async def test_all_stores_are_watched_while_it_runs(layouts: Callable[[], SeveralStores], tmp_path: Path) -> None:
    store = layouts()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(store.run())
        listener = Listener(store)
        one, two = Foreign(tmp_path / "a").add(b"one"), Foreign(tmp_path / "b").add(b"two")
        await listener.until(Arrived(one))
        await listener.until(Arrived(two))
        task.cancel()
    store.close()
    store.close()
