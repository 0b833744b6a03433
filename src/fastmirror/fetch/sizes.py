"""Sizes of content that manifests told of. Pure."""

from __future__ import annotations

from typing import Final

from fastmirror.fetch.lru import Lru
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import Manifest

_MOST: Final = 16384
_DISPUTED: Final = -1


class Sizes:
    """Digest to size in bytes, from manifests whose own bytes were verified. Bounded; the least used goes first.

    A manifest is verified, but its author may still lie about a layer that other images have too: where two
    manifests differ no size is known.
    """

    def __init__(self) -> None:
        self._known: Lru[Digest, int] = Lru(_MOST)

    def learn(self, manifest: Manifest) -> None:
        """Remember what a verified manifest says about its children."""
        for child in manifest.children:
            self._note(child)

    def _note(self, child: Descriptor) -> None:
        known = self._known.get(child.digest)
        self._known.put(child.digest, child.size if known in (None, child.size) else _DISPUTED)

    def get(self, digest: Digest) -> int | None:
        """The size in bytes, or None."""
        size = self._known.get(digest)
        return None if size == _DISPUTED else size
