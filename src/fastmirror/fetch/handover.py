"""When a reader whose body had to be cut comes back: whether it is sent on to the next host. Pure; takes ``now``.

Source: containerd core/remotes/docker/httpreadseeker.go (after a FIN in a body it asks for ``bytes=<exact offset>-``,
from the first host on; 404 there moves it to the next host) and fetcher.go (the pieces of a parallel fetch come from
one host: 4xx or 5xx on any of them fails the pull).
"""

from __future__ import annotations

from typing import Final

from fastmirror.fetch.lru import Lru
from fastmirror.oci.digest import Digest

CUT_SECONDS: Final = 60.0
START_SECONDS: Final = 2.0
"""A cut at offset 0 is what a new pull of the same content looks like: it is only remembered for the reopen."""
BEGUN_SECONDS: Final = 300.0
_MOST: Final = 8192


class Handover:
    """Remembers at which (digest, offset) bodies were cut, and which contents were begun here. Bounded."""

    def __init__(self) -> None:
        self._cuts: Lru[tuple[Digest, int], float] = Lru(_MOST)
        self._begun: Lru[Digest, tuple[int, float]] = Lru(_MOST)

    def cut(self, digest: Digest, offset: int, now: float) -> None:
        """A body ended by FIN before ``offset``: a reopen there goes to the next host."""
        self._cuts.put((digest, offset), now + (CUT_SECONDS if offset else START_SECONDS))

    def was_cut(self, digest: Digest, offset: int, now: float) -> bool:
        """Whether a request for this offset is such a reopen; other offsets of the digest are not concerned."""
        until = self._cuts.get((digest, offset))
        return until is not None and now < until

    def begin(self, digest: Digest, size: int, now: float) -> None:
        """A reader was given a status line for content of ``size`` bytes: it may ask for more of it."""
        self._begun.put(digest, (size, now + BEGUN_SECONDS))

    def begun(self, digest: Digest, now: float) -> int | None:
        """The size of content that some reader here has begun to read, else None.

        A range of it beyond offset 0 must not be refused.
        """
        entry = self._begun.get(digest)
        return entry[0] if entry is not None and now < entry[1] else None
