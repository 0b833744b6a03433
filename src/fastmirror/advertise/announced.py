"""The ledger of what was announced: what must be told for it to become true again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.routing import Key


class Change(NamedTuple):
    """What to withdraw, then what to advertise, each in the order in which it is to be told."""

    withdraw: tuple[Key, ...] = ()
    advertise: tuple[Key, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.withdraw or self.advertise)


class Announced:
    """What the others were told. ``is_manifest`` tells manifests from other content, for the order.

    Content comes before what names it: blobs, manifests, tags; it goes in reverse.
    """

    def __init__(self, is_manifest: Callable[[Digest], bool]) -> None:
        self._is_manifest = is_manifest
        self._keys: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: Key) -> bool:
        return key in self._keys

    def add(self, key: Key) -> Change:
        """This is served now."""
        return self._change((), (key,))

    def drop(self, key: Key) -> Change:
        """This is not served any more."""
        return self._change((key,), ())

    def become(self, served: Iterable[Key]) -> Change:
        """Exactly this is served now."""
        wanted = set(served)
        return self._change([key for key in self._keys if key not in wanted], wanted)

    def _change(self, gone: Iterable[Key], come: Iterable[Key]) -> Change:
        known = self._keys
        withdraw = sorted((key for key in gone if key in known), key=lambda key: -known[key])
        fresh = {key: self._rank(key) for key in come if key not in known}
        for key in withdraw:
            del known[key]
        known.update(fresh)
        return Change(tuple(withdraw), tuple(sorted(fresh, key=fresh.__getitem__)))

    def _rank(self, key: Key) -> int:
        if isinstance(key, Reference):
            return 2
        return 1 if self._is_manifest(key) else 0
