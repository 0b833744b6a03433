"""One content on its way from peers: whom to ask, how much may be shown, and what is right."""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
from typing import Final, Protocol

from fastmirror.chunks.chunklist import ALGORITHMS
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.parts import FetchParts
from fastmirror.fetch.record import FetchRecord
from fastmirror.fetch.search import Search, first_holder
from fastmirror.fetch.sources import Sources
from fastmirror.fetch.spool import Spool
from fastmirror.fetch.transfer import Transfer, Verdict
from fastmirror.fetch.want import Want
from fastmirror.oci.manifest import MAX_BYTES
from fastmirror.routing import Holder, Peer, Router

log = logging.getLogger(__name__)

ALL_WITHHELD: Final = 1 << 62
_MOST_ATTEMPTS: Final = 8  # at content of which nothing was shown yet
_ASKED_FOR_SIZE: Final = 3  # at once, where nobody has told it
_DISPUTED_SECONDS: Final = 1.0  # for one of several sizes that are told, besides those that its bytes should take
_DISPUTED_RATE: Final = 20e6


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


class Limits(Protocol):
    """What all fetches together may take."""

    def met(self, fetch: LayerFetch, size: int) -> str | None:
        """The limit that keeps ``fetch`` from having a file of ``size`` bytes now, or None."""

    def turn_away(self, limit: str) -> None:
        """Content is not fetched because of this limit."""

    def make_room(self) -> bool:
        """Give up a file that nobody needs; False if there is none."""

    def cannot_write(self, error: OSError) -> None:
        """Content is not fetched because there is no file for it."""


class LayerFetch:
    """Brings one content here, verified, for all its readers.

    Owned by the FetchTable, which runs :meth:`run` in a task and calls :meth:`dispose` in the end. ``readers`` counts
    the taps. ``spool`` is there from FLOWING on; it stays whole when a reader leaves. ``record`` is for people.
    ``resumed`` is set when a reader has a part of it already: the limits are wider then.

    Rules    Content up to ``whole_bytes`` and all manifests are shown when they are verified, not before. Larger
             content flows behind the frontier, but its last ``holdback_bytes`` wait until the digest is right: a wrong
             content is never shown complete. Where holders tell different sizes, and no manifest does, one size after
             the other is tried, and all of it is withheld.
    """

    def __init__(self, want: Want, parts: FetchParts, router: Router, limits: Limits) -> None:
        self.want = want
        self.stage = Stage.SEEKING
        self.spool: Spool | None = None
        self.readers = 0
        self.resumed = False
        self.settled = asyncio.Event()
        self._parts = parts
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self.record = FetchRecord(want, self._loop.time())
        told = parts.sizes.get(want.digest)  # it is right, or nobody can pull this
        self._sources = Sources(want.digest, parts.book, told)
        self._search = Search(router, want.digest, self, parts.metrics)
        self._transfer: Transfer | None = None

    @property
    def size(self) -> int | None:
        """Bytes of the content, where known."""
        return self.spool.size if self.spool is not None else self._sources.size

    def missing(self) -> int:
        """How many bytes have to come until there is something to read, where all are withheld until then; else 0."""
        transfer, spool = self._transfer, self.spool
        if transfer is None or spool is None or not spool.withheld:
            return 0
        return max(0, spool.size - transfer.received)

    async def run(self) -> None:
        """Fetch until the content is verified, no source is left, or something of our own does not allow it.

        Cancel   the peers' connections are closed and the readers get no more bytes.
        """
        try:
            self._search.begin()
            await self._fetch()
            self._finish()
            if self.stage is Stage.VERIFIED:
                # Peers that are late are heard of all the same, so that the next content need not wait for them.
                await self._search.end()
                if self._transfer is not None:
                    await self._transfer.linger()
        except Exception:
            log.exception("a fetch failed", extra={"event": "fetch.failed", "digest": self.want.digest})
        finally:
            self._finish()
            await self._abandon()
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
        self.record.end(self.stage.name.lower(), self._loop.time())
        self.settled.set()

    def found(self, holder: Holder) -> None:
        """See ``Seeker.found``."""
        if self._sources.add(holder):
            if self._transfer is not None:
                self._transfer.weigh()
                self._transfer.recruit()
            return
        extra = {"event": "fetch.size_disagreed", "peer": str(holder.peer), "bytes": holder.size}
        log.info("a peer tells a size that cannot be right", extra=extra | {"digest": self.want.digest})
        if self.stage is Stage.VERIFIED or not holder.size:
            self._parts.book.suspect(holder.peer, self.want.digest, self._loop.time())

    def sought(self) -> None:
        """See ``Seeker.sought``."""
        if self._transfer is not None:
            self._transfer.sought()

    # ---- attempts

    async def _fetch(self) -> None:
        for _ in range(_MOST_ATTEMPTS):
            spool = await self._find_room()
            if spool is None:
                return
            verdict = await self._attempt(spool)
            if verdict is Verdict.RIGHT:
                self.stage = Stage.VERIFIED
                spool.verify()
                self.settled.set()
                self._prove(spool.size)
            elif verdict is Verdict.WRONG:
                self._blame()
                if spool.begun:
                    spool.spoil()
            if spool.ended or spool.begun or verdict is Verdict.BROKEN:
                return
            # Nothing of it was shown: others may still have it, and right.
            await self._abandon()
            spool.rewind()
            self._sources.restart()

    def _prove(self, size: int) -> None:
        """The size is known now, and who has told another one."""
        self._parts.sizes.prove(self.want.digest, size)
        for peer in self._sources.contributors:
            self._parts.book.proved(peer)
        now = self._loop.time()
        for peer in self._sources.prove(size):
            quarantined = self._parts.book.suspect(peer, self.want.digest, now)
            extra = {"event": "fetch.size_wrong", "peer": str(peer), "digest": self.want.digest}
            log.warning("a peer has told a wrong size", extra=extra | {"quarantined": quarantined})
            self.record.convicted(peer)

    async def _find_room(self) -> Spool | None:
        """A spool for the size that is the next to be tried; None if nobody has the content, or there is no room."""
        limit = None
        while (size := await self._learn_size()) is not None:
            limit = self._limits.met(self, size)
            spool = await self._make_room(size) if limit is None else None
            if spool is not None:
                return spool
            if limit == "fetches" or self._sources.size is not None:
                break
            self._sources.refuse(size)  # it is only a claim: there may be others
        if limit is not None:
            self._limits.turn_away(limit)
        return None

    async def _learn_size(self) -> int | None:
        """The size of the content, once there is somebody to ask for it; None if nobody has it."""
        sources = self._sources
        while True:
            now = self._loop.time()
            size = sources.likely_size(now)
            peers = sources.ready(size, now)
            if peers and size is not None:
                return size
            if peers:
                await self._ask_size([peer for peer in peers[:_ASKED_FOR_SIZE] if self._parts.book.admits(peer, now)])
            elif not await self._search.more():
                return None

    async def _ask_size(self, peers: list[Peer]) -> None:
        """Hear the size from the first of these; who does not have the content after all is not asked for it."""
        seconds = self._parts.settings.lookup_timeout
        holder, others = await first_holder(self._parts.asker, self.want.digest, peers, seconds)
        if holder is not None:
            self.found(holder)
        for peer in others:
            self._sources.ended(peer, PeerOutcome.LACKS, 0)

    async def _attempt(self, spool: Spool) -> Verdict:
        """Fill the spool, as far as that is possible."""
        parts = self._parts
        algorithm = ALGORITHMS.get(parts.settings.piece_hash) if self._by_pieces(spool.size) else None
        transfer = self._transfer = Transfer(self.record, spool, self._sources, parts, algorithm)
        if not self._search.running:
            transfer.sought()
        patience = parts.settings.connect_timeout + parts.settings.first_byte_timeout
        impatience = self._loop.call_later(patience, self._expect_bytes, transfer)
        self._sources.tried(spool.size)
        dispute = self._loop.call_later(_DISPUTED_SECONDS + spool.size / _DISPUTED_RATE, self._doubt, transfer)
        searched_at = 0
        try:
            while transfer.verdict is None:
                if not transfer.starved or (transfer.checking and not self._search.running):
                    await transfer.changed.wait()
                    transfer.changed.clear()
                    self._show(spool)
                elif not await self._search.more():
                    if transfer.received <= searched_at:
                        return Verdict.STARVED
                    searched_at = transfer.received  # there was progress since: somebody else may have it by now
                    self._search.begin()
            return transfer.verdict
        finally:
            impatience.cancel()
            dispute.cancel()
            await transfer.close()

    async def _abandon(self) -> None:
        if self._transfer is not None:
            transfer, self._transfer = self._transfer, None
            await transfer.abandon()

    def _show(self, spool: Spool) -> None:
        if spool.begun and self.stage is Stage.SEEKING:
            self.stage = Stage.FLOWING
            self.settled.set()

    def _expect_bytes(self, transfer: Transfer) -> None:
        """Who waits for a status line is better off elsewhere now, if not one byte has come."""
        if not transfer.received and self.spool is not None and self.spool.size:
            transfer.give_up()

    def _doubt(self, transfer: Transfer) -> None:
        """Others tell other sizes, and this one has had its time."""
        if self.spool is not None and not self.spool.begun and self._sources.disputed(self._loop.time()):
            transfer.give_up()

    # ---- room

    async def _make_room(self, size: int) -> Spool | None:
        """The spool for content of ``size`` bytes; None if the size cannot be right, or the disk has no room."""
        if self.spool is not None:
            if self.spool.size == size:
                return self.spool
            self.dispose()
        if self.want.kind == "manifests" and size > MAX_BYTES:
            return None
        settings = self._parts.settings
        withheld = ALL_WITHHELD if self._whole(size) or settings.verify == "strict" else settings.holdback_bytes
        while self.spool is None:
            try:
                self.spool = await self._parts.room.open(size, withheld)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._limits.make_room():
                    self._limits.cannot_write(error)
                    return None
        return self.spool

    def _whole(self, size: int) -> bool:
        """Whether nothing is shown before all of it is verified."""
        settings = self._parts.settings
        return self.want.kind == "manifests" or size <= max(settings.whole_bytes, settings.holdback_bytes)

    def _by_pieces(self, size: int) -> bool:
        """Whether pieces are compared with chunk lists as they come."""
        return self._parts.settings.verify != "tail" and not self._whole(size)

    # ---- the verdict

    def _blame(self) -> None:
        """Where no piece has given its sender away, all who sent something are suspected."""
        found = self._transfer is not None and self._transfer.convicts
        peers = [] if found else list(self._sources.contributors)
        culprits = self._parts.book.blame(peers, self.want.digest, self._loop.time())
        self._parts.metrics.mismatches.at().inc()
        extra = {"event": "fetch.content_refused", "digest": self.want.digest, "peers": peers, "quarantined": culprits}
        log.warning("content from peers does not have its digest", extra=extra)
