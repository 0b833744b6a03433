"""An OCI image layout directory as a store. Source: OCI image-spec, image-layout.md."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from fastmirror.errors import StoreError, StoreUnavailable
from fastmirror.oci.descriptor import OCI_INDEX, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import Blob, ContentEvent
from fastmirror.store.catalog import Catalog, Image
from fastmirror.store.files import ALGORITHMS, BlobDirectory, file_digest
from fastmirror.store.index import (
    MAX_INDEX_BYTES,
    PRIVATE,
    VERSION,
    add_tags,
    check_marker,
    images_of,
    locked,
    read_file,
    read_roots,
    replace_file,
)
from fastmirror.store.inotify import Appeared, DirectoryEvent, DirectoryWatcher, Rescan, Vanished
from fastmirror.store.staging import StagedFile, Staging, publish, scratch_file, store_error, withdraw

log = logging.getLogger(__name__)

_OURS: Final = {PRIVATE, "blobs", "index.json", "oci-layout", "lost+found"}


def open_layout(root: Path, *, create: bool = False) -> LayoutStore:
    """Open an image layout, with ``create`` also one that is not there yet (a missing or empty directory).

    What a killed writer left in it is removed, where this user may. Raises StoreError for what is no layout, is
    damaged, or may not be read: one line with the path and the next step.
    """
    try:
        missing = _check(root, create)
        content = _read_index(root)
        roots = read_roots(content or b"{}", str(root / "index.json"))
    except OSError as error:
        raise store_error(root, "the store cannot be opened", error) from error
    store = LayoutStore(root)
    try:
        store.load(images_of(roots))
    except StoreUnavailable as error:
        store.close()
        raise StoreError(str(error)) from error
    _tell_damage(root, [*missing, *store.damage()])
    return store


def _tell_damage(root: Path, damage: list[str]) -> None:
    if damage:
        advice = "what is whole is served; import the images again, or restore the directory"
        log.warning("%s: %s; %s", root, "; ".join(damage), advice, extra={"event": "store.layout_damaged"})


def _check(root: Path, create: bool) -> list[str]:
    """Make what is not there yet, with ``create``; returns what of a layout that had been made was missing.

    Raises OSError and StoreError.
    """
    if root.exists() and not root.is_dir():
        raise StoreError(f"{root} is not a directory; --store oci:DIR needs one")
    marker = root / "oci-layout"
    try:
        check_marker(read_file(marker, 4096), str(marker))
        return [f"{name} is missing" for name in ("index.json", "blobs") if not (root / name).exists()]
    except FileNotFoundError:
        if not create:
            what = "has no oci-layout file" if root.exists() else "does not exist"
            raise StoreError(f"{root} {what}: it is no OCI image layout; choose one, or import into it first") from None
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    present = set(os.listdir(root))
    if not present <= _OURS or (present - {"lost+found"} and PRIVATE not in present):
        raise StoreError(f"{root} has other files and no oci-layout; choose an empty directory or an image layout")
    missing = ["oci-layout was missing"] if "index.json" in present else []
    with locked(root):
        if not marker.exists():
            for algorithm in ALGORITHMS:
                (root / "blobs" / algorithm).mkdir(mode=0o755, parents=True, exist_ok=True)
            if not (root / "index.json").exists():
                empty = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
                replace_file(root / "index.json", msgspec.json.encode(empty))
            replace_file(marker, msgspec.json.encode({"imageLayoutVersion": VERSION}))
    return missing


def _read_index(root: Path) -> bytes | None:
    """index.json, or None if there is none. Raises OSError."""
    try:
        return read_file(root / "index.json", MAX_INDEX_BYTES)
    except FileNotFoundError:
        return None


class LayoutStore:
    """A BlobStore and import target over a directory that other processes may change. Made by :func:`open_layout`.

    Blobs are opened by path for each look-up, and index.json is looked at (one stat) when a name is asked for, so
    answers are right without :meth:`run` too; ``run`` is what makes events come by themselves. Owns a descriptor of
    ``blobs`` and, once it has written, a locked directory for files in progress; :meth:`close` releases both.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files = BlobDirectory(root / "blobs")
        self._catalog = Catalog(self._files.read_manifest)
        self._staging = Staging(root)
        self._index_state: tuple[int, ...] | None = None
        self._running = False

    def load(self, images: Mapping[str, Image]) -> None:
        """Take the first look. Raises StoreUnavailable if the blobs cannot be listed."""
        self._index_state = self._index_identity()
        self._catalog.replace(self._files.scan(), images)
        try:
            self._staging.clean()
        except (OSError, StoreError) as error:
            log.debug("%s cannot be cleaned: %s", self.root, error, extra={"event": "store.not_cleaned"})

    def damage(self) -> list[str]:
        """What is known by now to keep content from being served, in words."""
        places = (self.root / "blobs", *(self.root / "blobs" / name for name in ALGORITHMS))
        found = [f"{place} is no directory" for place in places if place.exists() and not place.is_dir()]
        nowhere = self._catalog.unmet()
        return [*found, f"names without their manifest: {len(nowhere)}, such as {nowhere[0]}"] if nowhere else found

    # Look-ups.

    def open(self, digest: Digest) -> Blob | None:
        """Open the file, or None; one that was cut short is not served, and is gone from then on."""
        blob = self._files.open(digest)
        if blob is None:
            if digest in self._catalog:
                self._catalog.update(left=(digest,))
            return None
        if not self._catalog.is_whole(digest, blob.size):
            blob.close()
            return None
        return blob

    def size(self, digest: Digest) -> int | None:
        """Size in bytes of content that is here, or None."""
        size = self._files.size(digest)
        return size if size is not None and self._catalog.is_whole(digest, size) else None

    def resolve(self, reference: Reference) -> Descriptor | None:
        """What a tag means here, or None."""
        self._refresh()
        return self._catalog.resolve(reference)

    def media_type(self, digest: Digest) -> str | None:
        """The media type from the manifest's own bytes; they are read and checked once."""
        return self._catalog.media_type(digest) if self.size(digest) is not None else None

    def names(self, digest: Digest) -> frozenset[str]:
        """The ``registry/repository`` names that reach this content."""
        self._refresh()
        return self._catalog.names(digest)

    def expected_size(self, digest: Digest) -> int | None:
        """See ``BlobStore.expected_size``."""
        return self._catalog.expected_size(digest)

    def digests(self) -> list[Digest]:
        """All content that is here."""
        if not self._running:
            self._catalog.replace(self._files.scan(self._catalog.sizes))
        return self._catalog.digests()

    def references(self) -> list[tuple[Reference, Descriptor]]:
        """All tags whose manifest is here."""
        self._refresh()
        return self._catalog.references()

    # Changes.

    def subscribe(self, listener: Callable[[ContentEvent], None]) -> Callable[[], None]:
        """Call ``listener`` for every change from now on; returns the undo."""
        return self._catalog.subscribe(listener)

    async def run(self) -> None:
        """Watch the directories until cancelled, and tell the listeners what other processes change."""
        watched = [self.root, self.root / "blobs", *(self.root / "blobs" / name for name in ALGORITHMS)]
        self._running = True
        try:
            await DirectoryWatcher(watched, self._changed).run()
        finally:
            self._running = False

    def _changed(self, events: list[DirectoryEvent]) -> None:
        try:
            self._follow(events)
        except (OSError, StoreError) as error:  # a disk or descriptor trouble of a moment; the next rescan looks again
            log.warning("%s cannot be read now: %s", self.root, error, extra={"event": "store.scan_failed"})

    def _follow(self, events: list[DirectoryEvent]) -> None:
        if any(isinstance(event, Rescan) for event in events):
            self._rescan()
            return
        came: dict[Digest, int] = {}
        left: dict[Digest, None] = {}
        for event in events:
            digest = self._digest_of(event)
            if digest is None:
                continue
            size = self._files.size(digest) if isinstance(event, Appeared) else None
            if size is not None:
                left.pop(digest, None)
                came[digest] = size
            elif isinstance(event, Vanished):
                came.pop(digest, None)
                left[digest] = None
        self._catalog.update(came, left, self._changed_images())

    @staticmethod
    def _digest_of(event: DirectoryEvent) -> Digest | None:
        if isinstance(event, Rescan) or event.directory.name not in ALGORITHMS:
            return None
        return file_digest(event.directory.name, event.name)

    def _rescan(self) -> None:
        try:
            found = self._files.scan(self._catalog.sizes)
        except StoreUnavailable as error:
            log.warning("%s", error, extra={"event": "store.scan_failed"})
            return
        self._catalog.replace(found, self._changed_images())

    def _refresh(self) -> None:
        """Take in another process's index.json, with the blobs it names that no event has told of yet."""
        images = self._changed_images()
        if images is not None:
            self._catalog.replace(self._files.scan(self._catalog.sizes), images)

    def _index_identity(self) -> tuple[int, ...] | None:
        try:
            status = os.stat(self.root / "index.json")
        except OSError:
            return None
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def _changed_images(self) -> dict[str, Image] | None:
        """The named images if index.json is another than the last one read, and can be read; else None."""
        state = self._index_identity()
        if state == self._index_state:
            return None
        try:
            content = _read_index(self.root)
            images = images_of(read_roots(b"{}" if content is None else content, str(self.root / "index.json")))
        except StoreError as error:
            self._index_state = state  # it stays damaged until it is written again
            log.warning("names stay as they were: %s", error, extra={"event": "store.index_unreadable"})
            return None
        except OSError as error:
            log.warning("names stay as they were: %s", error, extra={"event": "store.index_unreadable"})
            return None
        self._index_state = state
        return images

    # Writing.

    def ingest(self, digest: Digest, size: int | None = None) -> LayoutIngest:
        """Begin to write content. Raises StoreError."""
        return LayoutIngest(self._stage(digest, size), lambda file: self._publish([file], {}))

    def tag(self, reference: Reference, target: Descriptor) -> None:
        """Write the name into index.json. Raises StoreError for absent content, or if it cannot be written."""
        if self.size(target.digest) is None:
            raise StoreError(f"{target.digest} is not in {self.root}, so {reference} cannot mean it")
        self._publish([], {reference: target})

    def batch(self) -> LayoutBatch:
        """Begin to write content and names that become visible together; see :class:`LayoutBatch`."""
        return LayoutBatch(self._stage, self._publish)

    def scratch(self) -> BinaryIO:
        """An empty unlinked file on the store's file system, for data on its way. Raises StoreError."""
        try:
            return scratch_file(self._staging.directory())
        except OSError as error:
            raise store_error(self.root, "no file can be made there", error) from error

    def _stage(self, digest: Digest, size: int | None) -> StagedFile:
        try:
            return StagedFile(self.root, self._staging.directory(), digest, size)
        except OSError as error:
            raise store_error(self.root, "the store cannot be written", error) from error

    def _publish(self, files: Sequence[StagedFile], tags: Mapping[Reference, Descriptor]) -> None:
        try:
            with locked(self.root):
                added = publish(self.root, files)
                try:
                    if tags:
                        add_tags(self.root, tags)
                except BaseException:
                    withdraw(added)
                    raise
        except OSError as error:
            raise store_error(self.root, "the store cannot be written", error) from error
        self._catalog.update({file.digest: file.written for file in files}, (), self._changed_images())

    def close(self) -> None:
        """Release descriptors and what was being written; idempotent."""
        self._staging.close()
        self._files.close()


class LayoutIngest:
    """Content that is being written to a layout; :meth:`commit` hands the sealed file on."""

    def __init__(self, file: StagedFile, done: Callable[[StagedFile], None]) -> None:
        self._file = file
        self._done: Callable[[StagedFile], None] | None = done

    def write(self, piece: bytes | memoryview) -> None:
        """Append. Raises OSError."""
        self._file.write(piece)

    def commit(self) -> None:
        """Check and keep. Raises DigestMismatch or StoreError, and keeps nothing."""
        assert self._done is not None, "committed or aborted before"
        done, self._done = self._done, None
        self._file.seal()
        try:
            done(self._file)
        except BaseException:
            self._file.discard()
            raise

    def abort(self) -> None:
        """Throw away what was written; idempotent, does nothing after :meth:`commit`."""
        if self._done is not None:
            self._done = None
            self._file.discard()


class LayoutBatch:
    """Content and names that become visible together, at :meth:`commit`; until then they are nowhere to be seen.

    A context manager that aborts what was not committed.
    """

    def __init__(
        self,
        stage: Callable[[Digest, int | None], StagedFile],
        publish: Callable[[Sequence[StagedFile], Mapping[Reference, Descriptor]], None],
    ) -> None:
        self._stage = stage
        self._publish = publish
        self._files: list[StagedFile] = []
        self._tags: dict[Reference, Descriptor] = {}

    def ingest(self, digest: Digest, size: int | None = None) -> LayoutIngest:
        """Begin to write content; its ``commit`` makes it ready for the batch's. Raises StoreError."""
        return LayoutIngest(self._stage(digest, size), self._files.append)

    def tag(self, reference: Reference, target: Descriptor) -> None:
        """A name that is to mean content of this batch or of the store."""
        self._tags[reference] = target

    def commit(self) -> None:
        """Make all of it visible. Raises StoreError and keeps nothing."""
        self._publish(self._files, self._tags)
        self._files.clear()

    def abort(self) -> None:
        """Throw away what was written; idempotent, does nothing after :meth:`commit`."""
        for file in self._files:
            file.discard()
        self._files.clear()

    def __enter__(self) -> LayoutBatch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()
