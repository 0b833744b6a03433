"""Blobs as files ``ALGORITHM/HEX`` below one directory: an OCI layout's ``blobs``, or containerd's.

Source: OCI image-spec, image-layout.md, "Blobs"; openat(2).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fastmirror.errors import StoreUnavailable
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import MAX_BYTES
from fastmirror.store import Blob

log = logging.getLogger(__name__)

ALGORITHMS: Final = ("sha256", "sha512")
_HEX: Final = {"sha256": re.compile(r"[0-9a-f]{64}", re.ASCII), "sha512": re.compile(r"[0-9a-f]{128}", re.ASCII)}
# O_NONBLOCK: opening a fifo must not wait for a writer. It changes nothing for regular files.
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE})


def file_digest(algorithm: str, name: str) -> Digest | None:
    """The digest that a file's place in the directory stands for; None for any other file."""
    return Digest(f"{algorithm}:{name}") if _HEX[algorithm].fullmatch(name) else None


class BlobDirectory:
    """Opens blobs below ``path``, which may vanish and come back. Owns one descriptor of it; :meth:`close` is final.

    With ``links`` false neither ``path`` nor ``ALGORITHM`` may be a symbolic link: nothing is there if one is.
    """

    def __init__(self, path: Path, *, links: bool = True) -> None:
        self.path = path
        self._links = links
        self._enter = os.O_DIRECTORY | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
        self._fd = -1
        self._identity: tuple[int, int] | None = None
        self._unreadable: set[Digest] = set()
        self._odd_told = False

    def open(self, digest: Digest) -> Blob | None:
        """Open content; None unless it is a regular file that may be read. Links are not followed.

        Raises StoreUnavailable when descriptors or memory have run out, or the disk fails.
        """
        try:
            fd = self._open(digest)
        except OSError as error:
            self._refused(digest, error)
            return None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            return None
        return Blob(fd, status.st_size, digest)

    def size(self, digest: Digest) -> int | None:
        """Size in bytes of content that is here, without opening it; None as for :meth:`open`."""
        try:
            status = self._status(digest)
        except OSError as error:
            if error.errno == errno.ENOENT and self.refresh():
                return self.size(digest)
            self._refused(digest, error)
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def read_manifest(self, digest: Digest) -> bytes | None:
        """Content of at most 4 MiB whose bytes have this digest, else None; damage is logged."""
        blob = self.open(digest)
        if blob is None:
            return None
        with blob:
            if blob.size > MAX_BYTES:
                return None
            content = blob.read_span(0, blob.size)
        if Digest.of(content, digest.algorithm) != digest:
            log.warning(
                "the bytes of %s have another digest: it is not served; import it again",
                digest,
                extra={"event": "store.blob_damaged", "digest": str(digest)},
            )
            return None
        return content

    def scan(self, known: Mapping[Digest, int] | None = None) -> dict[Digest, int]:
        """All content that is here, with sizes in bytes. Empty if the directory is not there.

        What is ``known`` is not looked at again: its size is taken from there, which makes a scan much faster.
        Raises StoreUnavailable when the directory is there and cannot be listed.
        """
        known = known or {}
        self.refresh()
        found: dict[Digest, int] = {}
        odd: list[str] = []
        for algorithm in ALGORITHMS:
            try:
                fd = os.open(algorithm, os.O_RDONLY | self._enter, dir_fd=self._directory())
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise StoreUnavailable(f"{self.path / algorithm} cannot be listed: {error.strerror}") from error
            try:
                odd += _scan(fd, algorithm, known, found)
            finally:
                os.close(fd)
        if odd and not self._odd_told:
            self._odd_told = True
            log.warning(
                "%s/%s is a link, a directory or a device (%d such in all): only files are served; put files there",
                self.path,
                odd[0],
                len(odd),
                extra={"event": "store.blob_no_file"},
            )
        return found

    def refresh(self) -> bool:
        """Follow the path if it means another directory than before, or none; whether another was found."""
        try:
            status = os.stat(self.path, follow_symlinks=self._links)
        except OSError:
            self.close()
            return False
        if (status.st_dev, status.st_ino) == self._identity:
            return False
        self.close()
        with contextlib.suppress(OSError):
            self._directory()
            return True
        return False

    def close(self) -> None:
        """Release the descriptor; idempotent. The next look-up opens it again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._identity = None
            os.close(fd)

    def _directory(self) -> int:
        if self._fd < 0:
            fd = os.open(self.path, os.O_PATH | self._enter)
            status = os.fstat(fd)
            self._fd, self._identity = fd, (status.st_dev, status.st_ino)
        return self._fd

    def _open(self, digest: Digest) -> int:
        try:
            return self._open_below(self._directory(), digest)
        except FileNotFoundError:
            if not self.refresh():
                raise
            return self._open_below(self._directory(), digest)

    def _open_below(self, directory: int, digest: Digest) -> int:
        if self._links:
            return os.open(f"{digest.algorithm}/{digest.hex}", _OPEN, dir_fd=directory)
        # O_NOFOLLOW guards the last component only, so each gets a call of its own; openat(2).
        inner = os.open(digest.algorithm, os.O_PATH | self._enter, dir_fd=directory)
        try:
            return os.open(digest.hex, _OPEN, dir_fd=inner)
        finally:
            os.close(inner)

    def _status(self, digest: Digest) -> os.stat_result:
        if self._links:
            return os.stat(f"{digest.algorithm}/{digest.hex}", dir_fd=self._directory(), follow_symlinks=False)
        inner = os.open(digest.algorithm, os.O_PATH | self._enter, dir_fd=self._directory())
        try:
            return os.stat(digest.hex, dir_fd=inner, follow_symlinks=False)
        finally:
            os.close(inner)

    def _refused(self, digest: Digest, error: OSError) -> None:
        if error.errno in _EXHAUSTED:
            raise StoreUnavailable(f"{self.path} cannot be read: {error.strerror}") from error
        if error.errno in (errno.EACCES, errno.EPERM) and digest not in self._unreadable:
            self._unreadable.add(digest)
            log.warning(
                "%s cannot be read (%s): it is not served; give this user read access to %s",
                digest,
                error.strerror,
                self.path,
                extra={"event": "store.blob_unreadable", "digest": str(digest)},
            )


def _scan(fd: int, algorithm: str, known: Mapping[Digest, int], found: dict[Digest, int]) -> list[str]:
    """Add what one directory has to ``found``; returns what has a digest's name and is no regular file."""
    odd = []
    with os.scandir(fd) as entries:
        for entry in entries:
            digest = file_digest(algorithm, entry.name)
            if digest is None:
                continue
            if not entry.is_file(follow_symlinks=False):
                odd.append(f"{algorithm}/{entry.name}")
                continue
            size = known.get(digest)
            with contextlib.suppress(FileNotFoundError):
                found[digest] = entry.stat(follow_symlinks=False).st_size if size is None else size
    return odd
