"""The list of one content while it is computed: a file that grows, and the bodies that send it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, Protocol

from fastmirror._native.check import Sum
from fastmirror.chunks.checks import Checks
from fastmirror.chunks.chunklist import HEADER_BYTES, PIECE, PIECE_BITS, Shape
from fastmirror.oci.span import Span
from fastmirror.store import Blob

_QUICK_SECONDS: Final = (
    0.01  # pieces are asked for in larger lots while one takes less, in smaller ones while it does not
)
_MOST_PIECES: Final = 32


class Owner(Protocol):
    """Who began a making."""

    def made(self, making: Making, content: bytes | None) -> None:
        """It is over, with the whole list, or None if that could not be made. Called once."""

    def unread(self, making: Making) -> None:
        """The last body has left it while it goes on."""


class Making:
    """Hashes the pieces of a blob in order, a few at a time, and keeps the list in a file as far as it has come.

    Owns the blob, and the file until the last body and the making itself are done with it.
    """

    def __init__(self, blob: Blob, shape: Shape, checks: Checks, owner: Owner) -> None:
        self.digest = blob.digest
        self.shape = shape
        self.ready = HEADER_BYTES  # bytes of the list that are in the file
        self.ended = False
        self._blob = blob
        self._checks = checks
        self._owner = owner
        self._pieces = 1
        self._began = 0.0
        self._waiting: dict[ListBody, tuple[int, Callable[[], None]]] = {}
        self._bodies = 0
        self._work: Sum | None = None
        self._cancelled = False
        self._fd = os.memfd_create("fastmirror-chunks", os.MFD_CLOEXEC)
        os.pwrite(self._fd, shape.header(), 0)

    def begin(self) -> None:
        """Start to hash; once."""
        self._go_on()

    def cancel(self) -> None:
        """Stop: the owner hears of its end soon. The bodies end where they are."""
        self._cancelled = True
        if self._work is not None:
            self._work.cancel()

    def open(self) -> ListBody:
        """One more body of it."""
        self._bodies += 1
        return ListBody(self)

    # ---- pieces

    def _go_on(self) -> None:
        position = (self.ready - HEADER_BYTES) // self.shape.algorithm.hash_bytes << PIECE_BITS
        if self.ready == self.shape.length or self._cancelled:
            self._end(self.ready == self.shape.length)
            return
        span = Span(position, min(position + self._pieces * PIECE, self.shape.size))
        self._began = time.monotonic()
        try:
            self._work = self._checks.sum(self._blob.fileno(), span, self.shape.algorithm, self._hashed)
        except OSError:
            self._end(False)

    def _hashed(self, work: Sum) -> None:
        self._work = None
        if work.outcome != "complete":
            self._end(False)
            return
        quick = time.monotonic() - self._began < _QUICK_SECONDS
        self._pieces = min(self._pieces * 2, _MOST_PIECES) if quick else max(1, self._pieces // 2)
        os.pwrite(self._fd, work.hashes, self.ready)
        self.ready += len(work.hashes)
        self._go_on()
        self._wake()

    def _end(self, whole: bool) -> None:
        self.ended = True
        self._blob.close()
        self._owner.made(self, os.pread(self._fd, self.ready, 0) if whole else None)
        self._wake()
        self._close()

    def _close(self) -> None:
        if self.ended and not self._bodies and self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    # ---- bodies

    def fileno(self) -> int:
        """The file that the list is in."""
        return self._fd

    def wait(self, body: ListBody, position: int, wake: Callable[[], None]) -> None:
        """Call ``wake`` once when there is more than ``position``, or will never be."""
        self._waiting[body] = (position, wake)

    def leave(self, body: ListBody) -> None:
        """A body is done."""
        self._waiting.pop(body, None)
        self._bodies -= 1
        self._close()
        if not self.ended and not self._bodies:
            self._owner.unread(self)

    def _wake(self) -> None:
        for body, (position, wake) in list(self._waiting.items()):
            if body in self._waiting and (self.ended or position < self.ready):
                del self._waiting[body]
                wake()


class ListBody:
    """A FileBody over a list that is being computed."""

    __slots__ = ("_making",)

    def __init__(self, making: Making) -> None:
        self._making: Making | None = making

    def fileno(self) -> int:
        """See ``FileBody.fileno``."""
        assert self._making is not None
        return self._making.fileno()

    def available(self, position: int) -> int:
        """See ``FileBody.available``."""
        assert self._making is not None
        return self._making.ready - position or (-1 if self._making.ended else 0)

    def wait(self, position: int, wake: Callable[[], None]) -> None:
        """See ``FileBody.wait``."""
        assert self._making is not None
        self._making.wait(self, position, wake)

    def close(self) -> None:
        """See ``FileBody.close``."""
        if self._making is not None:
            making, self._making = self._making, None
            making.leave(self)
