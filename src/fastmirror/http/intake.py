"""Bodies of peers on their way into files: the loop's side of the native ingester."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

from fastmirror._native.hashing import Hasher
from fastmirror._native.ingest import Ingester, Job
from fastmirror.oci.span import Span

log = logging.getLogger(__name__)


class Order(NamedTuple):
    """What ``Ingester.start`` is to do: a span of a file, from a socket; ``prefix`` of it came with the head."""

    sock_fd: int
    file_fd: int
    span: Span
    hasher: Hasher | None
    prefix: bytes


class Watcher(Protocol):
    """Hears of one job, on the loop's thread."""

    def moved(self, job: Job) -> None:
        """Bytes arrived since the last call; several pieces may be told together."""

    def ended(self, job: Job) -> None:
        """The job is done: its descriptors and its hasher are free again. Called once, and nothing after it."""


class Intake:
    """Runs jobs of an Ingester for watchers, together at most at ``rate`` bytes per second (0: any).

    Owns the ingester and its place in the loop until :meth:`close`.
    """

    def __init__(self, threads: int, rate: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._ingester = Ingester(threads, rate)
        self._watchers: dict[Job, Watcher] = {}
        self._defect_told = False
        self._loop.add_reader(self._ingester.fileno(), self._collect)

    def begin(self, order: Order, watcher: Watcher) -> Job:
        """Start a job; ``watcher`` hears of it until it has ended. Raises OSError if there is no room for one more."""
        sock_fd, file_fd, span, hasher, prefix = order
        job = self._ingester.start(sock_fd, file_fd, span.start, len(span), hasher, prefix)
        self._watchers[job] = watcher
        return job

    def _collect(self) -> None:
        for job in self._ingester.collect():
            if not job.done:
                self._tell(self._watchers[job].moved, job)
            elif (watcher := self._watchers.pop(job, None)) is not None:
                # None: it ended between two looks at it, and was taken for ended at the first
                self._tell(watcher.ended, job)

    def _tell(self, hear: Callable[[Job], None], job: Job) -> None:
        """A watcher that raises is a defect of its own: the other jobs of the batch are told all the same."""
        try:
            hear(job)
        except Exception as error:
            if not self._defect_told:  # moved is called often
                self._defect_told = True
                extra = {"event": "http.watcher_failed"}
                log.error("a transfer's watcher failed; others go on", exc_info=error, extra=extra)

    def close(self) -> None:
        """Cancel all jobs and tell their watchers; idempotent."""
        if self._ingester.threads:
            self._loop.remove_reader(self._ingester.fileno())
            self._ingester.close()
            self._collect()
