"""What one peer is asked for at a time, how fast peers are, and the numbers of a plan. Pure; takes ``now``."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from fastmirror.oci.span import Span
from fastmirror.routing import Peer

_SMOOTHING_SECONDS: Final = 0.25  # what happened so long ago counts for a third in a rate


class PlanSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a plan. Durations in seconds, sizes in bytes."""

    piece: int = 1 << 20  # claims begin and end at multiples of it, as chunk lists have it
    least_chunk: int = 1 << 20
    most_chunk: int = 16 << 20
    lone_chunk: int = 64 << 20
    chunk_seconds: float = 0.15  # a claim should last about so long
    window: int = 64 << 20  # how far ahead of the frontier bytes are claimed, at least
    ahead: int = 16 << 20  # the same for readers that wait elsewhere
    hedge_after: float = 0.05  # without an answer for the frontier, a second peer is asked too
    hedge_share: float = 0.1  # of all claims may be hedges (and a few more)
    answer_timeout: float = 0.5
    stall_timeout: float = 0.5
    least_stall: float = 0.25
    strikes: int = 3  # failures in a row of one peer before it is left alone for this content
    rest: float = 0.5  # after a failure a peer is asked for nothing for so long, the next time twice as long
    per_peer: int = 2  # claims at once; more than one only for bytes that the reader waits for
    guess: float = 40e6  # bytes per second of a peer that nothing is known of


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

    A claim is asked until the peer's answer was found good (``flowing``). ``race`` has all claims for the same bytes,
    itself too: only the first of them that flows goes on. One that is ``slow`` was given up for that alone.
    """

    __slots__ = (
        "began", "flowed_at", "flowing", "gap", "last", "peer", "position", "race", "rate", "slow", "start", "stop",
        "told",
    )  # fmt: skip

    def __init__(self, peer: Peer, span: Span, now: float, rate: float) -> None:
        self.peer = peer
        self.start, self.stop = span
        self.position = self.start
        self.began = self.flowed_at = self.last = now
        self.flowing = False
        self.rate = Rate(rate)
        self.gap = 0.0  # smoothed time between two arrivals
        self.race = [self]
        self.slow = False
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
    """A peer as one plan sees it. ``order`` says who is asked first of those that are about as fast."""

    __slots__ = ("claims", "order", "peer", "rate", "rests_until", "strikes")

    def __init__(self, peer: Peer, rate: float, order: int) -> None:
        self.peer = peer
        self.rate = rate
        self.order = order
        self.claims = 0
        self.strikes = 0
        self.rests_until = 0.0

    @property
    def preference(self) -> tuple[int, int, int]:
        """Who is asked first has the least: few failures, then a high rate (within a factor of two), then the order."""
        return self.strikes, -round(math.log2(max(self.rate, 1.0))), self.order
