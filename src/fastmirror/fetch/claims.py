"""What one peer is asked for at a time, and how fast peers are. Pure; takes ``now``."""

from __future__ import annotations

import math
from typing import Final

from fastmirror.oci.span import Span
from fastmirror.routing import Peer

_SMOOTHING_SECONDS: Final = 0.25  # what happened so long ago counts for a third in a rate


class Rate:
    """Bytes per second, smoothed over time; ``guess`` holds until something was seen."""

    __slots__ = ("_seen", "value")

    def __init__(self, guess: float) -> None:
        self.value = guess
        self._seen = 0.0

    def note(self, count: int, seconds: float) -> None:
        """``count`` bytes came in the last ``seconds``."""
        if seconds <= 0:
            return
        # The first notes weigh as if there had been nothing before: a guess does not linger.
        self._seen += seconds
        weight = max(1 - math.exp(-seconds / _SMOOTHING_SECONDS), min(1.0, seconds / self._seen))
        self.value += weight * (count / seconds - self.value)


class Claim:
    """Bytes ``[start, stop)`` that one peer is asked for. ``[start, position)`` has arrived.

    A claim is asked until the peer's answer was found good (``flowing``). ``rival`` is another claim for the same
    bytes: of two rivals only the first that flows goes on.
    """

    __slots__ = ("began", "flowing", "gap", "last", "peer", "position", "rate", "rival", "start", "stop", "told")

    def __init__(self, peer: Peer, span: Span, now: float, rate: float) -> None:
        self.peer = peer
        self.start, self.stop = span
        self.position = self.start
        self.began = self.last = now
        self.flowing = False
        self.rate = Rate(rate)
        self.gap = 0.0  # smoothed time between two arrivals
        self.rival: Claim | None = None
        self.told = False  # to stop: it only has to be settled

    def __repr__(self) -> str:
        return f"Claim({self.peer}, [{self.start}, {self.stop}) at {self.position})"

    @property
    def left(self) -> int:
        """Bytes that have not arrived."""
        return self.stop - self.position

    def seconds_left(self) -> float:
        """How long the rest will take at the rate that was seen."""
        return self.left / max(self.rate.value, 1.0)

    def arrived(self, position: int, now: float) -> None:
        """All bytes before ``position`` are there."""
        seconds = now - self.last
        self.rate.note(position - self.position, seconds)
        self.gap += (seconds - self.gap) / 4
        self.position = position
        self.last = now


class Supplier:
    """A peer as one plan sees it."""

    __slots__ = ("claims", "peer", "rate", "rests_until", "strikes")

    def __init__(self, peer: Peer, rate: float) -> None:
        self.peer = peer
        self.rate = rate
        self.claims = 0
        self.strikes = 0
        self.rests_until = 0.0
