"""What "local content" means: opening it, naming it, and hearing when it comes and goes.

Nouns: BlobStore, Blob, Ingest, ContentEvent. Every implementation passes ``tests/kit/store_conformance.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO, Protocol, Self

from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference


class Blob:
    """Open local content: an owned descriptor, its size in bytes, its digest. A FileBody that has all its bytes.

    ``close()`` is idempotent and closes the descriptor. A file that is unlinked while open stays readable.
    """

    __slots__ = ("digest", "fd", "size")

    def __init__(self, fd: int, size: int, digest: Digest) -> None:
        self.fd = fd
        self.size = size
        self.digest = digest

    def fileno(self) -> int:
        """The descriptor; borrowed, valid until :meth:`close`."""
        return self.fd

    def available(self, position: int) -> int:
        """How many bytes there are from ``position`` on."""
        return self.size - position

    def wait(self, position: int, wake: Callable[[], None]) -> None:
        """Never called: all bytes are there."""
        raise AssertionError("a blob is never waited for: all its bytes are there")

    def read_span(self, start: int, stop: int) -> bytes:
        """The bytes ``[start, stop)``, for manifests and other small pieces; fewer if the file was cut."""
        return os.pread(self.fd, stop - start, start)

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Arrived:
    """This content is now here, and whole as far as its size is known.

    Content that was written through an Ingest is verified. What other processes put into a store is taken at its
    name, except manifests; whoever receives it verifies it.
    """

    digest: Digest


@dataclass(frozen=True, slots=True)
class Gone:
    """This content is no longer here."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Tagged:
    """This name now means this content (also when it meant other content before)."""

    reference: Reference
    target: Descriptor


@dataclass(frozen=True, slots=True)
class Untagged:
    """This name means nothing here any more."""

    reference: Reference


ContentEvent = Arrived | Gone | Tagged | Untagged


class BlobStore(Protocol):
    """Local content. Look-ups are synchronous and cheap: they are on the path of every request.

    None of them raises for absent content; StoreUnavailable means the store itself does not answer.
    Names, media types and sizes come from the store's own manifests, never from what a request says.
    """

    def open(self, digest: Digest) -> Blob | None:
        """Open content by digest, or None. Regular files only, links are not followed. The caller closes it."""

    def size(self, digest: Digest) -> int | None:
        """Size in bytes of content that is here, or None."""

    def resolve(self, reference: Reference) -> Descriptor | None:
        """What a tag means here, or None."""

    def media_type(self, digest: Digest) -> str | None:
        """The media type of a manifest or index that is here; None for other blobs and for absent content."""

    def names(self, digest: Digest) -> frozenset[str]:
        """The ``registry/repository`` names whose images use this content, as far as known; empty if none."""

    def expected_size(self, digest: Digest) -> int | None:
        """The size that manifests here give this content, wherever it is; None if none does, or they differ."""

    def digests(self) -> Iterable[Digest]:
        """All content that is here, in no order."""

    def references(self) -> Iterable[tuple[Reference, Descriptor]]:
        """All tags that are here."""

    def subscribe(self, listener: Callable[[ContentEvent], None]) -> Callable[[], None]:
        """Call ``listener`` for every change from now on, in order, on the loop's thread; returns the undo.

        Blobs arrive before the manifests that name them, manifests before the tags; they go in reverse, as far as
        the store itself does so.
        """

    async def run(self) -> None:
        """Keep the view current until cancelled (a file watch, an event stream). Look-ups work without it too."""

    def ingest(self, digest: Digest, size: int | None = None) -> Ingest:
        """Begin to write content. Raises StoreError if this store cannot be written."""

    def tag(self, reference: Reference, target: Descriptor) -> None:
        """Make a name mean content that is here. Raises StoreError if that is not so or the store is read-only."""

    def close(self) -> None:
        """Release descriptors and watches; idempotent."""


class Ingest(Protocol):
    """Content that is being written and cannot be seen yet. Committed or thrown away, never half there."""

    def write(self, piece: bytes | memoryview) -> None:
        """Append. Raises OSError (ENOSPC ...): then nothing remains after :meth:`abort`."""

    def commit(self) -> None:
        """Check size and digest, make the content durable and visible. Raises DigestMismatch and keeps nothing."""

    def abort(self) -> None:
        """Throw away what was written; idempotent, does nothing after :meth:`commit`."""


class Batch(Protocol):
    """Content and names that become visible together, or not at all. A context manager: it aborts at the end."""

    def ingest(self, digest: Digest, size: int | None = None) -> Ingest:
        """Begin to write content; its ``commit`` makes it part of the batch. Raises StoreError."""

    def tag(self, reference: Reference, target: Descriptor) -> None:
        """A name that is to mean content of this batch or of the store."""

    def commit(self) -> None:
        """Make all of it durable and visible. Raises StoreError and keeps nothing."""

    def abort(self) -> None:
        """Throw away what was written; idempotent, does nothing after :meth:`commit`."""

    def __enter__(self) -> Batch: ...

    def __exit__(self, *exc: object) -> None: ...


class ImportTarget(BlobStore, Protocol):
    """A store that images can be imported into."""

    def batch(self) -> Batch:
        """Begin to write content and names together."""

    def scratch(self) -> BinaryIO:
        """An empty unlinked file where the store keeps its data, for data on its way. Raises StoreError."""
