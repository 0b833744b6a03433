"""Keeps the sources of one fetch supplied with holders from the router."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol

from fastmirror.fetch.asker import PeerAsker
from fastmirror.observe.metrics import FetchMetrics
from fastmirror.oci.digest import Digest
from fastmirror.routing import Holder, Peer, Router

log = logging.getLogger(__name__)


class Seeker(Protocol):
    """Hears of a search."""

    def found(self, holder: Holder) -> None:
        """A holder; each once for each look-up."""

    def sought(self) -> None:
        """The look-up that ran is over."""


class Search:
    """One look-up after the other for one digest; the seeker hears of each holder.

    Owns the task of the look-up; :meth:`close` ends it.
    """

    def __init__(self, router: Router, digest: Digest, seeker: Seeker, metrics: FetchMetrics) -> None:
        self._router = router
        self._digest = digest
        self._seeker = seeker
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def begin(self) -> None:
        """Look the digest up (again); no other look-up may be running."""
        self._task = self._loop.create_task(self._run(), name=f"look up {self._digest[:19]}")
        self._task.add_done_callback(self._over)

    @property
    def running(self) -> bool:
        """Whether a look-up is under way."""
        return self._task is not None and not self._task.done()

    async def more(self) -> bool:
        """Wait for news of the look-up that runs: a holder, or its end. False if none runs."""
        if not self.running:
            return False
        self._news.clear()
        await self._news.wait()
        return True

    async def end(self) -> None:
        """Wait until the look-up is over, so that slow peers are heard of too. Cancel: it goes on."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def close(self) -> None:
        """Stop the look-up; idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _over(self, task: asyncio.Task[None]) -> None:
        self._news.set()
        self._seeker.sought()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(
                "a look-up failed", exc_info=error, extra={"event": "fetch.lookup_failed", "digest": self._digest}
            )

    async def _run(self) -> None:
        lookup = self._router.find(self._digest)
        began = self._loop.time()
        found = False
        try:
            async for holder in lookup:
                if not found:
                    found = True
                    self._metrics.lookup_seconds.at("found").observe(self._loop.time() - began)
                self._seeker.found(holder)
                self._news.set()
            if not found:
                self._metrics.lookup_seconds.at("empty").observe(self._loop.time() - began)
        finally:
            await lookup.aclose()


async def first_holder(
    asker: PeerAsker, digest: Digest, peers: Iterable[Peer], seconds: float
) -> tuple[Holder | None, list[Peer]]:
    """The first of these peers that says it has the content, and those that before said they have not.

    All are asked at once. Cancel: so are the questions.
    """
    loop = asyncio.get_running_loop()
    tasks = {loop.create_task(asker.ask(peer, digest, seconds), name=f"ask {peer}"): peer for peer in peers}
    waiting = set(tasks)
    others: list[Peer] = []
    try:
        while waiting:
            answered, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in answered:
                holder = task.result()
                if holder is not None:
                    return holder, others
                others.append(tasks[task])
        return None, others
    finally:
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)
