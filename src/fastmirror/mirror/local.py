"""Answers from this node's own content."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from fastmirror.chunks.scrub import Scrubber
from fastmirror.fetch.lru import Lru
from fastmirror.fetch.seen import Seen
from fastmirror.http.message import Reply, Request
from fastmirror.mirror import answers
from fastmirror.mirror.filters import Filters
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import MAX_BYTES, parse_manifest
from fastmirror.oci.pull import Pull
from fastmirror.oci.span import span_for
from fastmirror.store import Blob, BlobStore

log = logging.getLogger(__name__)

SMALL_BYTES: Final = 32 * 1024  # up to here head and body leave in one send from memory (measured: docs/performance.md)

LOOKED: Final = 1024  # large manifests whose kind is remembered

Done = Callable[[int, bool], object]


class _Looked(NamedTuple):
    """What a look at a file showed; ``state`` tells whether it is still that file."""

    state: tuple[int, ...]
    media_type: str | None


class Local:
    """Turns a pull into a reply if this node has the content and may serve it; None otherwise, which is no error.

    The ``scrubber`` hears of the blobs that are served, and says which files are wrong: to have those is to have none.
    """

    def __init__(
        self, store: BlobStore, filters: Filters, seen: Seen | None = None, scrubber: Scrubber | None = None
    ) -> None:
        self._store = store
        self._filters = filters
        self._seen = seen or Seen()
        self._scrubber = scrubber
        self._looked: Lru[Digest, _Looked] = Lru(LOOKED)

    def may_serve(self, digest: Digest) -> bool:
        """Whether the filters let this content be served, whatever a request calls it."""
        return not self._filters or self._filters.allows(self._store.names(digest))

    def answer(self, pull: Pull, request: Request, done: Done | None = None) -> Reply | None:
        """The reply, or None if the content is not here. Raises RangeNotSatisfiable, StoreUnavailable."""
        if pull.kind == "blobs":
            return self._blob(pull, request, done)
        return self._manifest(pull, done)

    def _blob(self, pull: Pull, request: Request, done: Done | None) -> Reply | None:
        digest = pull.digest
        assert digest is not None
        if self._is_withheld(pull, digest):
            return None
        blob = self._open(digest, asked_for=request.method == "GET")
        if blob is None:
            return None
        try:
            ranged = request.method == "GET" and request.range is not None
            span = span_for(request.range, request.if_range, answers.etag(digest), blob.size) if ranged else None
            head = answers.blob_head(digest, blob.size, span, pull.registry)
            start, stop = span or (0, blob.size)
            if start and self._seen.handover.was_cut(digest, start, time.monotonic()):
                return None  # the file could not be read from here on a moment ago
            if stop - start > SMALL_BYTES:
                taken, blob = blob, None
                self._seen.handover.begin(digest, taken.size, time.monotonic())
                return Reply(head, body=taken, start=start, stop=stop, done=done, cut=partial(self._cut, digest))
            content = blob.read_span(start, stop)
            if len(content) != stop - start:
                return None  # cut since it was opened: nothing was promised yet, so somebody else may serve it
            kept = span is None and self._may_keep(digest, content)
            return Reply(head, content, cacheable=kept, done=done)
        finally:
            if blob is not None:
                blob.close()

    def _open(self, digest: Digest, *, asked_for: bool) -> Blob | None:
        blob = self._store.open(digest)
        if blob is None or self._scrubber is None:
            return blob
        if self._scrubber.condemned(blob):
            blob.close()
            return None
        if asked_for and blob.size > SMALL_BYTES:
            self._scrubber.served(digest)
        return blob

    def _manifest(self, pull: Pull, done: Done | None) -> Reply | None:
        digest = pull.digest
        if pull.reference is not None:
            target = self._store.resolve(pull.reference)
            if target is None or not self._filters.allows((pull.reference.name,)):
                return None
            digest = target.digest
        assert digest is not None
        if self._is_withheld(pull, digest):
            return None
        blob = self._store.open(digest)
        if blob is None:
            return None
        try:
            media_type, content = self._look(digest, blob)
            if media_type is None:
                return None
            head = answers.manifest_head(Descriptor(media_type, digest, blob.size), pull.registry)
            if blob.size > SMALL_BYTES:
                taken, blob = blob, None
                return Reply(head, body=taken, stop=taken.size, done=done, cut=partial(self._cut, digest))
            kept = pull.reference is None and not self._filters
            return Reply(head, content, cacheable=kept, done=done)
        finally:
            if blob is not None:
                blob.close()

    def _look(self, digest: Digest, blob: Blob) -> tuple[str | None, bytes]:
        """The media type of a manifest (None: none, or damaged), and its bytes unless they are known to be right.

        Large ones are read, hashed and parsed once, not for every request, as long as their file stays the same.
        """
        status = os.fstat(blob.fd)
        state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        large = blob.size > SMALL_BYTES
        looked = self._looked.get(digest) if large else None
        if looked is not None and looked.state == state:
            return looked.media_type, b""
        content = blob.read_span(0, blob.size) if blob.size <= MAX_BYTES else b""
        right = Digest.of(content, digest.algorithm) == digest
        manifest = parse_manifest(content) if right else None
        if manifest is not None:
            self._seen.sizes.learn(manifest)
        media_type = manifest.media_type if manifest is not None else None
        if large:
            self._looked.put(digest, _Looked(state, media_type))
        return media_type, content

    def _is_withheld(self, pull: Pull, digest: Digest) -> bool:
        """Whether the filters keep this content back. Raises the 404 if it is here: then no peer is asked for it."""
        if self.may_serve(digest):
            return False
        if self._store.size(digest) is not None:
            raise pull.unknown("not one that this node serves")
        return True

    def _may_keep(self, digest: Digest, content: bytes) -> bool:
        """Whether equal requests may get this content again without a look at the store: it is right, and for all."""
        return not self._filters and Digest.of(content, digest.algorithm) == digest

    def _cut(self, digest: Digest, offset: int) -> None:
        extra = {"event": "mirror.file_cut", "digest": digest, "bytes": offset}
        log.warning("a local file could not be read to its end: the body was cut", extra=extra)
        self._seen.handover.cut(digest, offset, time.monotonic())
