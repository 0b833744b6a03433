"""What people are told of fetches: which peer gave how much, how fast, and what had to be done about it.

Pure; takes ``now`` in the seconds of a loop.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Final, Protocol

from fastmirror.fetch.claims import Claim
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.want import Want
from fastmirror.http.body import Received
from fastmirror.routing import Peer

KEPT: Final = 64
"""Fetches that are over and can still be told of."""
_MOST_RUNNING: Final = 256

_NO_FAILURE: Final = (PeerOutcome.GOT, PeerOutcome.LEFT)


class Planned(Protocol):
    """What a plan counts."""

    size: int
    hedges: int
    steals: int


class Gave:
    """One peer's part. ``seconds`` are those in which its bodies came; ``late`` counts answers that a rival beat,
    ``slow`` bodies that were given up because others were far faster, ``wrong`` bytes that were not right. One that is
    ``convicted`` has told or sent what is wrong, and is left alone.
    """

    __slots__ = ("bytes", "convicted", "late", "outcomes", "requests", "seconds", "slow", "wrong")

    def __init__(self) -> None:
        self.bytes = self.requests = self.late = self.slow = self.wrong = 0
        self.seconds = 0.0
        self.convicted = False
        self.outcomes: Counter[PeerOutcome] = Counter()

    def told(self, peer: Peer) -> dict[str, Any]:
        """As JSON has it; ``rate`` in bytes per second, null while no body has ended."""
        failed = {outcome.value: count for outcome, count in self.outcomes.items() if outcome not in _NO_FAILURE}
        return {
            "peer": str(peer),
            "bytes": self.bytes,
            "seconds": round(self.seconds, 6),
            "rate": round(self.bytes / self.seconds) if self.seconds else None,
            "requests": self.requests,
            "failed": failed,
            "late": self.late,
            "slow": self.slow,
            "wrong": self.wrong,
            "convicted": self.convicted,
        }


class FetchRecord:
    """What one fetch has come to so far. It outlives the fetch, and holds nothing of it once :meth:`end` was called."""

    def __init__(self, want: Want, now: float) -> None:
        self.want = want
        self.stage = "running"
        self.size: int | None = None
        self._began = now
        self._ended: float | None = None
        self._first_byte: float | None = None
        self._plan: Planned | None = None
        self._hedges = self._steals = self._refetched = 0
        self._gave: dict[Peer, Gave] = {}

    def follow(self, plan: Planned) -> None:
        """Another attempt has begun, with this plan."""
        self._fold()
        self._plan = plan
        self.size = plan.size

    def arrived(self, peer: Peer, count: int, now: float) -> None:
        """So many bytes have come from a peer."""
        if self._first_byte is None:
            self._first_byte = now
        self._of(peer).bytes += count

    def ended(self, claim: Claim, received: Received) -> None:
        """A request is over."""
        gave = self._of(claim.peer)
        gave.requests += 1
        gave.outcomes[received.outcome] += 1
        gave.slow += claim.slow
        if claim.flowing:
            gave.seconds += claim.last - claim.flowed_at
        elif claim.start == claim.stop:
            gave.late += 1

    def refused(self, count: int, peers: Iterable[Peer]) -> None:
        """So many bytes, from these peers, were wrong and are asked for again."""
        self._refetched += count
        for peer in peers:
            self._of(peer).wrong += count

    def convicted(self, peer: Peer) -> None:
        """A peer has told or sent what is wrong."""
        self._of(peer).convicted = True

    def end(self, stage: str, now: float) -> None:
        """It is over; what was said first holds."""
        if self._ended is None:
            self._ended = now
            self.stage = stage
        self._fold()

    @property
    def over(self) -> bool:
        """Whether :meth:`end` was called."""
        return self._ended is not None

    @property
    def asked(self) -> bool:
        """Whether any peer was asked for bytes."""
        return bool(self._gave)

    def told(self, now: float) -> dict[str, Any]:
        """As JSON has it: ``began`` and ``ended`` are seconds ago, ``refetched`` bytes that were wrong at first."""
        plan, until = self._plan, now if self._ended is None else self._ended
        first = None if self._first_byte is None else round(self._first_byte - self._began, 6)
        return {
            "digest": str(self.want.digest),  # a subclass of str is not for msgspec to encode
            "kind": self.want.kind,
            "name": "/".join(filter(None, (self.want.registry, self.want.repository))),
            "stage": self.stage,
            "size": self.size,
            "began": round(now - self._began, 6),
            "ended": None if self._ended is None else round(now - self._ended, 6),
            "seconds": round(until - self._began, 6),
            "first_byte": first,
            "hedges": self._hedges + (plan.hedges if plan else 0),
            "steals": self._steals + (plan.steals if plan else 0),
            "refetched": self._refetched,
            "peers": [gave.told(peer) for peer, gave in self._gave.items()],
        }

    def _of(self, peer: Peer) -> Gave:
        return self._gave.setdefault(peer, Gave())

    def _fold(self) -> None:
        if self._plan is not None:
            self._hedges += self._plan.hedges
            self._steals += self._plan.steals
            self._plan = None


class FetchLog:
    """The fetches that run, and the last ones that are over, those apart that had nobody to ask. Bounded."""

    def __init__(self) -> None:
        self._running: dict[FetchRecord, None] = {}
        self._recent: deque[FetchRecord] = deque(maxlen=KEPT)

    def begin(self, record: FetchRecord) -> None:
        """A fetch begins."""
        self._running[record] = None

    def end(self, record: FetchRecord) -> None:
        """A fetch and all that went on behind it are over."""
        self._running.pop(record, None)
        if record.asked:
            self._recent.append(record)

    def told(self, now: float) -> dict[str, Any]:
        """All of them as JSON has them, the youngest first; of those that run at most 256."""
        running = list(self._running)[-_MOST_RUNNING:]
        return {"kept": KEPT, "fetches": [record.told(now) for record in reversed([*self._recent, *running])]}
