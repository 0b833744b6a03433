"""One attempt at one content: from all peers that have it, into a spool, checked on the way."""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import Final

import msgspec

from fastmirror.chunks.chunklist import DEFAULT, PIECE, Algorithm
from fastmirror.chunks.trust import Fault
from fastmirror.chunks.verifier import Subject, Verifier
from fastmirror.fetch.claims import Claim, PlanSettings
from fastmirror.fetch.drivers import Drivers
from fastmirror.fetch.lists import ListSearch
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.parts import FetchParts
from fastmirror.fetch.plan import ChunkPlan
from fastmirror.fetch.record import FetchRecord
from fastmirror.fetch.sources import ENOUGH_NEAR, Sources
from fastmirror.fetch.spool import Spool
from fastmirror.http.body import Received
from fastmirror.oci.span import Span
from fastmirror.routing import Peer

log = logging.getLogger(__name__)

MOST_PEERS: Final = 16  # asked at the same time for one content; the others wait until one of them leaves
RETURN_SECONDS: Final = 0.25  # how often it is looked whether one that was left alone is back


class Verdict(enum.Enum):
    """How a transfer ended."""

    RIGHT = enum.auto()
    """All of it is there, and has its digest."""
    WRONG = enum.auto()
    """All of it came, and it does not have its digest."""
    STARVED = enum.auto()
    """Nobody is left who could give what is missing."""
    BROKEN = enum.auto()
    """Our own disk failed."""


class Transfer:
    """Runs a ChunkPlan with its drivers and the checks of what comes.

    With an ``algorithm`` pieces are compared with chunk lists before they count as verified. Without, only the whole
    is checked; if nothing of it was shown, and it is wrong, lists are used to find out which piece and whose.
    ``received`` counts bytes, wrong ones too. ``convicts`` are peers that told or sent what is wrong.
    ``changed`` is set when ``verdict``, ``starved`` or ``checking`` may have changed, and when bytes may be shown. The
    spool is borrowed; :meth:`close` ends everything, and soon nothing holds it any more.
    """

    def __init__(
        self, record: FetchRecord, spool: Spool, sources: Sources, parts: FetchParts, algorithm: Algorithm | None
    ) -> None:
        self.received = 0
        self.verdict: Verdict | None = None
        self.convicts: set[Peer] = set()
        self.changed = asyncio.Event()
        self._want = record.want
        self._record = record
        self._spool = spool
        self._sources = sources
        self._parts = parts
        self._loop = asyncio.get_running_loop()
        self._plan = ChunkPlan(spool.size, _plan_settings(parts))
        record.follow(self._plan)
        self._drivers = Drivers(self._plan, spool, self._want.target, parts, self)
        self._sought = False
        self._came: list[tuple[Peer, Span]] = []  # what may have to be looked at again
        self._verifier, self._lists = self._make_verifier(algorithm)
        self._joined = 0
        self.weigh()
        self._returning = self._loop.call_later(RETURN_SECONDS, self._look_for_returned)
        self.recruit()
        self._drivers.wake()  # also if nobody has joined: then that has to be noticed

    @property
    def starved(self) -> bool:
        """Whether nothing is under way and nobody is there who could give what is missing."""
        return self.verdict is None and self._plan.starved

    @property
    def checking(self) -> bool:
        """Whether what has come is still being looked at: more may be shown then. ``changed`` follows."""
        return self._verifier.checking or (self._lists is not None and self._lists.running)

    def recruit(self) -> None:
        """Let in who may be asked now."""
        book, present = self._parts.book, self._plan.peers
        busy = {claim.peer for claim in self._plan.claims}
        joined, now = self._joined, self._loop.time()
        ready = self._sources.ready(self._spool.size, now, present)
        for peer in ready[: max(0, MOST_PEERS - len(present))]:
            # Of one that has left, and comes back, the old requests end first.
            if peer not in busy and book.admits(peer, now):
                self._joined += 1
                self._plan.join(peer, book.rate(peer), self._joined, doubted=book.doubted(peer))
            if self._lists is not None:
                self._lists.offer(peer)
        if self._joined > joined:
            self._drivers.wake()

    def sought(self) -> None:
        """The look-up is over: no further holders will come from it."""
        self._sought = True
        self._verifier.sought()
        if self._lists is not None:
            self._lists.look()

    def weigh(self) -> None:
        """Holders were found, or told a size: where there is doubt nothing is shown before all of it is verified, and
        where others agree on another size this attempt is over. What was shown is not taken back.
        """
        if not self._spool.begun:
            now = self._loop.time()
            self._spool.doubt(self._sources.doubtful(now))
            if self._sources.agreed_size(now) not in (None, self._spool.size):
                self.give_up()

    def give_up(self) -> None:
        """End it as starved."""
        self._end(Verdict.STARVED)

    async def close(self) -> None:
        """End all requests and checks. Once only. Cancel: they are ended all the same."""
        metrics = self._parts.metrics
        metrics.hedges.at().inc(self._plan.hedges)
        metrics.takeovers.at().inc(self._plan.steals)
        self._returning.cancel()
        self._verifier.close()
        try:
            if self._lists is not None:
                await self._lists.close()
        finally:
            await self._drivers.close()

    async def linger(self) -> None:
        """See ``Drivers.linger``."""
        await self._drivers.linger()

    async def abandon(self) -> None:
        """See ``Drivers.abandon``."""
        await self._drivers.abandon()

    def _make_verifier(self, algorithm: Algorithm | None) -> tuple[Verifier, ListSearch | None]:
        subject = Subject(self._want.digest, self._spool.size, algorithm)
        verifier = Verifier(subject, self._spool, self._parts.checks, self)
        return verifier, None if algorithm is None else ListSearch(verifier, algorithm, self._parts, self)

    def _look_again(self) -> None:
        """Whose piece is wrong is found by lists, from those who sent them and from others."""
        came, self._came = self._came, []
        self._verifier, lists = self._make_verifier(DEFAULT)
        self._lists = lists
        assert lists is not None
        for peer in self._plan.peers:
            lists.offer(peer)
        for peer, span in came:
            self._verifier.arrived(peer, span)
        if self._sought:
            self.sought()

    def _look_for_returned(self) -> None:
        self._returning = self._loop.call_later(RETURN_SECONDS, self._look_for_returned)
        if not self._plan.finished:
            self.recruit()
        if self._lists is not None:
            self._lists.look()

    def _end(self, verdict: Verdict) -> None:
        if self.verdict is None:
            self.verdict = verdict
            self.changed.set()

    # ---- heard from the drivers

    def arrived(self, peer: Peer, span: Span) -> None:
        """See ``Crew.arrived``."""
        self.received += len(span)
        self._parts.metrics.bytes.at().inc(len(span))
        self._sources.contributors[peer] += len(span)
        self._record.arrived(peer, len(span), self._loop.time())
        self._verifier.arrived(peer, span)
        if self._lists is None and not self._spool.begun:
            if self._came and self._came[-1][0] == peer and self._came[-1][1].stop == span.start:
                span = Span(self._came.pop()[1].start, span.stop)
            self._came.append((peer, span))

    def ended(self, claim: Claim, received: Received) -> bool:
        """See ``Crew.ended``."""
        peer, (outcome, count, error) = claim.peer, received
        book = self._parts.book
        book.note(peer, outcome, self._loop.time())
        self._record.ended(claim, received)
        if claim.flowing:
            book.gave(peer, count, claim.last - claim.flowed_at)
        log.debug(
            "a peer's part ended",
            extra={
                "event": "fetch.peer_ended", "digest": self._want.digest, "peer": str(peer), "outcome": outcome,
                "start": claim.start, "bytes": count,
            },
        )  # fmt: skip
        if error:
            self._break("the spool cannot be written", error)
        stays = self._sources.ended(peer, outcome, count)
        if outcome is PeerOutcome.DIFFERS:
            self.weigh()
        return stays

    def stepped(self) -> None:
        """See ``Crew.stepped``."""
        if self._lists is not None:
            self._lists.look()
        if len(self._plan.peers) < ENOUGH_NEAR and not self._plan.finished:
            self.recruit()  # somebody else may have waited for a place
        if self._plan.starved:
            self.changed.set()

    # ---- heard from the search for lists

    def differs(self, peer: Peer) -> None:
        """See ``Asked.differs``."""
        self._sources.differs(peer)
        self.weigh()

    def listed(self) -> None:
        """See ``Asked.listed``."""
        self.changed.set()

    # ---- heard from the checks

    def verified(self, frontier: int) -> None:
        """See ``Watcher.verified``."""
        self._spool.advance(frontier)
        self.changed.set()

    def ahead(self, span: Span) -> None:
        """See ``Watcher.ahead``."""
        self._spool.show(span)
        self.changed.set()

    def checked(self) -> None:
        """See ``Watcher.checked``."""
        self.changed.set()

    def refused(self, span: Span, peers: frozenset[Peer]) -> None:
        """See ``Watcher.refused``."""
        self._plan.reject(span, peers)
        self._record.refused(len(span), peers)
        self._parts.metrics.refused.at().inc()
        self._drivers.wake()

    def convicted(self, peer: Peer, fault: Fault) -> None:
        """See ``Watcher.convicted``."""
        self._parts.book.note(peer, PeerOutcome.CORRUPT, self._loop.time())
        extra = {"event": "fetch.peer_convicted", "peer": str(peer), "digest": self._want.digest, "fault": fault.value}
        log.warning("a peer has told or sent what is wrong", extra=extra)
        self.convicts.add(peer)
        self._record.convicted(peer)
        self._drivers.leave(peer)
        if self._lists is not None:
            self._lists.withdraw(peer)
            self._lists.look()

    def finished(self, right: bool) -> None:
        """See ``Watcher.finished``."""
        several = len(self._sources.contributors) > 1 and self._spool.size > PIECE
        if not right and several and self._came and self._lists is None and not self._spool.begun:
            self._look_again()
            return
        self._end(Verdict.RIGHT if right else Verdict.WRONG)

    def failed(self, number: int) -> None:
        """See ``Watcher.failed``."""
        self._break("the spool cannot be read", number)

    def _break(self, why: str, number: int) -> None:
        log.info(why, extra={"event": "fetch.spool_failed", "digest": self._want.digest, "errno": number})
        self._end(Verdict.BROKEN)


def _plan_settings(parts: FetchParts) -> PlanSettings:
    settings = parts.settings
    return msgspec.structs.replace(
        parts.plan,
        hedge_after=parts.book.hedge_seconds(),
        answer_timeout=settings.connect_timeout + settings.first_byte_timeout,
        stall_timeout=settings.stall_timeout,
        least_stall=min(parts.plan.least_stall, settings.stall_timeout),
    )
