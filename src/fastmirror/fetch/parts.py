"""What all fetches of a node share, made once."""

from __future__ import annotations

import os
from functools import partial
from typing import Final

from fastmirror.chunks.asker import ListClient
from fastmirror.chunks.checks import Checks
from fastmirror.config import FetchSettings
from fastmirror.fetch.asker import PeerAsker
from fastmirror.fetch.claims import PlanSettings
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.peerbook import PeerBook
from fastmirror.fetch.seen import Seen
from fastmirror.fetch.spool import SpoolRoom
from fastmirror.http.client import PeerClient
from fastmirror.http.intake import Intake
from fastmirror.observe.metrics import FetchMetrics

INGEST_THREADS: Final = max(2, min(8, os.cpu_count() or 2))
CHECK_THREADS: Final = max(2, min(4, os.cpu_count() or 2))
CHECK_NICE: Final = 5  # where the processor is scarce the loop goes first: others wait for it who fetch nothing


class FetchParts:
    """Owns the native threads and the connections to peers until :meth:`close`. Made on the loop's thread.

    ``plan`` are the numbers of the plans that begin from now on, as far as ``settings`` and the peers do not say them.

    Raises ConfigError if ``spool_dir`` cannot be used.
    """

    def __init__(
        self, settings: FetchSettings, spool_dir: str, metrics: FetchMetrics | None = None, seen: Seen | None = None
    ) -> None:
        self.settings = settings
        self.metrics = metrics or FetchMetrics()
        self.room = SpoolRoom(spool_dir, settings.spool_bytes)
        self.book = PeerBook(os.urandom(8))
        seen = seen or Seen()
        self.sizes = seen.sizes
        self.handover = seen.handover
        self.log = seen.log
        self.plan = PlanSettings()
        self.intake = Intake(INGEST_THREADS, settings.fetch_rate)
        self.checks = Checks(CHECK_THREADS, CHECK_NICE)
        self.client = PeerClient(settings, self.intake)
        self.lists = ListClient(self.client)
        self.asker = PeerAsker(self.client, self.book)
        self.metrics.spool_bytes.at().follow(partial(getattr, self.room, "used"))
        for outcome in PeerOutcome:
            self.metrics.outcomes.at(outcome).follow(partial(self.book.outcomes.__getitem__, outcome))

    async def close(self) -> None:
        """End the connections and threads; fetches that run must have been ended before. Idempotent."""
        await self.client.close()
        self.intake.close()
        self.checks.close()
