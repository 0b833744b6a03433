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
RESUMED_SHARE: Final = 2  # of the limits is what content may take of which readers have a part already
_QUIET_SECONDS: Final = 10.0  # between two log lines about a limit

_Key = tuple[Digest, str]


class FetchTable:
    """Readers of the same content join the same fetch. Owns the fetches and their tasks until :meth:`close`.

    A fetch outlives its last reader by ``grace``. Limits: ``max_fetches`` and ``spool_bytes``; fetches without a reader
    make room first. Content of which a reader has a part already (see Handover) may go twice as far. ``Limits`` of its
    fetches.
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

    def join(self, want: Want, *, resumed: bool = False) -> Tap | None:
        """Become a reader of this content, which begins to be fetched if it is not already; None if a limit is met.

        ``resumed`` says that the reader has a part of it already. The caller closes the tap.
        """
        key = (want.digest, want.kind)
        fetch = self._fetches.get(key)
        if fetch is None:
            fetch = self._begin(want, resumed)
            if fetch is None:
                return None
            self._fetches[key] = fetch
            self._tasks[fetch] = self._loop.create_task(self._run(fetch), name=f"fetch {want.digest[:19]}")
        fetch.resumed = fetch.resumed or resumed
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

    def _begin(self, want: Want, resumed: bool) -> LayerFetch | None:
        if self._closed:
            return None
        share = RESUMED_SHARE if resumed else 1
        limit = self._limit(self.parts.sizes.get(want.digest) or 0, share)
        if len(self._fetches) >= self.parts.settings.max_fetches * SEEKING_PER_FETCH * share:
            limit = "fetches"
        if limit is not None:
            self.turn_away(limit)
            return None
        fetch = LayerFetch(want, self.parts, self.router, self)
        self.parts.log.begin(fetch.record)
        return fetch

    def met(self, fetch: LayerFetch, size: int) -> str | None:
        """See ``Limits.met``."""
        return self._limit(size, RESUMED_SHARE if fetch.resumed else 1)

    def _limit(self, size: int, share: int) -> str | None:
        """The limit that one more fetch of ``size`` bytes would break, even if others made room."""
        room = self.parts.room
        if size > room.most * share:
            return "spool"
        while self.active >= self.parts.settings.max_fetches * share:
            if not self.make_room():
                return "fetches"
        while room.used + size > room.most * share:
            if not self.make_room():
                return "spool"
        return None

    def make_room(self) -> bool:
        """See ``Limits.make_room``: verified content that nobody reads goes, the oldest first."""
        for fetch in list(self._timers):
            if fetch.stage is Stage.VERIFIED:
                self._retire(fetch)
                return True
        return False

    def turn_away(self, limit: str) -> None:
        """See ``Limits.turn_away``."""
        self.parts.metrics.turned_away.at(limit).inc()
        if self._loud():
            extra = {"event": "fetch.turned_away", "limit": limit}
            log.info("content is not fetched from peers: a limit is met", extra=extra)

    def cannot_write(self, error: OSError) -> None:
        """See ``Limits.cannot_write``."""
        self.parts.metrics.turned_away.at("spool").inc()
        if self._loud():
            directory = self.parts.room.directory
            log.warning(
                "content is not fetched from peers: no file for it in %s (%s); make room there, or set spool_dir to a"
                " directory on another disk",
                directory,
                error.strerror,
                extra={"event": "fetch.spool_failed", "errno": error.errno or 0},
            )

    def _loud(self) -> bool:
        now = self._loop.time()
        loud = now - self._loud_at >= _QUIET_SECONDS
        self._loud_at = now if loud else self._loud_at
        return loud

    # ---- ends

    async def _run(self, fetch: LayerFetch) -> None:
        try:
            await fetch.run()
        finally:
            del self._tasks[fetch]
            self.parts.log.end(fetch.record)
            if self._fetches.get((fetch.want.digest, fetch.want.kind)) is not fetch:
                fetch.dispose()  # it was dropped while this went on
            elif fetch.stage is Stage.OVER:
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
        # Claims that are under way write into the file until the task has ended; those of verified content have ended.
        if fetch not in self._tasks or fetch.stage is Stage.VERIFIED:
            fetch.dispose()

    def _peers_that_are(self, state: str) -> int:
        health = self.parts.book.health(self.router.peers(), self._loop.time())
        return int(getattr(health, state))
