"""Writing into an OCI image layout: files in progress, and the moment at which they become content.

Files are written below ``.fastmirror/ingest/``, which no reader of a layout looks at, in one directory per open store,
whose lock says that its writer lives. What a dead writer left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

from fastmirror.errors import DigestMismatch, StoreError
from fastmirror.oci.digest import Digest
from fastmirror.store.index import PRIVATE, locked, sync_directory

_MODE: Final = 0o444
_ADVICE: Final = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or raise the quota",
    errno.EACCES: "give this user access to it",
    errno.EPERM: "give this user access to it",
    errno.EROFS: "it is mounted read-only: mount it for writing or choose another directory",
}


def store_error(path: Path, what: str, error: OSError) -> StoreError:
    """One line for the user from an error of the file system."""
    advice = _ADVICE.get(error.errno or 0, "look at that file system")
    return StoreError(f"{path}: {what} ({error.strerror}); {advice}")


class Staging:
    """A directory for files in progress. Owned by one store; made when first needed, removed by :meth:`close`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path: Path | None = None
        self._lock = -1

    def directory(self) -> Path:
        """Where to write. Raises OSError or StoreError."""
        if self._path is None or not self._path.is_dir():
            self.close()
            with locked(self._root):
                self._make()
        assert self._path is not None
        return self._path

    def _make(self) -> None:
        parent = self._root / PRIVATE / "ingest"
        parent.mkdir(exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=parent))
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except BaseException:
            path.rmdir()
            raise
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._path, self._lock = path, lock

    def clean(self) -> None:
        """Remove what writers that are dead have left. Raises OSError, and StoreError while another one is at it."""
        parent = self._root / PRIVATE / "ingest"
        if not parent.is_dir():
            return
        with locked(self._root, seconds=0):
            for path in parent.iterdir():
                if path != self._path:
                    _remove_if_dead(path)

    def close(self) -> None:
        """Remove the directory and all that is in it; idempotent."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove_if_dead(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            os.close(fd)
        shutil.rmtree(path, ignore_errors=True)


def scratch_file(directory: Path) -> BinaryIO:
    """An empty file that has no name any more, so that nothing is left of it. Raises OSError."""
    return tempfile.TemporaryFile(dir=directory, buffering=0)


class StagedFile:
    """Content being written below a staging directory: hashed on the way, never visible before it is published."""

    def __init__(self, root: Path, directory: Path, digest: Digest, size: int | None) -> None:
        self._root = root
        self.digest = digest
        self.size = size
        self.written = 0
        self._hash = digest.hasher()
        fd, name = tempfile.mkstemp(dir=directory)
        self.path = Path(name)
        self._file: BinaryIO | None = os.fdopen(fd, "wb", buffering=0)

    def write(self, piece: bytes | memoryview) -> None:
        """Append. Raises OSError whose ``filename`` is the store's."""
        assert self._file is not None, "written after the end"
        rest = memoryview(piece)
        self._hash.update(rest)
        self.written += len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            error.filename = str(self._root)
            raise

    def seal(self) -> None:
        """Check size and digest and make the file durable. Raises DigestMismatch or OSError and leaves no file."""
        assert self._file is not None, "sealed twice"
        try:
            actual = f"{self.digest.algorithm}:{self._hash.hexdigest()}"
            if actual != self.digest or self.size not in (None, self.written):
                raise DigestMismatch(self.digest, actual, self.written)
            os.fchmod(self._file.fileno(), _MODE)
            os.fsync(self._file.fileno())
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError):
                error.filename = str(self._root)
            raise
        self._file.close()
        self._file = None

    def discard(self) -> None:
        """Remove the file unless it was published; idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.path.unlink(missing_ok=True)


def publish(root: Path, files: Iterable[StagedFile]) -> list[Path]:
    """Move sealed files to their places among the blobs, and make that durable.

    Returns the files that were not there before. Raises OSError, and then has moved nothing.
    """
    touched = set()
    added: list[Path] = []
    try:
        for file in files:
            directory = root / "blobs" / file.digest.algorithm
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            place = directory / file.digest.hex
            is_new = not place.exists()
            os.rename(file.path, place)
            if is_new:
                added.append(place)
            touched.add(directory)
        for directory in touched:
            sync_directory(directory)
            sync_directory(directory.parent)
    except BaseException:
        withdraw(added)
        raise
    return added


def withdraw(added: Iterable[Path]) -> None:
    """Undo a :func:`publish` whose names could not be written."""
    for place in added:
        place.unlink(missing_ok=True)
