"""Carries out what a ChunkPlan decides: a request to a peer for each claim, straight into the spool."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Final, Protocol

from fastmirror.fetch.claims import Claim
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.parts import FetchParts
from fastmirror.fetch.plan import ChunkPlan
from fastmirror.fetch.spool import Spool
from fastmirror.http.body import Body, Landing, Received
from fastmirror.http.response import Ask
from fastmirror.oci.span import Span
from fastmirror.routing import Peer

log = logging.getLogger(__name__)

PROGRESS_SECONDS: Final = 0.02  # mere progress of bodies changes little: the plan looks at it so often at most
_MOST_TURNS: Final = 32  # of one step: each cut makes another one, and none makes two


class Crew(Protocol):
    """Hears what the drivers do, on the loop's thread."""

    def arrived(self, peer: Peer, span: Span) -> None:
        """These bytes are in the file."""

    def ended(self, claim: Claim, received: Received) -> bool:
        """A request is over. Whether its failure, if it is one, lets this peer go on all the same."""

    def stepped(self) -> None:
        """The plan has been asked, and what it wants is under way."""


class Drivers:
    """Runs the claims of one plan, each in a task of its own, until :meth:`close`.

    Bounded by the plan: a claim or two for each of its peers, and one more for each that races for an answer.
    """

    def __init__(self, plan: ChunkPlan, spool: Spool, target: str, parts: FetchParts, crew: Crew) -> None:
        self._plan = plan
        self._spool = spool
        self._target = target
        self._parts = parts
        self._crew = crew
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[Claim, asyncio.Task[Received]] = {}
        self._bodies: dict[Claim, Body] = {}
        self._verdicts: dict[Claim, PeerOutcome] = {}
        self._doubted: set[Claim] = set()  # a rival has answered, and they have not yet
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stepped_at = 0.0
        self._closed = False

    def wake(self) -> None:
        """Something has changed: ask the plan in this turn of the loop, once for all that changes in it."""
        if self._soon is None and not self._closed:
            self._soon = self._loop.call_soon(self._step)

    def leave(self, peer: Peer) -> None:
        """Ask this peer for nothing more, and end what it is asked for now."""
        for claim in self._plan.leave(peer):
            body = self._bodies.get(claim)
            if body is not None:
                body.end(PeerOutcome.LEFT)
            else:
                self._stop_asking(claim, PeerOutcome.LEFT)
        self.wake()

    async def close(self) -> None:
        """End all requests, but for those whose peers should have answered long ago: see :meth:`linger`.

        The spool stays held by bodies that are still on their way out, not for long. Cancel: they are ended all the
        same.
        """
        self._closed = True
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        await _cancel([task for claim, task in self._tasks.items() if claim not in self._doubted])

    async def linger(self) -> None:
        """After :meth:`close`: hear whether those peers answer at all, within the time that the client gives them.

        Cancel: they go on.
        """
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def abandon(self) -> None:
        """After :meth:`close`: end those, too, and hold nothing against their peers. Idempotent."""
        await _cancel(list(self._tasks.values()))

    # ---- steps

    def _step(self) -> None:
        self._soon = None
        now = self._loop.time()
        self._stepped_at = now
        self._plan.want(self._spool.waited_for())
        for _ in range(_MOST_TURNS):
            step = self._plan.step(now)
            for claim in step.start:
                self._start(claim)
            for claim in step.cancel:
                self._give_up(claim, now)
            for claim, at in step.cut:
                self._plan.cut(claim, self._bodies[claim].shorten(at))
            if not step.cut:
                self._wake_at(step.again_at)
                break
        else:
            self.wake()
        self._crew.stepped()

    def _wake_at(self, when: float | None) -> None:
        if self._timer is not None:
            if when is not None and self._timer.when() <= when and not self._timer.cancelled():
                return  # it looks again then
            self._timer.cancel()
            self._timer = None
        if when is not None and not self._closed:
            self._timer = self._loop.call_at(when, self._due)

    def _due(self) -> None:
        self._timer = None
        self.wake()

    def _start(self, claim: Claim) -> None:
        self._parts.book.begin(claim.peer)
        task = self._loop.create_task(self._ask(claim), name=f"fetch from {claim.peer}")
        self._tasks[claim] = task
        task.add_done_callback(partial(self._over, claim))

    def _give_up(self, claim: Claim, now: float) -> None:
        """The plan does not want this claim any more: it was late, slow, or beaten by a rival."""
        if claim.start == claim.stop:
            if claim not in self._doubted:
                # It is not ended: the next one who needs this peer should know whether it answers at all.
                self._doubted.add(claim)
                self._parts.book.doubt(claim.peer)
            return
        outcome, body = PeerOutcome.LEFT if claim.slow else PeerOutcome.STALLED, self._bodies.get(claim)
        if body is None:
            self._stop_asking(claim, outcome)
        elif not body.give_up(outcome):
            self._plan.spare(claim, now)

    def _stop_asking(self, claim: Claim, outcome: PeerOutcome) -> None:
        self._verdicts[claim] = outcome
        self._tasks[claim].cancel()

    # ---- one claim

    def _over(self, claim: Claim, task: asyncio.Task[Received]) -> None:
        del self._tasks[claim]
        self._bodies.pop(claim, None)
        book = self._parts.book
        book.end(claim.peer)
        if claim in self._doubted:
            self._doubted.remove(claim)
            book.doubt(claim.peer, over=True)
        verdict = self._verdicts.pop(claim, PeerOutcome.LEFT)
        received = Received(verdict, 0)
        if not task.cancelled():
            error = task.exception()
            if error is None:
                received = task.result()
            else:
                extra = {"event": "fetch.claim_failed", "peer": str(claim.peer)}
                log.error("asking a peer failed", exc_info=error, extra=extra)
        if self._closed:
            book.note(claim.peer, received.outcome, self._loop.time())
        else:
            self._settle(claim, received)

    def _settle(self, claim: Claim, received: Received) -> None:
        """Tell the crew and the plan. A claim that never flowed was beaten by a rival, if it has no bytes left."""
        beaten = claim.start == claim.stop
        failed = received.outcome not in (PeerOutcome.GOT, PeerOutcome.LEFT) or (claim.told and not claim.slow)
        stays = self._crew.ended(claim, received)
        self._plan.settle(claim, self._loop.time(), failed and not beaten)
        if not stays:
            self.leave(claim.peer)
        self.wake()

    async def _ask(self, claim: Claim) -> Received:
        if claim.told:  # before its first turn of the loop a rival has answered
            return Received(PeerOutcome.LEFT, 0)
        size = self._spool.size
        span = Span(claim.start, claim.stop)
        ask = Ask(self._target, None if len(span) == size else span, size)
        body = await self._parts.client.open(claim.peer, ask)
        if isinstance(body, PeerOutcome):
            return Received(body, 0)
        with contextlib.closing(body):
            now = self._loop.time()
            # No await from here to the first byte: what is asked of the plan is still so when the threads begin.
            if self._closed or not self._plan.flows(claim, now):
                return Received(PeerOutcome.LEFT, 0)
            self._parts.book.answered(now - claim.began)
            self.wake()
            self._spool.hold()
            self._bodies[claim] = body
            landing = Landing(self._spool.fileno(), None, partial(self._moved, claim), self._spool.release)
            return await body.receive(landing)

    def _moved(self, claim: Claim, position: int) -> None:
        if self._closed or position <= claim.position:
            return
        span = Span(claim.position, position)
        now = self._loop.time()
        self._plan.arrived(claim, position, now)
        self._crew.arrived(claim.peer, span)
        if now - self._stepped_at >= PROGRESS_SECONDS:
            self.wake()


async def _cancel(tasks: list[asyncio.Task[Received]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
