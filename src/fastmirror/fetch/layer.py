"""One content on its way from peers: one peer at a time, the next one goes on at the same byte."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Callable
from typing import Final

from fastmirror._native.hashing import Hasher
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.parts import FetchParts
from fastmirror.fetch.search import Search
from fastmirror.fetch.sources import Sources
from fastmirror.fetch.spool import Spool
from fastmirror.fetch.want import Want
from fastmirror.http.body import Body, Landing
from fastmirror.http.response import Ask
from fastmirror.oci.manifest import MAX_BYTES
from fastmirror.oci.span import Span
from fastmirror.routing import Holder, Peer, Router

log = logging.getLogger(__name__)

ALL_WITHHELD: Final = 1 << 62


class Stage(enum.Enum):
    """How far a fetch is. It only goes on, never back."""

    SEEKING = enum.auto()
    """Nothing to answer with yet."""
    FLOWING = enum.auto()
    """The size is known and bytes come: readers may follow."""
    VERIFIED = enum.auto()
    """All of it is there and right."""
    OVER = enum.auto()
    """There will be no more than what there is."""


class LayerFetch:
    """Brings one content here, verified, for all its readers.

    Owned by the FetchTable, which runs :meth:`run` in a task and calls :meth:`dispose` in the end. ``readers`` counts
    the taps. ``spool`` is there from FLOWING on; it stays whole when a reader leaves.

    Rules    Content up to ``whole_bytes`` and all manifests are shown when they are verified, not before. Larger
             content flows behind the frontier, but its last ``holdback_bytes`` wait until the digest is right: a wrong
             content is never shown complete.
    """

    def __init__(self, want: Want, parts: FetchParts, router: Router, admit: Callable[[LayerFetch, int], bool]) -> None:
        self.want = want
        self.stage = Stage.SEEKING
        self.spool: Spool | None = None
        self.readers = 0
        self.settled = asyncio.Event()
        self._parts = parts
        self._admit = admit
        self._loop = asyncio.get_running_loop()
        self._told_size = parts.sizes.get(want.digest)  # by a manifest: it is right, or nobody can pull this
        self._sources = Sources(want.digest, parts.book)
        self._search = Search(router, want.digest, self._found, parts.metrics)
        self._hasher = Hasher(want.digest.algorithm)
        self._began = self._loop.time()
        self._stopped = False
        self._came = False

    @property
    def size(self) -> int | None:
        """Bytes of the content, where known."""
        return self.spool.size if self.spool is not None else self._told_size

    async def run(self) -> None:
        """Fetch until the content is verified, no source is left, or something of our own does not allow it.

        Cancel   the peer's connection is closed and the readers get no more bytes.
        """
        try:
            self._search.begin()
            await self._fetch()
            self._finish()
            if self.stage is Stage.VERIFIED:
                await self._search.end()
        except Exception:
            log.exception("a fetch failed", extra={"event": "fetch.failed", "digest": self.want.digest})
        finally:
            self._finish()
            await self._search.close()

    def dispose(self) -> None:
        """Give up the file; readers that still hold it keep it until they are done. The task must have ended."""
        if self.spool is not None:
            spool, self.spool = self.spool, None
            spool.release()

    def _finish(self) -> None:
        if self.stage is not Stage.VERIFIED:
            self.stage = Stage.OVER
            if self.spool is not None and not self.spool.ended:
                self.spool.stop()
        self.settled.set()

    def _found(self, holder: Holder) -> None:
        if not self._sources.add(holder, self._told_size):
            extra = {"event": "fetch.size_disagreed", "peer": str(holder.peer), "bytes": holder.size}
            log.info(
                "a peer has another size for a digest than its manifest", extra=extra | {"digest": self.want.digest}
            )

    # ---- the sequence of sources

    async def _fetch(self) -> None:
        settled_at = -1
        while not self._stopped:
            peer = self._sources.next(self._loop.time())
            if peer is not None:
                if self._late():
                    return
                await self._receive(peer)
                if self._arrived() and self._judge():
                    return
            elif not await self._search.more():
                frontier = self.spool.frontier if self.spool else 0
                if frontier <= settled_at or not frontier:
                    return
                settled_at = frontier  # there was progress since: somebody else may have it by now
                self._search.begin()

    def _late(self) -> bool:
        """Whether it is too late to begin with one more source: who waits for a status line is better off elsewhere."""
        settings = self._parts.settings
        patience = settings.lookup_timeout + settings.first_byte_timeout
        return not self._came and self._loop.time() - self._began > patience

    async def _receive(self, peer: Peer) -> None:
        """Let ``peer`` go on from the frontier, as far as it comes."""
        parts = self._parts
        start = self.spool.frontier if self.spool else 0
        ask = Ask(self.want.target, None, self._told_size if self._told_size is not None else self._sources.told(peer))
        if self.spool and start:
            ask = Ask(self.want.target, Span(start, self.spool.size), self.spool.size)
        parts.book.begin(peer)
        outcome, received = PeerOutcome.LEFT, 0
        try:
            body = await parts.client.open(peer, ask)
            if isinstance(body, PeerOutcome):
                outcome = body
                return
            with contextlib.closing(body):
                spool = await self._make_room(body.part.size)
                if spool is None:
                    outcome = PeerOutcome.LEFT if self._stopped else PeerOutcome.GARBLED
                    return
                outcome, received = await self._land(body, spool)
        finally:
            parts.book.end(peer)
            self._ended(peer, outcome, received, start)

    async def _land(self, body: Body, spool: Spool) -> tuple[PeerOutcome, int]:
        if not len(body.part.span):
            return PeerOutcome.GOT, 0
        spool.hold()
        landing = Landing(spool.fileno(), self._hasher, self._moved, spool.release)
        outcome, received, error = await body.receive(landing)
        if error:
            self._stop("the spool cannot be written", error)
        return outcome, received

    def _moved(self, frontier: int) -> None:
        spool = self.spool
        if spool is None:
            return
        self._came = True
        self._parts.metrics.bytes.at().inc(frontier - spool.frontier)
        spool.advance(frontier)
        if spool.limit and self.stage is Stage.SEEKING:
            self.stage = Stage.FLOWING
            self.settled.set()

    def _ended(self, peer: Peer, outcome: PeerOutcome, received: int, start: int) -> None:
        self._parts.book.note(peer, outcome, self._loop.time())
        self._sources.ended(peer, outcome, received)
        log.debug(
            "a peer's part ended",
            extra={
                "event": "fetch.peer_ended", "digest": self.want.digest, "peer": str(peer), "outcome": outcome,
                "start": start, "bytes": received,
            },
        )  # fmt: skip

    # ---- room

    async def _make_room(self, size: int) -> Spool | None:
        """The spool for content of ``size`` bytes; None if the size cannot be right, or if there is no room."""
        if self.spool is not None:
            if self.spool.size == size:
                return self.spool
            if self.spool.frontier:
                return None  # another size than the source had that this one continues
            self.dispose()
        if self.want.kind == "manifests" and size > MAX_BYTES:
            return None
        if not self._admit(self, size):
            self._stopped = True
            return None
        settings = self._parts.settings
        whole = self.want.kind == "manifests" or size <= max(settings.whole_bytes, settings.holdback_bytes)
        try:
            self.spool = await self._parts.room.open(size, ALL_WITHHELD if whole else settings.holdback_bytes)
        except OSError as error:
            self._parts.metrics.turned_away.at("spool").inc()
            self._stop("the spool has no room", error.errno or 0)
        return self.spool

    def _stop(self, why: str, error: int) -> None:
        self._stopped = True
        log.info(why, extra={"event": "fetch.spool_failed", "digest": self.want.digest, "errno": error})

    # ---- the verdict

    def _arrived(self) -> bool:
        return self.spool is not None and self.spool.frontier == self.spool.size

    def _judge(self) -> bool:
        """Compare the digest. True if this fetch is over with it, for better or worse."""
        spool = self.spool
        assert spool is not None
        if self._hasher.hexdigest() == self.want.digest.hex:
            self.stage = Stage.VERIFIED
            spool.verify()
            self.settled.set()
            return True
        self._blame()
        if spool.limit:
            spool.spoil()
            return True
        spool.rewind()
        self._sources.restart()
        self._hasher = Hasher(self.want.digest.algorithm)
        return False

    def _blame(self) -> None:
        peers = list(self._sources.contributors)
        culprits = self._parts.book.blame(peers, self.want.digest, self._loop.time())
        self._parts.metrics.mismatches.at().inc()
        extra = {"event": "fetch.content_refused", "digest": self.want.digest, "peers": peers, "quarantined": culprits}
        log.warning("content from peers does not have its digest", extra=extra)
