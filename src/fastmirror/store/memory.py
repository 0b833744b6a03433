"""A store in memory, for tests and benches."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from typing import BinaryIO

from fastmirror.errors import DigestMismatch, StoreError
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import Blob, ContentEvent
from fastmirror.store.catalog import Catalog, Image
from fastmirror.store.names import ImageName


class MemoryStore:
    """A BlobStore and import target that holds bytes; each opened blob is a memfd of its own. Holds no descriptor."""

    def __init__(self) -> None:
        self._content: dict[Digest, bytes] = {}
        self._images: dict[str, Image] = {}
        self._catalog = Catalog(self._content.get)

    def put(self, content: bytes, algorithm: str = "sha256") -> Digest:
        """Add content; returns its digest."""
        digest = Digest.of(content, algorithm)
        self.add({digest: content}, {})
        return digest

    def remove(self, digest: Digest) -> None:
        """Forget content; nothing happens if it is not here."""
        self._content.pop(digest, None)
        self._catalog.update(left=(digest,))

    def untag(self, reference: Reference) -> None:
        """Forget a name; nothing happens if it is not here."""
        self._images.pop(str(reference), None)
        self._catalog.update(images=self._images)

    def add(self, content: dict[Digest, bytes], tags: dict[Reference, Descriptor]) -> None:
        """Add checked content and names at once. Raises StoreError for a name of content that is not here."""
        self._content.update(content)
        for reference, target in tags.items():
            if target.digest not in self._content:
                raise StoreError(f"{target.digest} is not here, so {reference} cannot mean it")
            name = ImageName(str(reference), reference.name, reference)
            self._images[name.label] = Image(name, target)
        sizes = {digest: len(value) for digest, value in content.items()}
        self._catalog.update(sizes, (), self._images)

    def open(self, digest: Digest) -> Blob | None:
        """A memfd with the content, or None."""
        content = self._content.get(digest)
        if content is None or digest not in self._catalog:
            return None
        fd = os.memfd_create(digest.hex, os.MFD_CLOEXEC)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        return Blob(fd, len(content), digest)

    def size(self, digest: Digest) -> int | None:
        """Size in bytes of content that is here, or None."""
        return len(self._content[digest]) if digest in self._catalog else None

    def resolve(self, reference: Reference) -> Descriptor | None:
        """What a tag means here, or None."""
        return self._catalog.resolve(reference)

    def media_type(self, digest: Digest) -> str | None:
        """The media type from the manifest's own bytes, or None."""
        return self._catalog.media_type(digest) if digest in self._catalog else None

    def names(self, digest: Digest) -> frozenset[str]:
        """The ``registry/repository`` names that reach this content."""
        return self._catalog.names(digest)

    def expected_size(self, digest: Digest) -> int | None:
        """See ``BlobStore.expected_size``."""
        return self._catalog.expected_size(digest)

    def digests(self) -> list[Digest]:
        """All content that is here."""
        return self._catalog.digests()

    def references(self) -> list[tuple[Reference, Descriptor]]:
        """All tags whose manifest is here."""
        return self._catalog.references()

    def subscribe(self, listener: Callable[[ContentEvent], None]) -> Callable[[], None]:
        """Call ``listener`` for every change from now on; returns the undo."""
        return self._catalog.subscribe(listener)

    async def run(self) -> None:
        """Wait until cancelled: nobody else changes this store."""
        await asyncio.Event().wait()

    def ingest(self, digest: Digest, size: int | None = None) -> MemoryIngest:
        """Begin to write content."""
        return MemoryIngest(digest, size, lambda content: self.add({digest: content}, {}))

    def tag(self, reference: Reference, target: Descriptor) -> None:
        """Make a name mean content. Raises StoreError for content that is not here."""
        self.add({}, {reference: target})

    def batch(self) -> MemoryBatch:
        """Begin to write content and names that become visible together."""
        return MemoryBatch(self)

    def scratch(self) -> BinaryIO:
        """An empty unlinked file, for data on its way."""
        return tempfile.TemporaryFile(buffering=0)

    def close(self) -> None:
        """Forget all content; idempotent."""
        self._content.clear()


class MemoryIngest:
    """Content that is being written to memory; :meth:`commit` hands the bytes on."""

    def __init__(self, digest: Digest, size: int | None, done: Callable[[bytes], None]) -> None:
        self._digest = digest
        self._size = size
        self._content = bytearray()
        self._done: Callable[[bytes], None] | None = done

    def write(self, piece: bytes | memoryview) -> None:
        """Append."""
        self._content += piece

    def commit(self) -> None:
        """Check and keep. Raises DigestMismatch and keeps nothing."""
        assert self._done is not None, "committed or aborted before"
        done, self._done = self._done, None
        content = bytes(self._content)
        actual = Digest.of(content, self._digest.algorithm)
        if actual != self._digest or self._size not in (None, len(content)):
            raise DigestMismatch(self._digest, actual, len(content))
        done(content)

    def abort(self) -> None:
        """Throw away what was written; idempotent."""
        self._done = None
        self._content.clear()


class MemoryBatch:
    """Content and names that go into a MemoryStore together."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._content: dict[Digest, bytes] = {}
        self._tags: dict[Reference, Descriptor] = {}

    def ingest(self, digest: Digest, size: int | None = None) -> MemoryIngest:
        """Begin to write content; its ``commit`` makes it part of the batch."""
        return MemoryIngest(digest, size, lambda content: self._content.update({digest: content}))

    def tag(self, reference: Reference, target: Descriptor) -> None:
        """A name that is to mean content of this batch or of the store."""
        self._tags[reference] = target

    def commit(self) -> None:
        """Put all of it into the store. Raises StoreError for a name of content that is nowhere."""
        self._store.add(self._content, self._tags)
        self._content = {}

    def abort(self) -> None:
        """Throw away what was written."""
        self._content = {}

    def __enter__(self) -> MemoryBatch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()
