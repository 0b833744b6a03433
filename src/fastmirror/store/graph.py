"""Who names what: manifests and the content they name, images and the manifests they name. Pure.

Edges point from content to what names it, so that one image more or less costs its own size, not the store's.
"""

from __future__ import annotations

from fastmirror.oci.descriptor import MANIFEST_TYPES, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import Manifest


class ContentGraph:
    """Manifests that are here, and labels that hold content; answers what names some content, and its true size."""

    def __init__(self) -> None:
        self._manifests: dict[Digest, Manifest] = {}
        self._parents: dict[Digest, dict[Digest, Descriptor]] = {}
        self._holds: dict[Digest, dict[str, tuple[str, Descriptor]]] = {}
        self._labels: dict[str, Digest] = {}
        self._names: dict[Digest, frozenset[str]] = {}

    def add(self, digest: Digest, manifest: Manifest) -> None:
        """This manifest is here; what it names is known by it."""
        self._manifests[digest] = manifest
        for child in manifest.children:
            self._parents.setdefault(child.digest, {})[digest] = child
        self._names.clear()

    def discard(self, digest: Digest) -> None:
        """This manifest is not here any more; nothing happens if it never was."""
        manifest = self._manifests.pop(digest, None)
        if manifest is None:
            return
        for child in manifest.children:
            parents = self._parents.get(child.digest)
            if parents is not None and parents.pop(digest, None) is not None and not parents:
                del self._parents[child.digest]
        self._names.clear()

    def hold(self, label: str, name: str, target: Descriptor) -> None:
        """``label`` (a tag, a digest reference, a containerd label) says that ``target`` belongs to ``name``."""
        self.release(label)
        self._labels[label] = target.digest
        self._holds.setdefault(target.digest, {})[label] = (name, target)
        self._names.clear()

    def release(self, label: str) -> None:
        """The label holds nothing any more; nothing happens if it never did."""
        digest = self._labels.pop(label, None)
        if digest is None:
            return
        holds = self._holds[digest]
        del holds[label]
        if not holds:
            del self._holds[digest]
        self._names.clear()

    def manifest(self, digest: Digest) -> Manifest | None:
        """The manifest, if it is here."""
        return self._manifests.get(digest)

    def names(self, digest: Digest) -> frozenset[str]:
        """The ``registry/repository`` names that reach this content, through any number of manifests."""
        known = self._names.get(digest)
        if known is not None:
            return known
        found: set[str] = set()
        seen = {digest}
        ahead = [digest]
        while ahead:
            current = ahead.pop()
            found.update(name for name, _ in self._holds.get(current, {}).values())
            for parent in self._parents.get(current, ()):
                if parent not in seen:
                    seen.add(parent)
                    ahead.append(parent)
        names = frozenset(found)
        if digest in self._holds or digest in self._parents:  # strangers' digests would fill the memory
            self._names[digest] = names
        return names

    def fits(self, digest: Digest, size: int) -> bool:
        """Whether content of this size can be it: some manifest or index says so, or none says anything."""
        parents = self._parents.get(digest, {})
        holds = self._holds.get(digest, {})
        if not parents and not holds:
            return True
        if any(child.size == size for child in parents.values()):
            return True
        return any(target.size == size for _, target in holds.values())

    def size(self, digest: Digest) -> int | None:
        """The size that those who name this content give it; None if none does, or they differ."""
        told = {child.size for child in self._parents.get(digest, {}).values()}
        told.update(target.size for _, target in self._holds.get(digest, {}).values())
        return told.pop() if len(told) == 1 else None

    def is_expected_manifest(self, digest: Digest) -> bool:
        """Whether a label or a known index names this content as a manifest or index."""
        if any(target.media_type in MANIFEST_TYPES for _, target in self._holds.get(digest, {}).values()):
            return True
        return any(child.media_type in MANIFEST_TYPES for child in self._parents.get(digest, {}).values())

    def is_plain(self, digest: Digest) -> bool:
        """Whether some manifest names this content as something that is not a manifest: a config, a layer."""
        return any(child.media_type not in MANIFEST_TYPES for child in self._parents.get(digest, {}).values())
