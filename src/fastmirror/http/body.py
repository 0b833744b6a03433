"""One body from a peer: straight from the socket into a file, watched for progress."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from fastmirror._native.hashing import Hasher
from fastmirror._native.ingest import Job
from fastmirror.config import FetchSettings
from fastmirror.http.intake import Intake, Order
from fastmirror.http.outcome import PeerOutcome
from fastmirror.http.response import Part

RATE_SECONDS: Final = 5.0  # the least rate is judged over this time
DISK_SECONDS: Final = 10.0  # how long our own disk may take no byte before the transfer is given up

_OUTCOMES: Final = {
    "complete": PeerOutcome.GOT,
    "closed": PeerOutcome.TRUNCATED,
    "reset": PeerOutcome.TRUNCATED,
    "failed": PeerOutcome.TRUNCATED,
    "disk": PeerOutcome.LEFT,
    "cancelled": PeerOutcome.LEFT,
}


class Landing(NamedTuple):
    """Where a body goes. ``fd`` and ``hasher`` are borrowed until ``landed`` is called, once, however it ends.

    ``moved`` hears up to which offset of the content (and of the file) the bytes are there, in bytes.
    """

    fd: int
    hasher: Hasher | None
    moved: Callable[[int], object]
    landed: Callable[[], object]


class Received(NamedTuple):
    """How a transfer ended, and how many of its bytes are in the file. ``errno`` is set if our own disk failed."""

    outcome: PeerOutcome
    received: int
    errno: int = 0


class Connected(NamedTuple):
    """A connection whose answer's head was read: what came after the head, and where the connection goes when it
    can be used again (None: it cannot).
    """

    sock: socket.socket
    rest: bytes
    keep: Callable[[socket.socket], None] | None


class Body:
    """A checked answer whose body is still to come. Owns its connection until :meth:`close` or the body's end.

    ``part`` says which bytes of the content it is.
    """

    def __init__(self, part: Part, connected: Connected, intake: Intake, settings: FetchSettings) -> None:
        self.part = part
        self._sock = connected.sock
        self._rest = connected.rest
        self._keep = connected.keep
        self._intake = intake
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._job: Job | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._verdict: PeerOutcome | None = None
        self._disk_errno = 0
        self._mark = (0.0, 0)

    async def receive(self, landing: Landing) -> Received:
        """Move the body into ``landing``, at the offset in the file that it has in the content. Once only.

        Returns  GOT, or why it is not whole; STALLED after ``stall_timeout`` without a byte, or under ``min_rate``.
        Cancel   the transfer is told to end; the connection and the landing are released when it has, soon after.
        """
        span = self.part.span
        if len(self._rest) > len(span):
            self._keep = None  # bytes that nobody asked for: what comes next on this connection cannot be known
        self._landing = landing
        self._done: asyncio.Future[Received] = self._loop.create_future()
        try:
            prefix = self._rest[: len(span)]
            order = Order(self._sock.fileno(), landing.fd, span, landing.hasher, prefix)
            job = self._intake.begin(order, self)
        except OSError as error:  # no descriptors or memory for it
            landing.landed()
            self.close()
            return Received(PeerOutcome.LEFT, 0, error.errno or errno.EIO)
        self._job = job
        self._mark = (job.last_progress, 0)
        self._timer = self._loop.call_later(self._settings.stall_timeout, self._check)
        try:
            return await self._done
        finally:
            self._timer.cancel()
            job.cancel()

    def shorten(self, stop: int) -> int:
        """Receive only the bytes of the content before ``stop``, or a few more; gives where the body ends from now on.

        It ends there as GOT, without a connection that could be used again.
        """
        start = self.part.span.start
        return start + (self._job.shorten(max(0, stop - start)) if self._job is not None else 0)

    def give_up(self, outcome: PeerOutcome) -> bool:
        """End :meth:`receive`, soon, with this outcome; False, and nothing happens, if it is us who are late."""
        job = self._job
        if job is not None and self._waiting() and time.monotonic() - job.last_progress < DISK_SECONDS:
            return False
        self.end(outcome)
        return True

    def end(self, outcome: PeerOutcome) -> None:
        """End :meth:`receive`, soon, with this outcome, whoever is late."""
        if self._job is not None:
            self._verdict = self._verdict or outcome
            self._job.cancel()

    def close(self) -> None:
        """End the connection if the body was not received from it; idempotent."""
        if self._job is None:
            self._sock.close()

    def moved(self, job: Job) -> None:
        """See ``Watcher.moved``."""
        self._landing.moved(self.part.span.start + job.received)

    def ended(self, job: Job) -> None:
        """See ``Watcher.ended``."""
        if self._timer is not None:
            self._timer.cancel()
        outcome = self._verdict or _OUTCOMES[job.outcome]
        if job.outcome == "complete":  # it won the race against our patience
            outcome = PeerOutcome.GOT
        whole = outcome is PeerOutcome.GOT and job.received == len(self.part.span)
        if whole and self._verdict is None and not self._done.cancelled() and self._keep is not None:
            self._keep(self._sock)
        else:
            self._sock.close()
        self._landing.moved(self.part.span.start + job.received)
        self._landing.landed()
        if not self._done.done():
            disk_errno = job.errno if job.outcome == "disk" else 0
            self._done.set_result(Received(outcome, job.received, disk_errno or self._disk_errno))

    def _check(self) -> None:
        """Look whether the body still comes along, and when to look again."""
        job = self._job
        if job is None or job.done:
            return
        stall = self._settings.stall_timeout
        now = time.monotonic()
        idle = now - job.last_progress
        late = idle >= stall or self._slow(now, job.received)
        if late and not self._waiting():
            self._verdict = PeerOutcome.STALLED
        elif late and idle >= DISK_SECONDS:
            self._verdict = PeerOutcome.LEFT
            self._disk_errno = errno.ETIMEDOUT
        if self._verdict is not None:
            job.cancel()
            return
        # At least a tenth: while our own disk or CPU is what is late, look often, but not in a loop.
        self._timer = self._loop.call_later(max(stall - idle, stall / 10), self._check)

    def _slow(self, now: float, received: int) -> bool:
        since, before = self._mark
        if now - since < RATE_SECONDS:
            return False
        self._mark = (now, received)
        return received - before < self._settings.min_rate * (now - since)

    def _waiting(self) -> bool:
        """Whether the peer has done its part: bytes (or the end) wait in the socket, so that we are the slow ones."""
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True
