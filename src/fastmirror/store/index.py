"""The files at the root of an OCI image layout: ``oci-layout`` and ``index.json``.

Source: OCI image-spec, image-layout.md. index.json is only ever replaced by rename, under a lock that all processes
of fastmirror take, so that two imports lose no tag.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from fastmirror.errors import DigestInvalid, StoreError
from fastmirror.oci.descriptor import OCI_INDEX, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store.catalog import Image
from fastmirror.store.names import layout_name

VERSION: Final = "1.0.0"
PRIVATE: Final = ".fastmirror"  # lock and files in progress; the layout's other readers ignore it
MAX_INDEX_BYTES: Final = 16 << 20
REF_NAME: Final = "org.opencontainers.image.ref.name"
IMAGE_NAME: Final = "io.containerd.image.name"


class _Marker(msgspec.Struct):
    imageLayoutVersion: str = ""  # noqa: N815 - the specification's name


class _Entry(msgspec.Struct):
    digest: str
    size: int
    mediaType: str = ""  # noqa: N815
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct):
    manifests: list[_Entry] | None = None


class Root(NamedTuple):
    """One entry of index.json: what it points to and its annotations."""

    target: Descriptor
    annotations: dict[str, str]


_index_decoder = msgspec.json.Decoder(_Index)
_marker_decoder = msgspec.json.Decoder(_Marker)


def check_marker(content: bytes, where: str) -> None:
    """Raises StoreError unless ``content`` is an ``oci-layout`` file of the version that is read here."""
    try:
        version = _marker_decoder.decode(content).imageLayoutVersion
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{where} is not JSON of an OCI image layout ({error}); choose another directory") from error
    if version != VERSION:
        raise StoreError(f"{where} has imageLayoutVersion {version[:40]!r}, but only {VERSION!r} is known")


def read_roots(content: bytes, where: str) -> list[Root]:
    """The entries of an index.json, without those of digest algorithms that are not served. Raises StoreError."""
    try:
        index = _index_decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{where} is damaged ({error}); restore it, or import the images into a new one") from error
    roots = []
    for entry in index.manifests or ():
        try:
            target = Descriptor(entry.mediaType, Digest.parse(entry.digest), entry.size)
        except DigestInvalid:
            continue
        roots.append(Root(target, entry.annotations or {}))
    return roots


def images_of(roots: Iterable[Root]) -> dict[str, Image]:
    """The named images by label; of two with one name the later one counts."""
    images = {}
    for root in roots:
        name = layout_name(root.annotations)
        if name is not None:
            images[name.label] = Image(name, root.target)
    return images


@contextmanager
def locked(root: Path, seconds: float = 60.0) -> Iterator[None]:
    """Hold the lock of the layout: one process at a time changes index.json or cleans up.

    Raises OSError, and StoreError if another process holds it for longer than ``seconds``.
    """
    private = root / PRIVATE
    private.mkdir(mode=0o755, exist_ok=True)
    fd = os.open(private / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + seconds
        while not _try_lock(fd):
            if time.monotonic() > deadline:
                raise StoreError(f"{private / 'lock'} is held by another process; end it (`fuser` names it) or wait")
            time.sleep(0.005)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_file(path: Path, limit: int) -> bytes:
    """A regular file of at most ``limit`` bytes. Raises OSError for anything else; never waits at a fifo."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, f"{path.name} is not a regular file")
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"{path.name} is larger than {limit} bytes")
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read()
    finally:
        os.close(fd)


def add_tags(root: Path, tags: Mapping[Reference, Descriptor]) -> None:
    """Make names mean content, in place of what they meant before; the caller holds :func:`locked`.

    Everything else in index.json stays as it is. Raises OSError, and StoreError if index.json is damaged; in both
    cases it has not changed.
    """
    path = root / "index.json"
    document = _document(path)
    labels = {str(reference) for reference in tags}
    kept = [entry for entry in document.get("manifests") or () if _label(entry) not in labels]
    document["manifests"] = kept + [_written(reference, target) for reference, target in tags.items()]
    replace_file(path, msgspec.json.format(msgspec.json.encode(document), indent=2))


def _document(path: Path) -> dict[str, Any]:
    try:
        content = read_file(path, MAX_INDEX_BYTES)
    except FileNotFoundError:
        return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    read_roots(content, str(path))
    document: dict[str, Any] = msgspec.json.decode(content)
    return document


def _label(entry: dict[str, Any]) -> str | None:
    name = layout_name(entry.get("annotations") or {})
    return None if name is None else name.label


def _written(reference: Reference, target: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": target.media_type,
        "digest": str(target.digest),
        "size": target.size,
        "annotations": {REF_NAME: str(reference), IMAGE_NAME: str(reference)},
    }


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of the layout's root so that it is the old one or the new one at any moment, also after a crash."""
    temporary = path.parent / PRIVATE / f"{path.name}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Source: fsync(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
