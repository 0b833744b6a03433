"""Which of the files in containerd's content directory may be served. Pure.

The directory is shared by all of containerd's namespaces, and only containerd knows whose a file is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from fastmirror.oci.digest import Digest


class Knowing(Enum):
    """How far containerd's word reaches."""

    ASKING = "not heard of containerd yet"
    LISTED = "the namespace is known, new files are asked for"
    AWAY = "containerd does not answer; what it said before holds"


class Change(NamedTuple):
    """Files that may be served from now on, with their size in bytes, and files that may not any more."""

    arrived: dict[Digest, int]
    left: list[Digest]


class Holdings:
    """The files that are there, and whose they are.

    A file is *ours* when containerd said so and *foreign* when it said no. While neither is known, a file is served
    only when containerd does not answer at all: then pulls should not fail because of it. Without ``namespaced``
    every file is served.
    """

    def __init__(self, *, namespaced: bool) -> None:
        self.files: dict[Digest, int] = {}
        self.knowing = Knowing.ASKING
        self._namespaced = namespaced
        self._ours: set[Digest] = set()
        self._foreign: set[Digest] = set()
        self._asked: set[Digest] = set()

    def may_serve(self, digest: Digest) -> bool:
        """Whether content may be served, if its file is there."""
        if not self._namespaced or digest in self._ours:
            return True
        return self.knowing is Knowing.AWAY and digest not in self._foreign

    def served(self) -> dict[Digest, int]:
        """Everything that is there and may be served."""
        return {digest: size for digest, size in self.files.items() if self.may_serve(digest)}

    # What the directory says.

    def scanned(self, found: Mapping[Digest, int]) -> list[Digest]:
        """These are all the files; returns those that containerd should be asked about."""
        new = [digest for digest in found if digest not in self.files]
        self.files = dict(found)
        return self._to_ask(new)

    def came(self, found: Mapping[Digest, int]) -> list[Digest]:
        """These files are new, or were written again; returns those that containerd should be asked about."""
        self.files.update(found)
        self._foreign.difference_update(found)
        return self._to_ask(found)

    def went(self, digests: Iterable[Digest]) -> None:
        """These files are gone."""
        for digest in digests:
            self.files.pop(digest, None)
            self._asked.discard(digest)

    def _to_ask(self, digests: Iterable[Digest]) -> list[Digest]:
        if not self._namespaced or self.knowing is not Knowing.LISTED:
            return []  # the list that comes when containerd answers speaks of them
        ask = [digest for digest in digests if digest not in self._ours and digest not in self._foreign]
        self._asked.update(ask)
        return ask

    # What containerd says.

    def listed(self, ours: Iterable[Digest], not_ours: Iterable[Digest], *, complete: bool) -> Change | None:
        """containerd has these, and those no more; None if more has changed than that, see :meth:`served`."""
        ours = set(ours)
        was = self.knowing
        self.knowing = Knowing.LISTED
        if complete:
            self._ours = ours
            self._asked.clear()
        else:
            self._ours |= ours
            self._ours.difference_update(not_ours)
        self._asked -= ours
        if complete or was is not Knowing.LISTED:
            self._foreign = {digest for digest in self.files if digest not in self._ours and digest not in self._asked}
            return None
        self._foreign -= ours
        left = [digest for digest in not_ours if digest not in self._ours]
        self._foreign.update(digest for digest in left if digest in self.files)
        return Change({digest: self.files[digest] for digest in ours if digest in self.files}, left)

    def foreign(self, digests: Iterable[Digest]) -> None:
        """containerd was asked about these and the namespace does not have them."""
        for digest in digests:
            self._asked.discard(digest)
            if digest in self.files and digest not in self._ours:
                self._foreign.add(digest)

    def lost(self) -> bool:
        """containerd does not answer; whether that is news."""
        news = self.knowing is not Knowing.AWAY
        self.knowing = Knowing.AWAY
        self._asked.clear()
        return news
