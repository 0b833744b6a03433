"""One attempt at one content: from all peers that have it, into a spool, checked on the way."""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import Final

import msgspec

from fastmirror.chunks.trust import Fault
from fastmirror.chunks.verifier import Subject, Verifier
from fastmirror.fetch.claims import Claim, PlanSettings
from fastmirror.fetch.drivers import Drivers
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.parts import FetchParts
from fastmirror.fetch.plan import ChunkPlan
from fastmirror.fetch.record import FetchRecord
from fastmirror.fetch.sources import Sources
from fastmirror.fetch.spool import Spool
from fastmirror.http.body import Received
from fastmirror.oci.span import Span
from fastmirror.routing import Peer

log = logging.getLogger(__name__)

MOST_PEERS: Final = 16  # asked at the same time for one content; the others wait until one of them leaves
RETURN_SECONDS: Final = 1.0  # how often it is looked whether one that was left alone is back


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

    ``received`` counts bytes, wrong ones too. ``changed`` is set when ``verdict`` or ``starved`` may have changed, and
    when bytes may be shown. The spool is borrowed; :meth:`close` ends everything, and soon nothing holds it any more.
    """

    def __init__(self, record: FetchRecord, spool: Spool, sources: Sources, parts: FetchParts) -> None:
        self.received = 0
        self.verdict: Verdict | None = None
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
        self._verifier = Verifier(Subject(self._want.digest, spool.size, None), spool, parts.checks, self)
        self._joined = 0
        self._returning = self._loop.call_later(RETURN_SECONDS, self._look_for_returned)
        self.recruit()

    @property
    def starved(self) -> bool:
        """Whether nothing is under way and nobody is there who could give what is missing."""
        return self.verdict is None and self._plan.starved

    def recruit(self) -> None:
        """Let in who may be asked now."""
        now = self._loop.time()
        present = self._plan.peers
        busy = {claim.peer for claim in self._plan.claims}
        for peer in self._sources.ready(self._spool.size, now, present)[: max(0, MOST_PEERS - len(present))]:
            if peer not in busy:  # of one that has left, and comes back, the old requests end first
                self._joined += 1
                book = self._parts.book
                self._plan.join(peer, book.rate(peer), self._joined, doubted=book.doubted(peer))
        self._drivers.wake()

    def give_up(self) -> None:
        """End it as starved."""
        self._end(Verdict.STARVED)

    async def close(self) -> None:
        """End all requests and checks. Cancel: they are ended all the same."""
        self._returning.cancel()
        self._verifier.close()
        await self._drivers.close()

    async def linger(self) -> None:
        """See ``Drivers.linger``."""
        await self._drivers.linger()

    async def abandon(self) -> None:
        """See ``Drivers.abandon``."""
        await self._drivers.abandon()

    def _look_for_returned(self) -> None:
        self._returning = self._loop.call_later(RETURN_SECONDS, self._look_for_returned)
        if not self._plan.finished:
            self.recruit()

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
        return self._sources.ended(peer, outcome, count)

    def stepped(self) -> None:
        """See ``Crew.stepped``."""
        if self._plan.starved:
            self.recruit()  # somebody else may have waited for a place
            if self._plan.starved:
                self.changed.set()

    # ---- heard from the checks

    def verified(self, frontier: int) -> None:
        """See ``Watcher.verified``."""
        self._spool.advance(frontier)
        self.changed.set()

    def refused(self, span: Span, peers: frozenset[Peer]) -> None:
        """See ``Watcher.refused``."""
        self._plan.reject(span, peers)
        self._record.refused(len(span), peers)
        self._drivers.wake()

    def convicted(self, peer: Peer, fault: Fault) -> None:
        """See ``Watcher.convicted``."""
        self._parts.book.note(peer, PeerOutcome.CORRUPT, self._loop.time())
        extra = {"event": "fetch.peer_convicted", "peer": str(peer), "digest": self._want.digest, "fault": fault.value}
        log.warning("a peer has told or sent what is wrong", extra=extra)
        self._drivers.leave(peer)

    def finished(self, right: bool) -> None:
        """See ``Watcher.finished``."""
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
