"""Peers in virtual time, to run a ChunkPlan against: each with a rate, a delay, and a moment at which it fails."""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from fastmirror.fetch.claims import Claim, PlanSettings
from fastmirror.fetch.plan import ChunkPlan
from fastmirror.fetch.spans import SpanSet
from fastmirror.oci.span import Span
from fastmirror.routing import Peer


class Fate(enum.Enum):
    """How a peer fails at its moment."""

    HEALTHY = "healthy"
    KILLED = "killed"  # connections are reset, new ones refused
    FROZEN = "frozen"  # accepts, sends nothing more
    GONE = "gone"  # not even an answer
    LACKS = "lacks"  # 404


@dataclass
class SimPeer:
    """One peer. Rate in bytes per second, times in seconds."""

    name: str
    rate: float
    delay: float = 0.001
    fate: Fate = Fate.HEALTHY
    at: float = math.inf
    joins: float = 0.0
    peer: Peer = field(init=False)

    def __post_init__(self) -> None:
        self.peer = Peer(self.name, 1)


class Swarm:
    """Runs one transfer to its end in virtual time and keeps what a reader would have seen.

    Every arrival is checked: bytes come once, in the order of each claim, within the claim. ``gap`` is the longest time
    without a new byte at the frontier; ``ahead`` the most bytes that had arrived beyond it. ``wanted`` is where
    further readers wait.
    """

    TICK = 0.004  # how often flowing bytes are reported

    def __init__(
        self, size: int, peers: list[SimPeer], settings: PlanSettings | None = None, wanted: Iterable[int] = ()
    ) -> None:
        self.plan = ChunkPlan(size, settings or PlanSettings())
        self.plan.want(position for position in wanted if position < size)
        self.size = size
        self.peers = {peer.peer: peer for peer in peers}
        self.now = 0.0
        self.gap = 0.0
        self.ahead = 0
        self.written = SpanSet()
        self.requests = 0
        self._moved_at = 0.0
        self._frontier = 0
        self._events: list[tuple[float, int, str, object]] = []
        self._order = itertools.count()
        self._wake_at = math.inf
        for peer in peers:
            self._at(peer.joins, "join", peer)
            if peer.at < math.inf:
                self._at(peer.at, "fate", peer)

    def run(self, limit: float = 120.0) -> float:
        """The time at which every byte had arrived; AssertionError if that takes longer than ``limit``."""
        while not self.plan.finished:
            assert self._events, f"nothing will happen any more at {self.now}: {self.plan.claims}"
            self.now, _, what, subject = heapq.heappop(self._events)
            assert self.now < limit, f"not ended after {limit} s: frontier {self.plan.frontier} of {self.size}"
            getattr(self, "_on_" + what)(subject)
            self._step()
            if self.plan.starved and not any(what == "join" for _, _, what, _ in self._events):
                raise Starved(self.now)
        return self.now

    def _at(self, when: float, what: str, subject: object) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, subject))

    def _dead(self, peer: SimPeer) -> bool:
        return self.now >= peer.at and peer.fate is not Fate.HEALTHY

    def _on_join(self, peer: SimPeer) -> None:
        self.plan.join(peer.peer)

    def _on_fate(self, peer: SimPeer) -> None:
        if peer.fate is Fate.KILLED:
            for claim in self.plan.claims:
                if claim.peer == peer.peer:
                    self.plan.settle(claim, self.now, failed=True)

    def _on_wake(self, _: object) -> None:
        pass

    def _on_answer(self, claim: Claim) -> None:
        peer = self.peers[claim.peer]
        if claim not in self.plan.claims:
            return
        if claim.told:
            self.plan.settle(claim, self.now, failed=False)
        elif self._dead(peer):
            if peer.fate is Fate.KILLED:
                self.plan.settle(claim, self.now, failed=True)
            elif peer.fate is Fate.LACKS:
                self.plan.leave(claim.peer)
                self.plan.settle(claim, self.now, failed=True)
        elif self.plan.flows(claim, self.now):
            self._at(self.now + self.TICK, "bytes", (claim, self.now))
        else:
            self.plan.settle(claim, self.now, failed=False)

    def _on_bytes(self, subject: tuple[Claim, float]) -> None:
        claim, since = subject
        peer = self.peers[claim.peer]
        if claim not in self.plan.claims:
            return
        if claim.told:
            self.plan.settle(claim, self.now, failed=False)
            return
        if self._dead(peer):
            return
        flowing = sum(c.flowing and c.peer == claim.peer for c in self.plan.claims)
        count = min(claim.left, int(peer.rate / flowing * (self.now - since)))
        if count:
            self._write(claim, count)
        if claim.left == 0:
            self.plan.settle(claim, self.now, failed=False)
        else:
            self._at(self.now + self.TICK, "bytes", (claim, self.now if count else since))

    def _write(self, claim: Claim, count: int) -> None:
        before = self.written.count
        self.written.add(Span(claim.position, claim.position + count))
        assert self.written.count == before + count, f"bytes of {claim} came twice"
        self.plan.arrived(claim, claim.position + count, self.now)
        frontier = self.plan.frontier
        if frontier > self._frontier:
            self.gap = max(self.gap, self.now - self._moved_at)
            self._frontier, self._moved_at = frontier, self.now
        self.ahead = max(self.ahead, self.written.count - frontier)

    def _step(self) -> None:
        for _ in range(20):
            step = self.plan.step(self.now)
            for claim in step.start:
                self.requests += 1
                self._at(self.now + 2 * self.peers[claim.peer].delay, "answer", claim)
            for claim in step.cancel:
                failed = claim.start != claim.stop
                self.plan.settle(claim, self.now, failed=failed)
            for claim, at in step.cut:
                self.plan.cut(claim, at)
            if step.again_at is not None and step.again_at != self._wake_at:
                self._wake_at = step.again_at
                self._at(max(step.again_at, self.now), "wake", None)
            if not (step.cancel or step.cut):
                return
        raise AssertionError(f"the plan never comes to rest at {self.now}: {self.plan.step(self.now)}")


class Starved(AssertionError):
    """No peer is left that could give what is missing."""

    def __init__(self, now: float) -> None:
        super().__init__(f"nobody is left at {now}")
