"""Sizes of content that is not here, as far as they are known and not only told. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from fastmirror.fetch.lru import Lru
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import Manifest

_MOST: Final = 16384
_DISPUTED: Final = -1


def agreed(claims: Iterable[int | None]) -> int | None:
    """The size that peers agree on: all of them, or two at least that are more than all who say otherwise.

    None among the claims is another size than was asked for, which one is not known. None: there is no agreement.
    """
    told = Counter(claims)
    if not told:
        return None
    ((size, most),) = told.most_common(1)
    return size if len(told) == 1 or (most >= 2 and 2 * most > told.total()) else None


class Sizes:
    """Digest to size in bytes, from verified content, and from manifests whose own bytes were verified. Bounded; the
    least used goes first.

    A manifest is verified, but its author may still lie about a layer that other images have too: where two
    manifests differ no size is known. ``here`` says what the manifests of this node's own stores give.
    """

    def __init__(self) -> None:
        self.here: Callable[[Digest], int | None] = _nothing
        self._proved: Lru[Digest, int] = Lru(_MOST)
        self._known: Lru[Digest, int] = Lru(_MOST)

    def learn(self, manifest: Manifest) -> None:
        """Remember what a verified manifest says about its children."""
        for child in manifest.children:
            self._note(child)

    def prove(self, digest: Digest, size: int) -> None:
        """Content of this size has this digest."""
        self._proved.put(digest, size)

    def _note(self, child: Descriptor) -> None:
        known = self._known.get(child.digest)
        self._known.put(child.digest, child.size if known in (None, child.size) else _DISPUTED)

    def get(self, digest: Digest) -> int | None:
        """The size in bytes, or None."""
        if is_empty(digest):
            return 0
        proved = self._proved.get(digest)
        if proved is not None:
            return proved
        size = self._known.get(digest)
        return self.here(digest) if size is None else None if size == _DISPUTED else size


def is_empty(digest: Digest) -> bool:
    """Whether this is the digest of no bytes at all; all other content has some."""
    return digest == Digest.of(b"", digest.algorithm)


def _nothing(_: Digest) -> int | None:
    return None
