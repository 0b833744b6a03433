"""Several stores as one, asked in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from fastmirror.errors import StoreError, StoreUnavailable
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, Blob, BlobStore, ContentEvent, Gone, Ingest, Tagged, Untagged

T = TypeVar("T")


class SeveralStores:
    """Content that is in any of the stores; of one name in several, the first store's meaning counts.

    A store that does not answer is passed over; StoreUnavailable is raised only where no other one had the content.
    An event is told when the whole changes: content arrives with the first store that gets it, and is gone with the
    last. Owns the stores: :meth:`close` closes them.
    """

    def __init__(self, stores: Sequence[BlobStore]) -> None:
        self._stores = tuple(stores)
        self._holders: dict[Digest, set[int]] = {}
        self._tags: list[dict[Reference, Descriptor]] = [dict(store.references()) for store in self._stores]
        self._listeners: list[Callable[[ContentEvent], None]] = []
        for number, store in enumerate(self._stores):
            for digest in store.digests():
                self._holders.setdefault(digest, set()).add(number)
        self._undo = [store.subscribe(partial(self._hear, number)) for number, store in enumerate(self._stores)]

    def open(self, digest: Digest) -> Blob | None:
        """Open content in the first store that has it."""
        return self._first(lambda store: store.open(digest))

    def size(self, digest: Digest) -> int | None:
        """Size in bytes of content that is in any store."""
        return self._first(lambda store: store.size(digest))

    def resolve(self, reference: Reference) -> Descriptor | None:
        """What a tag means in the first store that knows it."""
        return self._first(lambda store: store.resolve(reference))

    def media_type(self, digest: Digest) -> str | None:
        """The media type of a manifest in any store."""
        return self._first(lambda store: store.media_type(digest))

    def names(self, digest: Digest) -> frozenset[str]:
        """The ``registry/repository`` names that any store knows for this content."""
        return frozenset().union(*(store.names(digest) for store in self._stores))

    def expected_size(self, digest: Digest) -> int | None:
        """What the manifests of all stores give, if they agree."""
        told = {size for store in self._stores if (size := store.expected_size(digest)) is not None}
        return told.pop() if len(told) == 1 else None

    def digests(self) -> list[Digest]:
        """All content, each once."""
        return list(dict.fromkeys(digest for store in self._stores for digest in store.digests()))

    def references(self) -> list[tuple[Reference, Descriptor]]:
        """All tags, each with the meaning that counts."""
        merged: dict[Reference, Descriptor] = {}
        for store in reversed(self._stores):
            merged.update(store.references())
        return list(merged.items())

    def subscribe(self, listener: Callable[[ContentEvent], None]) -> Callable[[], None]:
        """Call ``listener`` for every change of the whole from now on; returns the undo."""
        self._listeners.append(listener)

        def undo() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return undo

    async def run(self) -> None:
        """Run all stores until cancelled; an exception of one ends all."""
        async with asyncio.TaskGroup() as group:
            for number, store in enumerate(self._stores):
                group.create_task(store.run(), name=f"store {number}")

    def ingest(self, digest: Digest, size: int | None = None) -> Ingest:
        """Begin to write content into the first store that can be written. Raises StoreError if none can."""
        return self._written(lambda store: store.ingest(digest, size))

    def tag(self, reference: Reference, target: Descriptor) -> None:
        """Make a name mean content, in the first store that has it and can be written. Raises StoreError."""
        self._written(lambda store: store.tag(reference, target))

    def close(self) -> None:
        """Close all stores; idempotent."""
        for undo in self._undo:
            undo()
        for store in self._stores:
            store.close()

    def _first(self, ask: Callable[[BlobStore], T | None]) -> T | None:
        unavailable = None
        for store in self._stores:
            try:
                found = ask(store)
            except StoreUnavailable as error:
                unavailable = error
                continue
            if found is not None:
                return found
        if unavailable is not None:
            raise unavailable
        return None

    def _written(self, attempt: Callable[[BlobStore], T]) -> T:
        refusal = StoreError("there is no store")
        for store in self._stores:
            try:
                return attempt(store)
            except StoreError as error:
                refusal = error
        raise refusal

    def _hear(self, number: int, event: ContentEvent) -> None:
        if isinstance(event, Arrived):
            holders = self._holders.setdefault(event.digest, set())
            holders.add(number)
            if len(holders) == 1:
                self._tell(event)
        elif isinstance(event, Gone):
            holders = self._holders.get(event.digest, set())
            holders.discard(number)
            if not holders and self._holders.pop(event.digest, None) is not None:
                self._tell(event)
        else:
            self._hear_name(number, event)

    def _hear_name(self, number: int, event: Tagged | Untagged) -> None:
        before = self._meaning(event.reference)
        if isinstance(event, Tagged):
            self._tags[number][event.reference] = event.target
        else:
            self._tags[number].pop(event.reference, None)
        after = self._meaning(event.reference)
        if after is None and before is not None:
            self._tell(Untagged(event.reference))
        elif after is not None and after != before:
            self._tell(Tagged(event.reference, after))

    def _meaning(self, reference: Reference) -> Descriptor | None:
        return next((tags[reference] for tags in self._tags if reference in tags), None)

    def _tell(self, event: ContentEvent) -> None:
        for listener in tuple(self._listeners):
            listener(event)
