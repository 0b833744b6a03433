"""Bring images from files into a store: ``oci-archive`` tars, ``docker save`` tars, image layout directories.

Source: OCI image-spec, image-layout.md; Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset
Format". All content is checked against its digest on the way in, and becomes visible together with its names at the
end, so that an import that fails or is killed leaves no part of an image.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from fastmirror.errors import DigestMismatch, ImportFailed, StoreError
from fastmirror.oci.reference import Reference
from fastmirror.store import ImportTarget, Ingest
from fastmirror.store.archive import GZIP_MAGIC, Archive, open_archive
from fastmirror.store.images import Content, Plan, plan_docker, plan_layout
from fastmirror.store.memory import MemoryStore
from fastmirror.store.staging import store_error

Progress = Callable[[int, int], None]
"""Called with the bytes done so far and all bytes that there are to do."""

_READ_BYTES: Final = 1 << 20


def import_archive(
    store: ImportTarget, path: str | Path, name: Reference | None = None, progress: Progress | None = None
) -> list[Reference]:
    """Import every image of an archive.

    ``path``   a tar (also gzip-compressed), an image layout directory, or ``-`` for standard input.
    ``name``   the name of the one image in it, in place of the names it has there.
    Returns    the names that now mean the images, in the archive's order. What is there already is not written again.
    Raises     ImportFailed with the archive's path, the entry and the reason; the store is then as it was before.
    """
    try:
        with closing(open_archive(Path(path), store.scratch)) as archive:
            plan = _plan(archive, store, name)
            _carry_out(plan, archive, store, _Meter(sum(content.size for content in plan.contents), progress))
            return list(plan.tags)
    except StoreError as error:
        raise ImportFailed(f"{path}: {error}") from error


def check_archive(path: str | Path, name: Reference | None = None) -> None:
    """Raises ImportFailed for what keeps a file from being imported, as far as it can be seen without unpacking it."""
    if str(path) == "-" or (os.path.isfile(path) and _is_packed(path)):
        return
    try:
        with closing(open_archive(Path(path), TemporaryFile)) as archive:
            _plan(archive, MemoryStore(), name)
    except StoreError as error:
        raise ImportFailed(f"{path}: {error}") from error


def _is_packed(path: str | Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    except OSError:
        return False


def _plan(archive: Archive, store: ImportTarget, name: Reference | None) -> Plan:
    if archive.size("oci-layout") is not None:
        return plan_layout(archive, store, name)
    if archive.size("manifest.json") is not None:
        return plan_docker(archive, name)
    raise ImportFailed(
        "it is no image archive: it has neither oci-layout nor manifest.json; "
        "make one with `skopeo copy ... oci-archive:FILE.tar:NAME`, `docker save` or `ctr images export`"
    )


class _Meter:
    """Counts bytes and tells how far it is."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress
        self.add(0)

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


def _carry_out(plan: Plan, archive: Archive, store: ImportTarget, meter: _Meter) -> None:
    with store.batch() as batch:
        for content in plan.contents:
            if _is_intact(store, content):
                meter.add(content.size)
                continue
            ingest = batch.ingest(content.digest, content.size)
            try:
                _copy(content, archive, ingest, meter)
            finally:
                ingest.abort()
        for reference, target in plan.tags.items():
            batch.tag(reference, target)
        batch.commit()


def _is_intact(store: ImportTarget, content: Content) -> bool:
    """Whether the store has this content already, with the right bytes: a damaged file is replaced."""
    blob = store.open(content.digest)
    if blob is None:
        return False
    with blob:
        hasher = content.digest.hasher()
        for start in range(0, blob.size, _READ_BYTES):
            hasher.update(blob.read_span(start, min(start + _READ_BYTES, blob.size)))
        return hasher.hexdigest() == content.digest.hex


def _copy(content: Content, archive: Archive, ingest: Ingest, meter: _Meter) -> None:
    pieces = [memoryview(content.made)] if content.made is not None else archive.pieces(content.entry)
    try:
        for piece in pieces:
            ingest.write(piece)
            meter.add(len(piece))
        ingest.commit()
    except DigestMismatch as error:
        raise ImportFailed(f"entry {content.entry!r} is damaged: {error}; copy or make the archive again") from error
    except OSError as error:
        where = Path(error.filename) if error.filename else Path("the store")
        raise store_error(where, f"entry {content.entry!r} cannot be written", error) from error
