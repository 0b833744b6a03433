"""Several stores as one: asked in order, the first that has content gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from fastmirror.errors import StoreUnavailable
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, Blob, BlobStore, ContentEvent, Gone, Ingest, Tagged, Untagged

T = TypeVar("T")


class SeveralStores:
    """A BlobStore over others, which it owns. What is written goes to the first.

    A store that does not answer is passed over if another one has the content; its StoreUnavailable is raised only
    if none has. Content is gone, and a name means nothing, when that is so in all of them.
    """

    def __init__(self, stores: Sequence[BlobStore]) -> None:
        self._stores = tuple(stores)

    def open(self, digest: Digest) -> Blob | None:
        """Open content in the first store that has it, or None."""
        return self._first(lambda store: store.open(digest))

    def size(self, digest: Digest) -> int | None:
        """Size in bytes, or None."""
        return self._first(lambda store: store.size(digest))

    def resolve(self, reference: Reference) -> Descriptor | None:
        """What a tag means in the first store that knows it, or None."""
        return self._first(lambda store: store.resolve(reference))

    def media_type(self, digest: Digest) -> str | None:
        """The media type of a manifest, or None."""
        return self._first(lambda store: store.media_type(digest))

    def names(self, digest: Digest) -> frozenset[str]:
        """The names of the content in all stores."""
        return frozenset[str]().union(*(store.names(digest) for store in self._stores))

    def digests(self) -> Iterator[Digest]:
        """All content, each once."""
        seen: set[Digest] = set()
        for store in self._stores:
            for digest in store.digests():
                if digest not in seen:
                    seen.add(digest)
                    yield digest

    def references(self) -> Iterator[tuple[Reference, Descriptor]]:
        """All tags, each once, with what it means in the first store that knows it."""
        seen: set[Reference] = set()
        for store in self._stores:
            for reference, target in store.references():
                if reference not in seen:
                    seen.add(reference)
                    yield reference, target

    def subscribe(self, listener: Callable[[ContentEvent], None]) -> Callable[[], None]:
        """Call ``listener`` for what changes in the whole; returns the undo."""
        undo = [store.subscribe(partial(self._tell, listener)) for store in self._stores]

        def cancel() -> None:
            for each in undo:
                each()

        return cancel

    def _tell(self, listener: Callable[[ContentEvent], None], event: ContentEvent) -> None:
        match event:
            case Gone(digest) if self._held(digest):
                return
            case Tagged(reference) | Untagged(reference):
                target = self.resolve(reference)
                listener(Untagged(reference) if target is None else Tagged(reference, target))
            case Arrived() | Gone():
                listener(event)

    async def run(self) -> None:
        """Keep all views current until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number, store in enumerate(self._stores):
                group.create_task(store.run(), name=f"store {number}")

    def ingest(self, digest: Digest, size: int | None = None) -> Ingest:
        """Begin to write content into the first store. Raises StoreError."""
        return self._stores[0].ingest(digest, size)

    def tag(self, reference: Reference, target: Descriptor) -> None:
        """Name content in the first store. Raises StoreError."""
        self._stores[0].tag(reference, target)

    def close(self) -> None:
        """Close all of them; idempotent."""
        for store in self._stores:
            store.close()

    def _held(self, digest: Digest) -> bool:
        try:
            return self.size(digest) is not None
        except StoreUnavailable:
            return True  # nobody knows: a look-up will tell

    def _first(self, ask: Callable[[BlobStore], T | None]) -> T | None:
        unavailable: StoreUnavailable | None = None
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
