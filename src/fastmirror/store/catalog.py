"""What a store holds right now and what it is called, and the events that say how that changes.

A store tells its catalog what it sees (files, names); the catalog reads the manifests, works out which tags count
and calls the listeners in the promised order. The containerd store and the image layout share it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from fastmirror.oci.descriptor import INDEX_TYPES, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import MAX_BYTES, parse_manifest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, ContentEvent, Gone, Tagged, Untagged
from fastmirror.store.graph import ContentGraph
from fastmirror.store.names import ImageName

log = logging.getLogger(__name__)


class Image(NamedTuple):
    """A named image: what it is called and what the store's records say it is."""

    name: ImageName
    target: Descriptor


class Catalog:
    """The view of one store. Not thread-safe: it lives on the loop's thread, as its listeners do.

    ``read`` gives a manifest's bytes, checked against its digest, or None if it is not there or damaged.
    """

    def __init__(self, read: Callable[[Digest], bytes | None]) -> None:
        self.graph = ContentGraph()
        self._read = read
        self._sizes: dict[Digest, int] = {}
        self._opaque: set[Digest] = set()
        self._images: dict[str, Image] = {}
        self._tags: dict[Reference, Descriptor] = {}
        self._cut: set[Digest] = set()
        self._listeners: list[Callable[[ContentEvent], None]] = []
        self._queue: deque[ContentEvent] = deque()
        self._telling = False

    # What is asked.

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._sizes

    @property
    def sizes(self) -> Mapping[Digest, int]:
        """All content that is here with its size in bytes; a view, not a copy."""
        return self._sizes

    def digests(self) -> list[Digest]:
        """All content that is here, in no order."""
        return list(self._sizes)

    def references(self) -> list[tuple[Reference, Descriptor]]:
        """All tags whose manifest is here."""
        return list(self._tags.items())

    def unmet(self) -> list[str]:
        """The names whose manifest is not here."""
        return [label for label, image in self._images.items() if image.target.digest not in self._sizes]

    def resolve(self, reference: Reference) -> Descriptor | None:
        """What a tag means, or None; also None while its manifest is not here."""
        return self._tags.get(reference)

    def names(self, digest: Digest) -> frozenset[str]:
        """The ``registry/repository`` names whose images use this content."""
        return self.graph.names(digest)

    def expected_size(self, digest: Digest) -> int | None:
        """The size in bytes that manifests here give this content, wherever it is; None if none or several."""
        return self.graph.size(digest)

    def media_type(self, digest: Digest) -> str | None:
        """The media type from a manifest's own bytes, which are read when it is first asked for; else None."""
        manifest = self.graph.manifest(digest)
        if manifest is not None:
            return manifest.media_type
        if digest in self._opaque or self.graph.is_plain(digest):
            return None
        size = self._sizes.get(digest)
        if size is not None and size > MAX_BYTES:
            return None
        content = self._read(digest)
        manifest = None if content is None else parse_manifest(content)
        if manifest is None:
            if content is not None and digest in self._sizes:
                self._opaque.add(digest)
            return None
        if digest in self._sizes:
            self.graph.add(digest, manifest)
        return manifest.media_type

    def is_whole(self, digest: Digest, size: int) -> bool:
        """Whether a file of this size can be this content; if not, that is logged once and the content is gone."""
        if self.graph.fits(digest, size):
            return True
        self.update(left=(digest,))
        self._warn_cut(digest, size)
        return False

    # What the store tells.

    def subscribe(self, listener: Callable[[ContentEvent], None]) -> Callable[[], None]:
        """Call ``listener`` for every event from now on; returns the undo, which may be called twice."""
        self._listeners.append(listener)

        def undo() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return undo

    def replace(self, found: Mapping[Digest, int], images: Mapping[str, Image] | None = None) -> None:
        """The content that is here is exactly ``found`` (digest to size in bytes)."""
        left = [digest for digest in self._sizes if digest not in found]
        self.update(found, left, images)

    def update(
        self,
        arrived: Mapping[Digest, int] | None = None,
        left: Collection[Digest] = (),
        images: Mapping[str, Image] | None = None,
    ) -> None:
        """Content has come (with its size) or gone, and ``images``, where given, are all the names there are.

        What is known already, or gone already, changes nothing. Events: Untagged, Arrived (blobs, manifests, indexes),
        Tagged, Gone (indexes, manifests, blobs).
        """
        if images is not None:
            self._rename(images)
        fresh: dict[Digest, None] = {}
        gone = {digest: None for digest in left if self._sizes.pop(digest, None) is not None}
        for digest, size in (arrived or {}).items():
            known = self._sizes.get(digest)
            if known == size:  # most of a scan; what its manifest says of its size was compared before
                continue
            here = known is not None
            if not self.graph.fits(digest, size):
                self._warn_cut(digest, size)
                if here:
                    self._lose(digest, fresh, gone)
                continue
            self._sizes[digest] = size
            self._cut.discard(digest)
            if digest in gone:
                del gone[digest]
            elif not here:
                fresh[digest] = None
        self._learn(fresh, gone)
        self._tell(fresh, gone)

    def _rename(self, images: Mapping[str, Image]) -> None:
        for label in [label for label in self._images if label not in images]:
            self.graph.release(label)
        for label, image in images.items():
            if self._images.get(label) != image:
                self.graph.hold(label, image.name.name, image.target)
        self._images = dict(images)

    def _learn(self, fresh: dict[Digest, None], gone: dict[Digest, None]) -> None:
        """Read the manifests that are newly here or newly named; what they show to be cut short is here no more."""
        ahead = [image.target.digest for image in self._images.values()]
        ahead.extend(digest for digest in fresh if self.graph.is_expected_manifest(digest))
        shown: set[Digest] = set()
        while ahead:
            digest = ahead.pop()
            size = self._sizes.get(digest)
            if size is None or self.graph.manifest(digest) is not None or digest in self._opaque:
                continue
            if self._lose_if_cut(digest, size, fresh, gone) or size > MAX_BYTES:
                continue
            content = self._read(digest)
            if content is None:
                self._lose(digest, fresh, gone)
                continue
            manifest = parse_manifest(content)
            if manifest is None:
                self._opaque.add(digest)
                continue
            self.graph.add(digest, manifest)
            ahead.extend(child.digest for child in manifest.manifests)
            shown.update(child.digest for child in manifest.children)
        for digest in shown:
            size = self._sizes.get(digest)
            if size is not None:
                self._lose_if_cut(digest, size, fresh, gone)

    def _lose_if_cut(self, digest: Digest, size: int, fresh: dict[Digest, None], gone: dict[Digest, None]) -> bool:
        if self.graph.fits(digest, size):
            return False
        self._warn_cut(digest, size)
        self._lose(digest, fresh, gone)
        return True

    def _lose(self, digest: Digest, fresh: dict[Digest, None], gone: dict[Digest, None]) -> None:
        del self._sizes[digest]
        if digest in fresh:  # nobody has heard of it yet
            del fresh[digest]
        else:
            gone[digest] = None

    def _warn_cut(self, digest: Digest, size: int) -> None:
        if digest in self._cut:
            return
        self._cut.add(digest)
        log.warning(
            "%s has %d bytes, which is not the size its manifest gives: it is not served; import it again",
            digest,
            size,
            extra={"event": "store.blob_cut", "digest": str(digest)},
        )

    def _tell(self, fresh: Iterable[Digest], gone: Iterable[Digest]) -> None:
        gone = sorted(gone, key=self._rank, reverse=True)
        for digest in gone:
            self.graph.discard(digest)
            self._opaque.discard(digest)
        before, self._tags = self._tags, self._current_tags()
        self._queue.extend(Untagged(reference) for reference in before if reference not in self._tags)
        self._queue.extend(Arrived(digest) for digest in sorted(fresh, key=self._rank))
        self._queue.extend(
            Tagged(reference, target) for reference, target in self._tags.items() if before.get(reference) != target
        )
        self._queue.extend(Gone(digest) for digest in gone)
        self._deliver()

    def _rank(self, digest: Digest) -> int:
        manifest = self.graph.manifest(digest)
        if manifest is None:
            return 0
        return 2 if manifest.media_type in INDEX_TYPES else 1

    def _current_tags(self) -> dict[Reference, Descriptor]:
        tags = {}
        for image in self._images.values():
            digest = image.target.digest
            manifest = self.graph.manifest(digest)
            if image.name.reference is not None and manifest is not None and digest in self._sizes:
                tags[image.name.reference] = Descriptor(manifest.media_type, digest, self._sizes[digest])
        return tags

    def _deliver(self) -> None:
        if self._telling:  # a listener looked something up that changed the view: its events come after ours
            return
        self._telling = True
        try:
            while self._queue:
                event = self._queue.popleft()
                for listener in tuple(self._listeners):
                    listener(event)
        finally:
            self._telling = False
