"""What was served is read once more and compared with its digest, so that a disk that rots is found out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from functools import partial
from typing import Final

from fastmirror._native.check import Follow
from fastmirror._native.hashing import Hasher
from fastmirror.chunks.checks import Checks
from fastmirror.errors import StoreError
from fastmirror.oci.digest import Digest
from fastmirror.store import Arrived, Blob, BlobStore, ContentEvent, Gone

log = logging.getLogger(__name__)

AFTER_SECONDS: Final = 1.0
"""How long after a blob was asked for: while its bytes are still in memory, and behind what the client waits for."""
_MOST: Final = 4096  # blobs that wait


class Scrubber:
    """Compares blobs with their digests, each once after it was first :meth:`served`, one at a time.

    What is wrong is :meth:`condemned` until its file is another one. Borrows the ``checks``; owns what it reads until
    :meth:`close`. Lives on the loop's thread.
    """

    def __init__(self, store: BlobStore, checks: Checks) -> None:
        self.found = 0
        self._store = store
        self._checks = checks
        self._loop = asyncio.get_running_loop()
        self._seen: set[Digest] = set()
        self._wrong: dict[Digest, tuple[int, int, int]] = {}
        self._next: deque[Digest] = deque()
        self._work: Follow | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._forget = store.subscribe(self._changed)

    def served(self, digest: Digest) -> None:
        """This blob is being sent to somebody."""
        if digest not in self._seen and len(self._next) < _MOST:
            self._seen.add(digest)
            self._next.append(digest)
            self._go_on()

    def condemned(self, blob: Blob) -> bool:
        """Whether this file was found not to have its digest."""
        known = self._wrong.get(blob.digest)
        if known is None or known == _identity(blob):
            return known is not None
        self._drop(blob.digest)
        return False

    def holds_right(self, digest: Digest) -> bool:
        """Whether nothing is known against what is here of this digest."""
        return digest not in self._wrong

    def close(self) -> None:
        """Stop; idempotent."""
        self._forget()
        self._next.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._work is not None:
            self._work.cancel()

    def _go_on(self) -> None:
        if self._next and self._work is None and self._timer is None:
            self._timer = self._loop.call_later(AFTER_SECONDS, self._begin)

    def _begin(self) -> None:
        self._timer = None
        blob = None
        digest = self._next.popleft()
        with contextlib.suppress(StoreError, OSError):
            blob = self._store.open(digest)
        if blob is not None:
            hasher = Hasher(digest.algorithm)
            try:
                self._work = self._checks.follow(blob.fileno(), hasher, blob.size, partial(self._read, blob, hasher))
            except OSError:  # no more is begun on the way down
                blob.close()
                return
            self._work.advance(blob.size)
        self._go_on()

    def _read(self, blob: Blob, hasher: Hasher, work: Follow) -> None:
        self._work = None
        with blob:
            if work.outcome == "complete" and hasher.hexdigest() != blob.digest.hex:
                self._condemn(blob)
        self._go_on()

    def _condemn(self, blob: Blob) -> None:
        self.found += 1
        self._wrong[blob.digest] = _identity(blob)
        log.warning(
            "a blob here does not have its digest and is not served any more: remove it and pull it again",
            extra={"event": "store.blob_wrong", "digest": blob.digest, "bytes": blob.size},
        )

    def _changed(self, event: ContentEvent) -> None:
        if isinstance(event, Gone | Arrived):
            self._drop(event.digest)

    def _drop(self, digest: Digest) -> None:
        self._seen.discard(digest)
        self._wrong.pop(digest, None)


def _identity(blob: Blob) -> tuple[int, int, int]:
    found = os.fstat(blob.fileno())
    return found.st_dev, found.st_ino, found.st_mtime_ns
