"""Asks holders of one content for its chunk list, as long as more of them would help."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from fastmirror.chunks.chunklist import Algorithm, Shape
from fastmirror.chunks.verifier import Verifier
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.parts import FetchParts
from fastmirror.routing import Peer

log = logging.getLogger(__name__)


class Asked(Protocol):
    """Hears of the requests."""

    def differs(self, peer: Peer) -> None:
        """This peer has the content with another size; no piece is believed before this was said."""

    def listed(self) -> None:
        """A request is over."""


class ListSearch:
    """The requests for lists of one content, for its Verifier. Owns their tasks until :meth:`close`."""

    def __init__(self, verifier: Verifier, algorithm: Algorithm, parts: FetchParts, asked: Asked) -> None:
        self._verifier = verifier
        self._asked = asked
        self._digest = verifier.subject.digest
        self._shape = Shape(verifier.subject.size, algorithm)
        self._parts = parts
        self._loop = asyncio.get_running_loop()
        self._offered: dict[Peer, None] = {}  # in order, those that were not asked yet
        self._known: set[Peer] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: dict[Peer, asyncio.TimerHandle] = {}
        self._closed = False

    @property
    def running(self) -> bool:
        """Whether a list is on its way."""
        return bool(self._tasks)

    def offer(self, peer: Peer) -> None:
        """This peer has the content: it may be asked for its list. Twice is once."""
        if peer not in self._known:
            self._known.add(peer)
            self._offered[peer] = None
            self.look()

    def withdraw(self, peer: Peer) -> None:
        """Ask this peer for nothing."""
        self._known.add(peer)
        self._offered.pop(peer, None)

    def look(self) -> None:
        """Ask whoever is left, if the verifier wants a list."""
        while self._offered and not self._closed and self._shape.fits and self._verifier.wants_list:
            peer = next(iter(self._offered))
            del self._offered[peer]
            self._verifier.expect(peer)
            task = self._loop.create_task(self._receive(peer), name=f"list of {peer}")
            self._tasks.add(task)
            task.add_done_callback(self._over)

    async def close(self) -> None:
        """End all requests. Idempotent. Cancel: they are ended all the same."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            extra = {"event": "fetch.list_failed", "digest": self._digest}
            log.error("asking for a list failed", exc_info=error, extra=extra)
        self.look()
        self._asked.listed()

    def _watch(self, peer: Peer, waited: int) -> None:
        """A list that has not come to what was held one ``stall_timeout`` ago is not waited for."""
        told, waits = self._verifier.waits_for(peer)
        if told <= waited and waits >= 0:
            extra = {"event": "fetch.list_late", "digest": self._digest, "peer": str(peer)}
            log.debug("a peer's list is late", extra=extra)
            self._verifier.late(peer)
            self.look()
            self._verifier.again()
            return
        self._watches[peer] = self._loop.call_later(self._parts.settings.stall_timeout, self._watch, peer, waits)

    async def _receive(self, peer: Peer) -> None:
        def told(hashes: list[bytes]) -> None:
            self._verifier.told(peer, hashes)
            self.look()

        outcome = PeerOutcome.LEFT
        self._watches[peer] = self._loop.call_later(self._parts.settings.stall_timeout, self._watch, peer, -1)
        try:
            outcome = await self._parts.lists.receive(peer, self._digest, self._shape, told)
        finally:
            self._watches.pop(peer).cancel()
            if outcome is not PeerOutcome.STALLED:  # it may be reading all of the content for the first time
                self._parts.book.note(peer, outcome, self._loop.time(), body=False)
            extra = {"event": "fetch.list_ended", "digest": self._digest, "peer": str(peer), "outcome": outcome}
            log.debug("a peer's list ended", extra=extra)
            if outcome is PeerOutcome.DIFFERS and not self._closed:
                self._asked.differs(peer)
            if not self._closed:
                self._verifier.ended(peer)
