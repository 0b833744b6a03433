"""Hear about files that come and go in a few directories, and about the directories themselves.

Nouns: DirectoryWatcher, DirectoryEvent. Source: inotify(7). It knows nothing of content: names in, events out.
libc is called directly: the libraries for this look for it with ``ldconfig`` or a compiler, which images of a service
do not have, and leave the work that matters here (overflow, directories that vanish) to the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

log = logging.getLogger(__name__)

_ATTRIB: Final = 0x00000004
_CLOSE_WRITE: Final = 0x00000008
_MOVED_FROM: Final = 0x00000040
_MOVED_TO: Final = 0x00000080
_CREATE: Final = 0x00000100
_DELETE: Final = 0x00000200
_DELETE_SELF: Final = 0x00000400
_MOVE_SELF: Final = 0x00000800
_UNMOUNT: Final = 0x00002000
_OVERFLOW: Final = 0x00004000
_IGNORED: Final = 0x00008000
_ONLYDIR: Final = 0x01000000
_ISDIR: Final = 0x40000000

_LOST: Final = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _IGNORED
_FILES: Final = _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_MASK: Final = _FILES | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_HEADER: Final = struct.Struct("iIII")
_READ_BYTES: Final = 1 << 16  # at least one event fits: 16 + NAME_MAX + 1 bytes


@dataclass(frozen=True, slots=True)
class Appeared:
    """A file was moved in, closed after writing or given other rights (it may have been there before or be gone by
    now), or a directory was made.

    A file that is only linked in (link(2)) has no such event; the periodic Rescan finds it.
    """

    directory: Path
    name: str


@dataclass(frozen=True, slots=True)
class Vanished:
    """A file or directory was deleted or moved out."""

    directory: Path
    name: str


@dataclass(frozen=True, slots=True)
class Rescan:
    """Nothing that was known of this directory holds: list it again. It may be missing, then nothing is in it."""

    directory: Path


DirectoryEvent = Appeared | Vanished | Rescan


class _Watch(NamedTuple):
    number: int
    identity: tuple[int, int]  # device and inode of the watched directory


class DirectoryWatcher:
    """Watches directories that may be missing, vanish, or be replaced at any time.

    ``listener`` gets the events of one turn as a list, in the kernel's order, on the loop's thread. Each directory
    begins with a Rescan (after its watch is set, so nothing is missed), and gets one more whenever events were or may
    have been lost: overflow of the kernel's queue, the directory replaced, deleted, unmounted or back again, and
    every ``rescan_seconds``. A missing or replaced directory is noticed at once if its parent is watched too, else
    within ``recheck_seconds``. Without inotify (limits reached) every directory is rescanned each ``recheck_seconds``.

    :meth:`run` owns the inotify descriptor and closes it.
    """

    def __init__(
        self,
        directories: Iterable[Path],
        listener: Callable[[list[DirectoryEvent]], None],
        recheck_seconds: float = 1.0,
        rescan_seconds: float = 60.0,
    ) -> None:
        self._directories = list(dict.fromkeys(directories))
        self._listener = listener
        self._recheck_seconds = recheck_seconds
        self._rescan_seconds = rescan_seconds
        self._watches: dict[Path, _Watch] = {}
        self._paths: dict[int, list[Path]] = {}  # two paths may mean one directory, which has one watch
        self._fd = -1
        self._warned = False

    async def run(self) -> None:
        """Watch and call the listener until cancelled; then the descriptor is closed and nothing is left."""
        loop = asyncio.get_running_loop()
        wake = asyncio.Event()
        due = loop.time() + self._rescan_seconds
        events: list[DirectoryEvent] = [Rescan(directory) for directory in self._directories]
        try:
            self._open(loop, wake)
            self._recheck()
            while True:
                self._listener(events)
                wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._recheck_seconds):
                        await wake.wait()
                if self._fd < 0:
                    self._open(loop, wake)
                events = self._drain()
                if loop.time() >= due or (self._fd < 0 and not wake.is_set()):
                    due = loop.time() + self._rescan_seconds
                    self._recheck()
                    events = [Rescan(directory) for directory in self._directories]
        finally:
            self._close(loop)

    def _open(self, loop: asyncio.AbstractEventLoop, wake: asyncio.Event) -> None:
        try:
            self._fd = _call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._warn("inotify_init1", error)
            return
        loop.add_reader(self._fd, wake.set)

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watches.clear()
        self._paths.clear()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            loop.remove_reader(fd)
            os.close(fd)

    def _warn(self, call: str, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            limits = "raise fs.inotify.max_user_instances and fs.inotify.max_user_watches"
            log.warning(
                "%s failed (%s): changes are found by listing every %g s; %s",
                call,
                error.strerror,
                self._recheck_seconds,
                "give this user read access" if error.errno == errno.EACCES else limits,
                extra={"event": "store.watch_degraded"},
            )

    def _drain(self) -> list[DirectoryEvent]:
        """Everything the kernel has queued, and what a check of the directories themselves finds."""
        events: list[DirectoryEvent] = []
        while self._fd >= 0:
            try:
                data = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                break
            self._decode(data, events)
        changed = self._recheck()
        events.extend(Rescan(directory) for directory in changed)
        return events

    def _decode(self, data: bytes, events: list[DirectoryEvent]) -> None:
        position = 0
        while position < len(data):
            number, mask, _, length = _HEADER.unpack_from(data, position)
            position += _HEADER.size + length
            if mask & _OVERFLOW:
                events.extend(Rescan(directory) for directory in self._directories)
                continue
            name = os.fsdecode(data[position - length : position].rstrip(b"\0"))
            for directory in tuple(self._paths.get(number, ())):
                if mask & _LOST:
                    self._forget(directory)
                    events.append(Rescan(directory))
                elif not name:  # the directory's own rights
                    events.append(Rescan(directory))
                elif mask & (_MOVED_FROM | _DELETE):
                    events.append(Vanished(directory, name))
                elif mask & (_ATTRIB | _MOVED_TO | _CLOSE_WRITE) or mask & _ISDIR:
                    events.append(Appeared(directory, name))

    def _forget(self, directory: Path) -> None:
        watch = self._watches.pop(directory)
        paths = self._paths[watch.number]
        paths.remove(directory)
        if not paths:
            del self._paths[watch.number]
            with contextlib.suppress(OSError):  # EINVAL: the kernel has removed it already
                _call("inotify_rm_watch", self._fd, watch.number)

    def _recheck(self) -> list[Path]:
        """Set, drop and renew watches until they match what the paths mean now.

        Returns the directories that were replaced, came or went, and those that cannot be watched.
        """
        changed = []
        for directory in self._directories:
            watch = self._watches.get(directory)
            try:
                status = os.stat(directory)
            except OSError:
                if watch is not None:
                    self._forget(directory)
                    changed.append(directory)
                continue
            if watch is not None:
                if watch.identity == (status.st_dev, status.st_ino):
                    continue
                self._forget(directory)
            self._watch(directory)
            changed.append(directory)
        return changed

    def _watch(self, directory: Path) -> None:
        if self._fd < 0:
            return
        try:
            number = _call("inotify_add_watch", self._fd, os.fsencode(directory), _MASK)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self._warn("inotify_add_watch", error)
            return
        paths = self._paths.setdefault(number, [])
        paths.append(directory)
        # Stat after the watch is set: a directory replaced in between then differs at the next check.
        with contextlib.suppress(OSError):
            status = os.stat(directory)
            self._watches[directory] = _Watch(number, (status.st_dev, status.st_ino))
            return
        paths.remove(directory)
        if not paths:
            del self._paths[number]


_libc: Final = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: int | bytes) -> int:
    """Call libc; raises OSError from errno. None of the calls used here can block, so none is interrupted."""
    result: int = getattr(_libc, function)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
