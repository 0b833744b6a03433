"""What one object of a pull took. Written by the thread that fetches it, read by the one that shows it."""

from __future__ import annotations

import time
from typing import Any

from fastmirror.errors import DigestMismatch
from fastmirror.oci.digest import Digest


class Measured:
    """One object: bytes that came, and when. ``kind`` is index, manifest, config or layer.

    ``first_byte`` is the time from the request to the first byte of the body, ``gap`` the longest time without a byte
    after it, resumes included; both in seconds. ``hosts`` has those that sent bytes, in order.
    """

    def __init__(self, kind: str, digest: Digest, media_type: str = "", size: int | None = None) -> None:
        self.kind = kind
        self.digest = digest
        self.media_type = media_type
        self.size = size
        self.bytes = 0
        self.resumes = 0
        self.first_byte: float | None = None
        self.gap = 0.0
        self.hosts: list[str] = []
        self.whole = False
        self._began: float | None = None
        self._ended: float | None = None
        self._last = 0.0

    def begin(self) -> None:
        """It is asked for now."""
        self._began = self._last = time.monotonic()

    def arrived(self, count: int, host: str) -> None:
        """Bytes have come."""
        now = time.monotonic()
        if self.first_byte is None and self._began is not None:
            self.first_byte = now - self._began
        else:
            self.gap = max(self.gap, now - self._last)
        self._last = now
        self.bytes += count
        if not self.hosts or self.hosts[-1] != host:
            self.hosts.append(host)

    def end(self, *, whole: bool) -> None:
        """It is here and right, or given up."""
        self._ended = time.monotonic()
        self.whole = whole

    @property
    def begun(self) -> bool:
        """Whether it was asked for."""
        return self._began is not None

    @property
    def ended(self) -> bool:
        """Whether it is here, or was given up."""
        return self._ended is not None

    @property
    def seconds(self) -> float:
        """How long it took, or has taken until now."""
        if self._began is None:
            return 0.0
        return (time.monotonic() if self._ended is None else self._ended) - self._began

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds if self.seconds else 0.0

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "kind": self.kind,
            "digest": self.digest,
            "media_type": self.media_type,
            "size": self.size,
            "bytes": self.bytes,
            "whole": self.whole,
            "seconds": round(self.seconds, 6),
            "rate": round(self.rate),
            "first_byte_ms": None if self.first_byte is None else round(self.first_byte * 1000, 3),
            "longest_gap_ms": round(self.gap * 1000, 3),
            "resumes": self.resumes,
            "hosts": self.hosts,
        }


class Nowhere:
    """An Ingest that keeps nothing, but checks all the same."""

    def __init__(self, digest: Digest, size: int | None) -> None:
        self._digest = digest
        self._size = size
        self._hash = digest.hasher()
        self._count = 0

    def write(self, piece: bytes | memoryview) -> None:
        """See ``Ingest.write``."""
        self._hash.update(piece)
        self._count += len(piece)

    def commit(self) -> None:
        """Raises DigestMismatch."""
        actual = f"{self._digest.algorithm}:{self._hash.hexdigest()}"
        if actual != self._digest or self._size not in (None, self._count):
            raise DigestMismatch(self._digest, actual, self._count)

    def abort(self) -> None:
        """See ``Ingest.abort``."""
