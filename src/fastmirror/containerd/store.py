"""containerd's content as a BlobStore: bytes from its files, arrivals from inotify, names from the helper process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from fastmirror.containerd.frames import Changed, Connected, ContentRecord, Foreign, Frame, ImageRecord, Lost
from fastmirror.containerd.holdings import Holdings, Knowing
from fastmirror.containerd.link import Helper
from fastmirror.errors import DigestInvalid, StoreError, StoreUnavailable
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import Blob, ContentEvent, Ingest
from fastmirror.store.catalog import Catalog, Image
from fastmirror.store.files import ALGORITHMS, BlobDirectory, file_digest
from fastmirror.store.inotify import Appeared, DirectoryEvent, DirectoryWatcher, Rescan, Vanished
from fastmirror.store.names import image_name

log = logging.getLogger(__name__)

_NOT_THERE: Final = Path("/nonexistent")


class Place(NamedTuple):
    """Where a store's content and names come from.

    Without ``socket`` there are no names and every file is served by digest. Without ``content`` containerd says where
    it is. With ``all_namespaces`` other namespaces' content is served too, by digest.
    """

    socket: str | None = None
    content: Path | None = None
    namespace: str = "k8s.io"
    all_namespaces: bool = False


class ContainerdStore:
    """A read-only BlobStore over a containerd that may be slow, frozen, restarted, or not there yet.

    No look-up waits for containerd: files are opened by path, names are what was last heard. :meth:`run` is what
    makes names and events come; without it only files that need no name are served (see :class:`Holdings`). Owns a
    descriptor of the content directory (:meth:`close`) and, while it runs, the helper process.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._holdings = Holdings(namespaced=place.socket is not None and not place.all_namespaces)
        self._files = BlobDirectory(_NOT_THERE)
        self._catalog = Catalog(self._read_manifest)
        self._helper = Helper(place.socket, place.namespace, self._hear) if place.socket is not None else None
        self._images: dict[str, Image] = {}
        self._sources: dict[Digest, tuple[str, ...]] = {}
        self._root: Path | None = None
        self._root_known = asyncio.Event()
        self._running = False
        self._had_blobs = False
        self._trouble: str | None = None
        self._scan_failure: str | None = None
        if place.content is not None:
            self._enter(place.content)
            self._rescan()

    @property
    def root(self) -> Path | None:
        """The directory that holds ``blobs``; None until containerd has said where it is."""
        return self._root

    @property
    def helper_pid(self) -> int | None:
        """The helper process that runs now, if one does."""
        return None if self._helper is None else self._helper.pid

    def problem(self) -> str | None:
        """Why this store cannot serve all that it should, or None; one sentence."""
        if self._root is None:
            return f"content directory not known: {self._trouble or 'containerd was not heard of yet'}"
        if self._scan_failure is not None:
            return self._scan_failure
        if self._helper is not None and self._holdings.knowing is not Knowing.LISTED:
            return self._trouble or "containerd was not heard of yet"
        return None

    # Look-ups.

    def open(self, digest: Digest) -> Blob | None:
        """Open the file, or None; one that was cut short is not served, and is gone from then on."""
        if not self._holdings.may_serve(digest):
            return None
        blob = self._files.open(digest)
        if blob is None or self._catalog.is_whole(digest, blob.size):
            return blob
        blob.close()
        return None

    def size(self, digest: Digest) -> int | None:
        """Size in bytes of content that is here, or None."""
        size = self._files.size(digest) if self._holdings.may_serve(digest) else None
        return size if size is not None and self._catalog.is_whole(digest, size) else None

    def resolve(self, reference: Reference) -> Descriptor | None:
        """What containerd last said that a tag means, if that content is here."""
        target = self._catalog.resolve(reference)
        return target if target is not None and self.size(target.digest) is not None else None

    def media_type(self, digest: Digest) -> str | None:
        """The media type from the manifest's own bytes; they are read and checked once."""
        return self._catalog.media_type(digest) if self.size(digest) is not None else None

    def names(self, digest: Digest) -> frozenset[str]:
        """Names from images that use this content and from containerd's labels (there a registry has no port)."""
        return self._catalog.names(digest)

    def expected_size(self, digest: Digest) -> int | None:
        """See ``BlobStore.expected_size``."""
        return self._catalog.expected_size(digest)

    def digests(self) -> list[Digest]:
        """All content that is here and may be served."""
        if not self._running and self._root is not None:
            self._rescan()
        return self._catalog.digests()

    def references(self) -> list[tuple[Reference, Descriptor]]:
        """All tags whose manifest is here."""
        return self._catalog.references()

    # Changes.

    def subscribe(self, listener: Callable[[ContentEvent], None]) -> Callable[[], None]:
        """Call ``listener`` for every change from now on; returns the undo."""
        return self._catalog.subscribe(listener)

    async def run(self) -> None:
        """Watch the directory and hear containerd until cancelled; then the helper process is gone."""
        self._running = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(), name="containerd files")
                if self._helper is not None:
                    group.create_task(self._helper.run(), name="containerd helper")
        finally:
            self._running = False

    async def _watch(self) -> None:
        while True:
            await self._root_known.wait()
            self._root_known.clear()
            root = self._root
            assert root is not None
            blobs = root / "blobs"
            watcher = DirectoryWatcher([root, blobs, *(blobs / name for name in ALGORITHMS)], self._moved)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(watcher.run(), name="containerd inotify")
                await self._root_known.wait()  # containerd was started with another root
                running.cancel()

    def _enter(self, root: Path) -> None:
        if root == self._root:
            return
        self._root, self._had_blobs = root, False
        self._files.close()
        self._files = BlobDirectory(root / "blobs", links=False)
        self._root_known.set()

    def _moved(self, events: list[DirectoryEvent]) -> None:
        if any(isinstance(event, Rescan) for event in events):
            self._rescan()
            return
        came: dict[Digest, int] = {}
        went: dict[Digest, None] = {}
        for event in events:
            digest = _digest_of(event)
            if digest is None:
                continue
            size = self._files.size(digest) if isinstance(event, Appeared) else None
            if size is not None:
                went.pop(digest, None)
                came[digest] = size
            elif isinstance(event, Vanished):
                came.pop(digest, None)
                went[digest] = None
        self._ask(self._holdings.came(came))
        self._holdings.went(went)
        self._catalog.update({digest: size for digest, size in came.items() if self._holdings.may_serve(digest)}, went)

    def _rescan(self) -> None:
        assert self._root is not None
        try:
            found = self._files.scan()
            there = (self._root / "blobs").is_dir()
            # A containerd that has never pulled has nothing in it (1.7 and later) or "ingest" only (1.6).
            new = self.place.content is None or (self._root / "ingest").is_dir()
            missing = not there and (self._had_blobs or not new)
            self._had_blobs = self._had_blobs or there
            failure = f"{self._root} has no blobs: is it containerd's content directory?" if missing else None
        except (StoreUnavailable, OSError) as error:
            found, failure = {}, str(error)
        if failure is not None and failure != self._scan_failure:
            log.warning("nothing is served until it is back: %s", failure, extra={"event": "containerd.content_lost"})
        self._scan_failure = failure
        self._ask(self._holdings.scanned(found))
        self._catalog.replace(self._holdings.served())

    def _read_manifest(self, digest: Digest) -> bytes | None:
        return self._files.read_manifest(digest)

    def _ask(self, digests: list[Digest]) -> None:
        if digests and self._helper is not None:
            self._helper.look(digests)

    # What the helper says.

    def _hear(self, frame: Frame) -> None:
        match frame:
            case Connected():
                self._connected(frame)
            case Lost():
                self._lost(frame.reason)
            case Changed():
                self._changed(frame)
            case Foreign():
                self._catalog.update(left=self._holdings.foreign(map(Digest, frame.digests)))

    def _connected(self, frame: Connected) -> None:
        self._trouble = None
        details = {"event": "containerd.connected", "version": frame.version, "content": frame.root}
        log.info("containerd answers", extra=details)
        if self.place.content is None and frame.root:
            self._enter(Path(frame.root))

    def _lost(self, reason: str) -> None:
        if not self._holdings.lost():
            self._trouble = reason
            return
        self._trouble = reason
        log.warning("%s; what is known is served meanwhile", reason, extra={"event": "containerd.lost"})
        self._catalog.replace(self._holdings.served())

    def _changed(self, frame: Changed) -> None:
        if frame.complete:
            self._forget(list(self._sources))
        self._forget(map(Digest, frame.no_content))
        ours = [record for record in map(_checked, frame.content) if record is not None]
        for digest, record in ours:
            self._learn(digest, record)
        change = self._holdings.listed(
            [digest for digest, _ in ours], list(map(Digest, frame.no_content)), complete=frame.complete
        )
        self._ask(change.ask)
        images = self._renamed(frame)
        if change.all:
            self._catalog.replace(change.arrived, images)
        else:
            self._catalog.update(change.arrived, change.left, images)

    def _learn(self, digest: Digest, record: ContentRecord) -> None:
        """The names from labels; they hold their digest whether or not the file is there."""
        self._forget([digest])
        if record.sources:
            self._sources[digest] = record.sources
        for source in record.sources:
            self._catalog.graph.hold(_label(digest, source), source, Descriptor("", digest, record.size))

    def _forget(self, digests: Iterable[Digest]) -> None:
        for digest in digests:
            for source in self._sources.pop(digest, ()):
                self._catalog.graph.release(_label(digest, source))

    def _renamed(self, frame: Changed) -> dict[str, Image] | None:
        """All names after this frame, or None if it changes none."""
        if not (frame.complete or frame.images or frame.no_images):
            return None
        images = {} if frame.complete else dict(self._images)
        for name in frame.no_images:
            images.pop(name, None)
        for record in frame.images:
            image = _image(record)
            if image is not None:
                images[record.name] = image
        self._images = images
        return {image.name.label: image for image in images.values()}

    # Writing.

    def ingest(self, digest: Digest, size: int | None = None) -> Ingest:
        """Raises StoreError: containerd's own pulls are what fills it."""
        raise StoreError("containerd's content is read-only here: let containerd pull or import it")

    def tag(self, reference: Reference, target: Descriptor) -> None:
        """Raises StoreError."""
        raise StoreError("containerd's names are read-only here: let containerd pull, tag or import")

    def close(self) -> None:
        """Release the descriptor; idempotent."""
        self._files.close()


def _digest_of(event: DirectoryEvent) -> Digest | None:
    if isinstance(event, Rescan) or event.directory.name not in ALGORITHMS:
        return None
    return file_digest(event.directory.name, event.name)


def _label(digest: Digest, source: str) -> str:
    return f"{digest} from {source}"


def _checked(record: ContentRecord) -> tuple[Digest, ContentRecord] | None:
    """The record with its digest, or None for an algorithm that is not served."""
    try:
        return Digest.parse(record.digest), record
    except DigestInvalid:
        return None


def _image(record: ImageRecord) -> Image | None:
    """The image, or None if the record names none (CRI also names images by their config's digest)."""
    name = image_name(record.name)
    if name is None:
        return None
    try:
        return Image(name, Descriptor(record.media_type, Digest.parse(record.digest), record.size))
    except DigestInvalid:
        return None
