"""Image archives as named files that can be read in any order: a tar, a compressed tar, a pipe, or a directory."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from fastmirror.errors import ImportFailed
from fastmirror.store.tar import Entry, Index, inside, read_index

PIECE_BYTES: Final = 1 << 20
GZIP_MAGIC: Final = b"\x1f\x8b"
_FOREIGN: Final = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zX": "xz", b"BZh": "bzip2"}


class Archive(Protocol):
    """Files by name. What cannot be read raises ImportFailed that names the file."""

    def size(self, name: str) -> int | None:
        """Size in bytes, or None if there is no such regular file."""

    def pieces(self, name: str) -> Generator[memoryview]:
        """The content in pieces of at most 1 MiB, each valid until the next one is asked for."""

    def close(self) -> None:
        """Release descriptors; idempotent."""


def open_archive(path: Path, scratch: Callable[[], BinaryIO]) -> Archive:
    """Open a tar, a gzip-compressed tar, a directory, or standard input for ``-``; read its table of contents.

    What cannot be read in any order is copied to a ``scratch`` file first. Raises ImportFailed; StoreError where
    ``scratch`` does.
    """
    try:
        if str(path) == "-":
            return _open_stream(sys.stdin.buffer, scratch)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ImportFailed(f"it cannot be opened: {error.strerror}") from error
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        return DirectoryArchive(fd)
    file = os.fdopen(fd, "rb")
    try:
        if stat.S_ISREG(mode):
            start = os.pread(fd, 4, 0)
            _refuse_foreign(start)
            if not start.startswith(GZIP_MAGIC):
                return TarArchive(file, read_index(_FileReader(file)))
        with file:
            return _open_stream(file, scratch)
    except OSError as error:
        file.close()
        raise ImportFailed(f"it cannot be read: {error.strerror or error}") from error
    except BaseException:
        file.close()
        raise


def _refuse_foreign(start: bytes) -> None:
    for magic, name in _FOREIGN.items():
        if start.startswith(magic):
            raise ImportFailed(f"it is compressed with {name}; decompress it first, or compress with gzip")


def _open_stream(raw: BinaryIO, scratch: Callable[[], BinaryIO]) -> Archive:
    buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)  # type: ignore[type-var]
    start = buffered.peek(4)[:4]
    _refuse_foreign(start)
    copy = scratch()
    try:
        is_gzip = start.startswith(GZIP_MAGIC)
        source = gzip.GzipFile(fileobj=buffered, mode="rb") if is_gzip else buffered
        index = read_index(_CopyingReader(source, copy))
        # Padding follows the end mark. Reading it lets a writer at a pipe finish, and checks the checksum of gzip.
        source.read(PIECE_BYTES)
        return TarArchive(copy, index)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        copy.close()
        raise ImportFailed(f"its gzip data is cut short or damaged ({error}); copy or make it again") from error
    except BaseException:
        copy.close()
        raise


class _FileReader:
    """Goes through a regular file by seeking."""

    def __init__(self, file: BinaryIO) -> None:
        self._fd = file.fileno()
        self._size = os.fstat(self._fd).st_size
        self.position = 0

    def take(self, count: int) -> bytes:
        block = os.pread(self._fd, count, self.position)
        self.position += len(block)
        return block

    def skip(self, count: int, entry: str) -> None:
        if count > self._size - self.position:
            raise _cut(entry)
        self.position += count


class _CopyingReader:
    """Goes through a stream and copies it to a file; refuses an entry that has no room there before copying it."""

    def __init__(self, source: BinaryIO | gzip.GzipFile, copy: BinaryIO) -> None:
        self._source = source
        self._copy = copy
        self.position = 0

    def take(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._source.read(count - len(data))
            if not piece:
                break
            data += piece
        self._write(memoryview(data))
        return bytes(data)

    def skip(self, count: int, entry: str) -> None:
        room = os.fstatvfs(self._copy.fileno())
        if count > room.f_bavail * room.f_frsize:
            raise ImportFailed(
                f"entry {entry[:200]!r} needs {count} bytes, and the store's file system has "
                f"{room.f_bavail * room.f_frsize}; free some space there"
            )
        while count:
            piece = self._source.read(min(count, PIECE_BYTES))
            if not piece:
                raise _cut(entry)
            self._write(memoryview(piece))
            count -= len(piece)

    def _write(self, piece: memoryview) -> None:
        self.position += len(piece)
        try:
            while piece:
                piece = piece[self._copy.write(piece) :]
        except OSError as error:
            raise ImportFailed(f"it cannot be unpacked into the store's file system: {error.strerror}") from error


def _cut(entry: str) -> ImportFailed:
    return ImportFailed(f"it is cut short within entry {entry[:200]!r}; copy or make it again")


def _pieces(fd: int, offset: int, size: int, name: str) -> Generator[memoryview]:
    buffer = memoryview(bytearray(min(size, PIECE_BYTES) or 1))
    end = offset + size
    while offset < end:
        try:
            count = os.preadv(fd, [buffer[: end - offset]], offset)
        except OSError as error:
            raise ImportFailed(f"entry {name!r} cannot be read: {error.strerror}") from error
        if not count:
            raise _cut(name)
        offset += count
        yield buffer[:count]


class TarArchive:
    """The files of an uncompressed tar. Owns the file."""

    def __init__(self, file: BinaryIO, index: Index) -> None:
        self._file = file
        self._index = index

    def size(self, name: str) -> int | None:
        """Size in bytes, or None if there is no such regular file; links within the archive are followed."""
        entry = self._find(name)
        return None if entry is None else entry.size

    def pieces(self, name: str) -> Generator[memoryview]:
        """The content in pieces."""
        entry = self._find(name)
        if entry is None:
            raise ImportFailed(f"entry {name[:200]!r} is missing")
        return _pieces(self._file.fileno(), entry.offset, entry.size, name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _find(self, name: str) -> Entry | None:
        return self._index.find(inside(name, "", name))


class DirectoryArchive:
    """The files below a directory; a link in the place of a file is not followed. Owns the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def size(self, name: str) -> int | None:
        """Size in bytes, or None if there is no such regular file."""
        try:
            status = os.stat(inside(name, "", name), dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def pieces(self, name: str) -> Generator[memoryview]:
        """The content in pieces."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(inside(name, "", name), flags, dir_fd=self._fd)
        except OSError as error:
            raise ImportFailed(f"file {name!r} cannot be read: {error.strerror}") from error
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ImportFailed(f"file {name!r} is not a regular file")
            yield from _pieces(fd, 0, status.st_size, name)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the directory."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def read_all(archive: Archive, name: str, limit: int) -> bytes:
    """A small file as a whole. Raises ImportFailed if it is missing or larger than ``limit`` bytes."""
    size = archive.size(name)
    if size is None:
        raise ImportFailed(f"entry {name[:200]!r} is missing")
    if size > limit:
        raise ImportFailed(f"entry {name[:200]!r} has {size} bytes, more than the {limit} that such a file may have")
    return b"".join(bytes(piece) for piece in archive.pieces(name))
