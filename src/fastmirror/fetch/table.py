"""One LayerFetch per digest, and the limits on all of them."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

from fastmirror.fetch.layer import LayerFetch, Stage
from fastmirror.fetch.parts import FetchParts
from fastmirror.fetch.tap import Tap
from fastmirror.fetch.want import Want
from fastmirror.oci.digest import Digest
from fastmirror.routing import Router

log = logging.getLogger(__name__)

SEEKING_PER_FETCH: Final = 8  # contents that are only looked for, per one that may be fetched
_QUIET_SECONDS: Final = 10.0  # between two log lines about a limit

_Key = tuple[Digest, str]


class FetchTable:
    """Readers of the same content join the same fetch. Owns the fetches and their tasks until :meth:`close`.

    A fetch outlives its last reader by ``grace``. Limits: ``max_fetches`` and ``spool_bytes``; fetches without a reader
    make room first. Content of which some reader has a part already (see Handover) is not subject to them.
    """

    def __init__(self, parts: FetchParts, router: Router) -> None:
        self.parts = parts
        self.router = router
        self._loop = asyncio.get_running_loop()
        self._fetches: dict[_Key, LayerFetch] = {}
        self._tasks: dict[LayerFetch, asyncio.Task[None]] = {}
        self._timers: dict[LayerFetch, asyncio.TimerHandle] = {}
        self._loud_at = -_QUIET_SECONDS
        self._closed = False
        metrics = parts.metrics
        metrics.active.at().follow(lambda: self.active)
        metrics.readers.at().follow(lambda: sum(fetch.readers for fetch in self._fetches.values()))
        for state in ("live", "backoff", "quarantined"):
            metrics.peers.at(state).follow(partial(self._peers_that_are, state))

    @property
    def active(self) -> int:
        """Fetches that have a file; those that are only looked for have none."""
        return sum(fetch.spool is not None for fetch in self._fetches.values())

    def get(self, digest: Digest, kind: str) -> LayerFetch | None:
        """The fetch of this content, if there is one now."""
        return self._fetches.get((digest, kind))

    def join(self, want: Want) -> Tap | None:
        """Become a reader of this content, which begins to be fetched if it is not already; None if a limit is met.

        The caller closes the tap.
        """
        key = (want.digest, want.kind)
        fetch = self._fetches.get(key)
        if fetch is None:
            fetch = self._begin(want)
            if fetch is None:
                return None
            self._fetches[key] = fetch
            self._tasks[fetch] = self._loop.create_task(self._run(fetch), name=f"fetch {want.digest[:19]}")
        timer = self._timers.pop(fetch, None)
        if timer is not None:
            timer.cancel()
        return Tap(fetch, self._left)

    async def close(self) -> None:
        """End all fetches; readers get no more bytes. Idempotent."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for fetch in list(self._fetches.values()):
            self._drop(fetch)

    # ---- limits

    def _begin(self, want: Want) -> LayerFetch | None:
        if self._closed:
            return None
        limit = None
        if len(self._fetches) >= self.parts.settings.max_fetches * SEEKING_PER_FETCH:
            limit = "fetches"
        if self._refused(want.digest, limit or self._limit(self.parts.sizes.get(want.digest) or 0)):
            return None
        fetch = LayerFetch(want, self.parts, self.router, self._admit)
        self.parts.log.begin(fetch.record)
        return fetch

    def _admit(self, fetch: LayerFetch, size: int) -> bool:
        """Whether ``fetch``, whose source says how large it is, may have a file now."""
        return not self._refused(fetch.want.digest, self._limit(size))

    def _limit(self, size: int) -> str | None:
        """The limit that one more fetch of ``size`` bytes would break, even if others made room."""
        if self.active >= self.parts.settings.max_fetches and not self._make_room(0):
            return "fetches"
        if not self.parts.room.has(size) and not self._make_room(size):
            return "spool"
        return None

    def _refused(self, digest: Digest, limit: str | None) -> bool:
        """Whether a limit keeps this content from being fetched: not if a reader has a part of it."""
        if limit is None or self.parts.handover.begun(digest, self._loop.time()) is not None:
            return False
        self._refuse(limit)
        return True

    def _make_room(self, size: int) -> bool:
        """Drop verified content that nobody reads, the oldest first, until there is a place and ``size`` bytes."""
        for fetch in list(self._timers):
            if fetch.stage is Stage.VERIFIED:
                self._retire(fetch)
                if self.active < self.parts.settings.max_fetches and self.parts.room.has(size):
                    return True
        return False

    def _refuse(self, limit: str) -> None:
        self.parts.metrics.turned_away.at(limit).inc()
        now = self._loop.time()
        if now - self._loud_at >= _QUIET_SECONDS:
            self._loud_at = now
            extra = {"event": "fetch.turned_away", "limit": limit}
            log.info("content is not fetched from peers: a limit is met", extra=extra)

    # ---- ends

    async def _run(self, fetch: LayerFetch) -> None:
        try:
            await fetch.run()
        finally:
            del self._tasks[fetch]
            self.parts.log.end(fetch.record)
            if fetch.stage is Stage.OVER:
                self._drop(fetch)

    def _left(self, fetch: LayerFetch) -> None:
        """A reader has closed its tap."""
        if not fetch.readers and self._fetches.get((fetch.want.digest, fetch.want.kind)) is fetch and not self._closed:
            self._timers[fetch] = self._loop.call_later(self.parts.settings.grace, self._retire, fetch)

    def _retire(self, fetch: LayerFetch) -> None:
        """Nobody came back in time."""
        task = self._tasks.get(fetch)
        if task is not None:
            task.cancel()
        self._drop(fetch)

    def _drop(self, fetch: LayerFetch) -> None:
        timer = self._timers.pop(fetch, None)
        if timer is not None:
            timer.cancel()
        key = (fetch.want.digest, fetch.want.kind)
        if self._fetches.get(key) is fetch:
            del self._fetches[key]
        fetch.dispose()

    def _peers_that_are(self, state: str) -> int:
        health = self.parts.book.health(self.router.peers(), self._loop.time())
        return int(getattr(health, state))
