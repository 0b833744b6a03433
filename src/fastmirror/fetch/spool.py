"""Files for content on its way: written once by the ingester, read by any number of sendfile readers behind it.

Source: open(2) (O_TMPFILE), posix_fallocate(3). A range that was shown to a reader is never written again: the pages
may still be in a socket's queue (measured: sendfile takes no snapshot).
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmirror.config import Settings, check
from fastmirror.errors import ConfigError
from fastmirror.fetch.spans import SpanSet
from fastmirror.oci.span import Span
from fastmirror.store.index import PRIVATE

_INLINE_BYTES: Final = 8 * 1024 * 1024  # reserving more of a disk may take long enough to be worth a thread


class SpoolRoom:
    """The disk space for content on its way. ``used`` is what is taken of ``most`` bytes.

    A directory that was removed meanwhile is made again. Raises ConfigError, naming ``spool_dir``, if the directory
    cannot be made or written to.
    """

    def __init__(self, directory: str, most: int) -> None:
        self.directory = directory
        self.most = most
        self.used = 0
        try:
            os.close(unnamed_file(directory))
        except OSError as error:
            raise ConfigError(
                f"spool_dir: cannot write files in {directory!r} ({error.strerror}):"
                " set it to a directory that this user may write"
            ) from None

    async def open(self, size: int, withheld: int) -> Spool:
        """A file with room for ``size`` bytes on the disk. The caller releases it.

        ``withheld`` bytes at the end are not shown to readers before all of it is verified.
        Raises   OSError: ENOSPC, EDQUOT and the like, before anything was promised to anybody.
        Cancel   nothing is left once the disk has answered.
        """
        spool = Spool(self, unnamed_file(self.directory), size, withheld)
        try:
            if 0 < size <= _INLINE_BYTES:
                os.posix_fallocate(spool.fileno(), 0, size)
            elif size:
                await self._reserve(spool)
        except BaseException:
            spool.release()
            raise
        return spool

    async def _reserve(self, spool: Spool) -> None:
        spool.hold()  # the thread cannot be cancelled
        work = asyncio.get_running_loop().run_in_executor(None, os.posix_fallocate, spool.fileno(), 0, spool.size)
        work.add_done_callback(lambda _: spool.release())
        await asyncio.wait((work,))  # which, unlike `await work`, does not cancel it when we are cancelled
        work.result()


class Spool:
    """One content on its way. Bytes ``[0, limit)`` may be read, and some beyond; ``frontier`` is how far it has come.

    Owned by whoever holds it: made with one hold, the file is closed by the last :meth:`release`. Invariants: nothing
    that may be read is written again; it only gets more, until :meth:`spoil` takes everything back; after ``ended``
    nothing changes any more. ``begun``: some bytes may be, or could have been, read.
    """

    __slots__ = (
        "_ahead", "_fd", "_holds", "_room", "_shown", "_usual", "_waiting", "begun", "ended", "frontier", "limit",
        "size",
    )  # fmt: skip

    def __init__(self, room: SpoolRoom, fd: int, size: int, withheld: int) -> None:
        self.size = size
        self.frontier = 0
        self.limit = 0
        self.ended = False
        self.begun = False
        self._ahead = SpanSet()
        self._shown = self._usual = max(0, size - withheld)
        self._room = room
        self._fd = fd
        self._holds = 1
        self._waiting: dict[object, tuple[int, Callable[[], object]]] = {}
        room.used += size

    def fileno(self) -> int:
        """The descriptor, valid while the spool is held."""
        return self._fd

    def hold(self) -> None:
        """Keep the file open until one more :meth:`release`."""
        self._holds += 1

    def release(self) -> None:
        """Give up one hold; the last one closes the file and frees its place."""
        self._holds -= 1
        if not self._holds:
            fd, self._fd = self._fd, -1
            os.close(fd)
            self._room.used -= self.size

    def read(self, start: int, stop: int) -> bytes:
        """Small pieces of what may be read. Raises OSError if the disk fails or the file is too short."""
        content = os.pread(self._fd, stop - start, start)
        if len(content) != stop - start:
            raise OSError(errno.EIO, "the spool file is shorter than what was written to it")
        return content

    # ---- the writer's side

    def advance(self, frontier: int) -> None:
        """All bytes before ``frontier`` are in the file and may be shown, but for those that are withheld."""
        self.frontier = frontier
        limit = min(frontier, self._shown)
        if limit > self.limit and not self.ended:
            self.limit = limit
            self.begun = True
            self._wake()

    @property
    def withheld(self) -> bool:
        """Whether nothing at all is shown before :meth:`verify`."""
        return not self._shown

    def doubt(self, doubted: bool) -> None:
        """Show nothing more before :meth:`verify`; or, if it is not ``doubted`` any more, what had been shown else."""
        self._shown = 0 if doubted else self._usual
        self.advance(self.frontier)

    def show(self, span: Span) -> None:
        """These bytes beyond the frontier are in the file and may be shown, but for those that are withheld."""
        start, stop = span.start, min(span.stop, self._shown)
        if start < stop and not self.ended:
            self._ahead.add(Span(start, stop))
            self.begun = True
            self._wake()

    def verify(self) -> None:
        """All bytes are there and right."""
        self.limit = self.size
        self.begun = True
        self._end()

    def stop(self) -> None:
        """No more bytes will come; what may be read already may still be read."""
        self._end()

    def spoil(self) -> None:
        """Some byte is wrong: nothing more goes out."""
        self.limit = 0
        self._ahead = SpanSet()
        self._end()

    def rewind(self) -> None:
        """Begin again at byte 0; nothing may have been shown."""
        assert not self.begun, "bytes that a reader may have seen are never written again"
        self.frontier = 0

    def _end(self) -> None:
        self.ended = True
        self._wake()

    # ---- the readers' side

    def available(self, position: int) -> int:
        """How many bytes may be read from ``position``; 0: none yet; -1: there will be no more."""
        left = self.limit - position if position < self.limit else self._ahead.reach(position) - position
        if left > 0:
            return left
        return -1 if self.ended else 0

    def wait(self, reader: object, position: int, wake: Callable[[], object]) -> None:
        """Call ``wake`` once when ``available(position)`` is not 0; one wait for each reader."""
        self._waiting[reader] = (position, wake)

    def waited_for(self) -> list[int]:
        """Where readers wait for bytes."""
        return [position for position, _ in self._waiting.values()]

    def forget(self, reader: object) -> None:
        """Drop the wait of this reader, if there is one."""
        self._waiting.pop(reader, None)

    def _wake(self) -> None:
        for reader, (position, wake) in list(self._waiting.items()):
            # One that was woken may end others: only those that still wait are called.
            if self.available(position) and reader in self._waiting:
                del self._waiting[reader]
                wake()


def spool_directory(settings: Settings) -> str:
    """Where content on its way goes: on a disk, if possible the one of the first store."""
    if settings.fetch.spool_dir:
        return settings.fetch.spool_dir
    first = check.store(settings.stores.store[0])
    if first.kind == "oci" and os.access(first.path, os.W_OK):
        return str(Path(first.path) / PRIVATE / "spool")
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()


def unnamed_file(directory: str) -> int:
    """A file that no name leads to and that is gone when it is closed, also after kill -9. The caller closes it.

    A directory that is not there is made. Raises OSError.
    """
    for _ in range(2):
        try:
            return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            break
    fd, path = tempfile.mkstemp(dir=directory, prefix=".fastmirror-spool-")
    os.unlink(path)
    return fd
