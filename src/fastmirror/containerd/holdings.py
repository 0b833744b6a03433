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
    """What a word of containerd changes: files that may be served from now on, with their size in bytes, files that
    may not any more, and files that it should be asked about. With ``all`` it is everything that may be served, not
    a difference.
    """

    arrived: dict[Digest, int]
    left: list[Digest]
    ask: list[Digest]
    all: bool = False


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
        self._unasked: set[Digest] = set()  # came while containerd could not be asked
        self._granted: set[Digest] = set()  # served while containerd was away, until it says otherwise

    def may_serve(self, digest: Digest) -> bool:
        """Whether content may be served, if its file is there."""
        if not self._namespaced or digest in self._ours or digest in self._granted:
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
        if self.knowing is Knowing.ASKING:
            return []  # its first list speaks of them
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
            self._unasked.discard(digest)
            self._granted.discard(digest)

    def _to_ask(self, digests: Iterable[Digest]) -> list[Digest]:
        if not self._namespaced:
            return []
        ask = [digest for digest in digests if digest not in self._ours and digest not in self._foreign]
        if self.knowing is not Knowing.LISTED:
            self._unasked.update(ask)
            return []
        self._asked.update(ask)
        return ask

    # What containerd says.

    def listed(self, ours: Iterable[Digest], not_ours: Iterable[Digest], *, complete: bool) -> Change:
        """containerd has these, and those no more; with ``complete`` it has nothing but these."""
        ours, not_ours, was = set(ours), list(not_ours), self.knowing
        self.knowing = Knowing.LISTED
        self._ours = ours if complete else (self._ours | ours).difference(not_ours)
        for known in (self._asked, self._unasked, self._granted, self._foreign):
            known -= ours
        if not complete and was is Knowing.LISTED:
            left = [digest for digest in not_ours if digest in self.files]
            self._foreign.update(left)
            return Change({digest: self.files[digest] for digest in ours if digest in self.files}, left, [])
        # A list may be older than a file that came meanwhile: those are asked for one by one.
        if was is Knowing.AWAY:
            self._granted |= self._unasked
        ask = list(self._unasked | self._asked)
        self._asked.update(self._unasked)
        self._unasked.clear()
        self._foreign = {digest for digest in self.files if digest not in self._ours and digest not in self._asked}
        return Change(self.served(), [], ask, all=True)

    def foreign(self, digests: Iterable[Digest]) -> list[Digest]:
        """containerd was asked about these and the namespace does not have them; returns those served until now."""
        left = []
        for digest in digests:
            self._asked.discard(digest)
            if digest in self._granted:
                self._granted.discard(digest)
                left.append(digest)
            if digest in self.files and digest not in self._ours:
                self._foreign.add(digest)
        return left

    def lost(self) -> bool:
        """containerd does not answer; whether that is news."""
        news = self.knowing is not Knowing.AWAY
        self.knowing = Knowing.AWAY
        self._unasked |= self._asked
        self._asked.clear()
        return news
