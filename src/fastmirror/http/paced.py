"""Bodies of a listener that together keep to a rate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fastmirror.http.message import Answer, FileBody, Reply, Request

BURST_SECONDS: Final = 0.05
LEAST_BURST: Final = 64 * 1024
TIMER: Final = 0.001  # libuv's timers count whole milliseconds and may be that early


class Limit:
    """So many bytes per second for all who share it, about a twentieth of it at once. Pure; takes ``now``."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.paid_until = 0.0
        self._burst = max(LEAST_BURST, int(rate * BURST_SECONDS))

    def grant(self, most: int, now: float) -> int:
        """Up to ``most`` bytes that may go now; 0: not before ``paid_until`` (but for the inaccuracy of a timer)."""
        if self.paid_until > now + TIMER:
            return 0
        count = min(most, self._burst)
        self.paid_until = max(self.paid_until, now) + count / self.rate
        return count

    def refund(self, count: int) -> None:
        """Bytes that were granted did not go."""
        self.paid_until -= count / self.rate


class PacedBody:
    """A FileBody that gives its bytes as a Limit grants them. Owns the body that it paces."""

    __slots__ = ("_body", "_granted", "_limit", "_loop", "_position", "_timer")

    def __init__(self, body: FileBody, start: int, limit: Limit) -> None:
        self._body = body
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._position = start
        self._granted = 0
        self._timer: asyncio.TimerHandle | None = None

    def fileno(self) -> int:
        """See ``FileBody.fileno``."""
        return self._body.fileno()

    def available(self, position: int) -> int:
        """See ``FileBody.available``."""
        self._limit.refund(self._granted - (position - self._position))
        self._position, self._granted = position, 0
        ready = self._body.available(position)
        if ready > 0:
            ready = self._granted = self._limit.grant(ready, self._loop.time())
        return ready

    def wait(self, position: int, wake: Callable[[], None]) -> None:
        """See ``FileBody.wait``."""
        if self._body.available(position) == 0:
            self._body.wait(position, wake)
        else:
            self._timer = self._loop.call_at(self._limit.paid_until, wake)

    def close(self) -> None:
        """See ``FileBody.close``."""
        if self._timer is not None:
            self._timer.cancel()
        self._body.close()


class Paced:
    """An Answer whose bodies share ``rate`` bytes per second. What is sent from memory is not counted."""

    def __init__(self, answer: Answer, rate: int) -> None:
        self._answer = answer
        self._limit = Limit(rate)

    def __call__(self, request: Request) -> Reply:
        """Answer at once, as listeners for other nodes do."""
        reply = self._answer(request)
        assert isinstance(reply, Reply)
        if reply.body is None:
            return reply
        body = PacedBody(reply.body, reply.start, self._limit)
        return Reply(
            reply.head, body=body, start=reply.start, stop=reply.stop, close=reply.close, done=reply.done,
            cut=reply.cut,
        )  # fmt: skip
