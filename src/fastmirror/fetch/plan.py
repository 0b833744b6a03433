"""Who sends which bytes of one content next. Pure: no clock, no socket, no file; ``now`` is passed in.

The plan hands out claims; drivers carry them out and report. Every byte belongs to one claim at a time (several while
peers race for the first answer), so that no byte of the spool is written by two at once.

Source: docs/decisions/0003-many-peers.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from fastmirror.fetch.claims import Claim, PlanSettings, Supplier
from fastmirror.fetch.spans import SpanSet
from fastmirror.oci.span import Span
from fastmirror.routing import Peer


class Step(NamedTuple):
    """What the drivers have to do now, and when to ask again at the latest (None: only after a report)."""

    start: list[Claim]
    cancel: list[Claim]
    cut: list[tuple[Claim, int]]
    again_at: float | None


class ChunkPlan:
    """The state of one content's transfer from any number of peers.

    Reports     ``join``, ``leave``, ``want``, ``flows``, ``arrived``, ``settle``, ``cut``, ``spare``, ``reject``; a
                ``step`` follows each.
    Frontier    all bytes before it have arrived. ``finished`` when it is the size.
    Heads       the first missing byte of each reader that waits; the frontier if none does. What is behind a head
                comes first: as far as the window behind the frontier, as far as ``ahead`` behind the others.
    Bound       a byte that a reader waits for is claimed by a live peer, or asked for again, within the timeouts above.
    """

    def __init__(self, size: int, settings: PlanSettings, start: int = 0) -> None:
        self.size = size
        self.settings = settings
        self.hedges = 0
        self.started = 0
        self.steals = 0
        self._done = SpanSet(Span(0, start))
        self._free = SpanSet(Span(start, size))
        self._claims: list[Claim] = []
        self._suppliers: dict[Peer, Supplier] = {}
        self._avoid: dict[int, set[Peer]] = {}
        self._wanted: list[int] = []

    # ---- what is asked

    @property
    def frontier(self) -> int:
        """All bytes before it have arrived; it can move back by ``reject`` only."""
        return self._reach(0)

    @property
    def finished(self) -> bool:
        """Whether every byte has arrived."""
        return self._done.reach(0) == self.size

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims that are not settled."""
        return tuple(self._claims)

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Who may be asked."""
        return tuple(self._suppliers)

    @property
    def starved(self) -> bool:
        """Whether nothing is under way and nobody is left who could give what is missing."""
        return not self.finished and not self._claims and not any(self._usable(s) for s in self._suppliers.values())

    # ---- what is reported

    def join(self, peer: Peer, rate: float | None = None, order: int = 0, *, doubted: bool = False) -> None:
        """A peer has the content; ``rate`` in bytes per second is what it gave lately. Twice is once.

        Of peers that are about as fast the one with the least ``order`` is asked first. One that is ``doubted`` is
        asked after all others.
        """
        if peer not in self._suppliers:
            supplier = self._suppliers[peer] = Supplier(peer, rate or self.settings.guess, order)
            supplier.strikes = int(doubted)

    def leave(self, peer: Peer) -> list[Claim]:
        """Ask this peer for nothing more. Returns its claims: the drivers cancel and settle them."""
        self._suppliers.pop(peer, None)
        claims = [claim for claim in self._claims if claim.peer == peer and not claim.told]
        for claim in claims:
            claim.told = True
        return claims

    def want(self, positions: Iterable[int]) -> None:
        """Where readers wait for bytes: what is missing behind these positions comes before all else."""
        self._wanted = sorted(set(positions))

    def flows(self, claim: Claim, now: float) -> bool:
        """The peer's answer is good. False if a rival was first: then the claim ends without a byte."""
        if claim.told:
            return False
        claim.flowing = True
        claim.flowed_at = claim.last = now
        race, claim.race = claim.race, [claim]
        for rival in race:
            if rival is not claim:
                rival.race = [rival]
                rival.told = True
                rival.stop = rival.start  # its bytes are this claim's now
                if now >= rival.began + self.settings.hedge_after:
                    self._strike(rival.peer, now)
        return True

    def arrived(self, claim: Claim, position: int, now: float) -> None:
        """Bytes of a flowing claim have come; all before ``position`` are there."""
        if position > claim.position:
            claim.arrived(position, now)
            supplier = self._suppliers.get(claim.peer)
            if supplier is not None:
                supplier.rate = claim.rate.value * supplier.claims
                supplier.strikes = 0

    def cut(self, claim: Claim, stop: int) -> None:
        """The claim ends at ``stop`` now; what is behind it is free."""
        stop = max(stop, claim.position)
        if stop < claim.stop:
            self._free.add(Span(stop, claim.stop))
            claim.stop = stop

    def settle(self, claim: Claim, now: float, failed: bool) -> None:
        """A claim is over: what arrived is kept, the rest is free again. ``failed`` is a strike against the peer."""
        if claim not in self._claims:
            return
        self._claims.remove(claim)
        self._done.add(Span(claim.start, claim.position))
        claim.race.remove(claim)
        if not claim.race:  # else another goes on for the same bytes
            self._free.add(Span(claim.position, claim.stop))
        supplier = self._suppliers.get(claim.peer)
        if supplier is not None:
            supplier.claims -= 1
        if failed:
            self._strike(claim.peer, now)

    def spare(self, claim: Claim, now: float) -> None:
        """A claim that was given up goes on: it is not its peer that was late."""
        claim.told = claim.slow = False
        claim.last = now

    def reject(self, span: Span, peers: Iterable[Peer]) -> None:
        """Bytes that had arrived are wrong: they are asked for again, not from ``peers`` if anybody else has them."""
        for claim in self._claims:
            if claim.start < span.stop and span.start < claim.position:
                self._done.add(Span(claim.start, claim.position))
                claim.start = claim.position
        self._done.remove(span)
        self._free.add(span)
        for start in range(self._piece_of(span.start), span.stop, self.settings.piece):
            self._avoid.setdefault(start, set()).update(peers)

    # ---- what follows

    def step(self, now: float) -> Step:
        """What to do now. Claims in ``start`` count as asked from ``now``; another step follows each ``cut``."""
        start: list[Claim] = []
        cancel = self._overdue(now)
        cut = self._assign(now, start)
        self._hedge(now, start)
        return Step(start, cancel, cut, self._again_at(now))

    def _strike(self, peer: Peer, now: float) -> None:
        supplier = self._suppliers.get(peer)
        if supplier is not None:
            supplier.rests_until = now + self.settings.rest * 2**supplier.strikes
            supplier.strikes += 1

    def _overdue(self, now: float) -> list[Claim]:
        """Claims to give up: silent for too long, beaten by a rival, or too slow for the reader who waits for them."""
        overdue = [claim for claim in self._claims if not claim.told and now >= self._deadline(claim, now)]
        beaten = [claim for claim in self._claims if claim.told and claim.start == claim.stop and not claim.flowing]
        for head in self._heads():
            slow = self._slow_at(head, now)
            if slow is not None and slow not in overdue:
                slow.slow = True
                self._avoid.setdefault(self._piece_of(slow.position), set()).add(slow.peer)
                overdue.append(slow)
        for claim in overdue:
            claim.told = True
        return overdue + beaten

    def _slow_at(self, head: int, now: float) -> Claim | None:
        """The claim that a reader waits for, if it cannot be cut any more and somebody else is far faster."""
        claim = self._at(head)
        if claim is None or claim.told:
            return None
        others = [supplier for supplier in self._by_rate(now) if supplier.peer != claim.peer]
        seen = now - claim.flowed_at >= self.settings.chunk_seconds  # long enough for its rate to mean something
        idle = seen and any(not supplier.claims for supplier in others)  # somebody has nothing better to do
        if claim.seconds_left() < (self.settings.chunk_seconds if idle else self.settings.stall_timeout):
            return None
        best = max((supplier.rate for supplier in others if not (idle and supplier.claims)), default=0.0)
        if claim.seconds_left() * best < 4 * claim.left:
            return None
        return claim if self._piece_of(claim.position) + self.settings.piece >= claim.stop else None

    def _at(self, position: int) -> Claim | None:
        for claim in self._claims:
            if claim.flowing and claim.start <= position < claim.stop and position == claim.position:
                return claim
        return None

    def _piece_of(self, position: int) -> int:
        return position - position % self.settings.piece

    def _deadline(self, claim: Claim, now: float) -> float:
        if not claim.flowing:
            return claim.began + self.settings.answer_timeout
        if all(other.peer == claim.peer or other.rests_until > now for other in self._suppliers.values()):
            return claim.last + self.settings.stall_timeout  # nobody else could go on
        return claim.last + min(self.settings.stall_timeout, max(self.settings.least_stall, 8 * claim.gap))

    def _assign(self, now: float, start: list[Claim]) -> list[tuple[Claim, int]]:
        """Give every peer without a claim something to do: free bytes, else a part of what another one has claimed."""
        heads = self._heads()
        cuts: list[tuple[Claim, int]] = []
        for supplier in self._by_rate(now):
            if supplier.claims or self._relieve(heads, supplier, cuts) or self._would_be_last(supplier, now):
                continue
            if not any(self._take(supplier, window, now, start) for window in self._windows(heads)):
                for victim in sorted(self._claims, key=Claim.seconds_left, reverse=True):
                    if self._cut(victim, supplier, cuts):
                        break
        for head in heads:
            # A reader waits for these bytes and everybody is busy: the fastest does two things at once.
            if self._free.reach(head) > head:
                for supplier in self._by_rate(now):
                    busy = 0 < supplier.claims < self.settings.per_peer
                    if busy and self._take(supplier, Span(head, head + 1), now, start):
                        break
        return cuts

    def _would_be_last(self, supplier: Supplier, now: float) -> bool:
        """Whether those that are at it would bring all that is missing before this one has brought a piece."""
        others = sum(other.rate for other in self._by_rate(now) if other is not supplier)
        return bool(self._claims) and supplier.rate * (self.size - self._done.count) < others * self.settings.piece

    def _reach(self, position: int) -> int:
        """How far the bytes from ``position`` on have arrived without a gap."""
        position = self._done.reach(position)
        for claim in sorted(self._claims, key=attrgetter("start")):
            if claim.start <= position < claim.position:
                position = self._done.reach(claim.position)
        return position

    def _heads(self) -> list[int]:
        """The first missing bytes that readers wait for, in order."""
        heads = sorted({self._reach(position) for position in self._wanted or (0,)})
        return heads if heads[0] < self.size else [self.frontier]

    def _windows(self, heads: list[int]) -> list[Span]:
        """What may be asked for, in the order in which it should be: few claims behind a head make it the next."""
        frontier = self.frontier
        whole = max(self.settings.window, 2 * sum(map(self._chunk, self._suppliers.values())))
        windows = [
            Span(head, head + (whole if head == frontier else self.settings.ahead))
            for head in heads
            if head < self.size
        ]
        windows.sort(key=lambda window: sum(window.start <= claim.position < window.stop for claim in self._claims))
        return windows if frontier in heads else [*windows, Span(frontier, frontier + whole)]

    def _relieve(self, heads: list[int], supplier: Supplier, cuts: list[tuple[Claim, int]]) -> bool:
        """Cut a claim that a reader waits for and will wait for long."""
        for head in heads:
            claim = self._at(head)
            slow = claim is not None and claim.seconds_left() >= 2 * self.settings.chunk_seconds
            if claim is not None and slow and self._cut(claim, supplier, cuts):
                return True
        return False

    def _cut(self, victim: Claim, thief: Supplier, cuts: list[tuple[Claim, int]]) -> bool:
        """Cut ``victim`` so that both parts end together, or to a chunk; False if that would not help."""
        taken = any(victim is claim for claim, _ in cuts)
        if taken or not victim.flowing or victim.told or victim.peer == thief.peer:
            return False
        rate = victim.rate.value
        holder = self._suppliers.get(victim.peer)
        keep = victim.left * rate / (rate + thief.rate)
        if holder is not None:
            keep = min(keep, self._chunk(holder))
        at = victim.position + int(keep)
        # The victim ends the piece that it is at: two peers that take it from each other would never end.
        at = max(at + -at % self.settings.piece, self._piece_of(victim.position) + self.settings.piece)
        if at >= victim.stop or victim.seconds_left() < 1.5 * (victim.stop - at) / (rate + thief.rate):
            return False
        cuts.append((victim, at))
        self.steals += 1
        return True

    def _take(self, supplier: Supplier, window: Span, now: float, start: list[Claim]) -> bool:
        """Claim the first free bytes in the window that this peer may give."""
        for free in self._free:
            if free.start >= window.stop:
                break
            if free.stop <= window.start:
                continue
            # From the piece's beginning on: only whole pieces can be compared with a chunk list.
            span = self._span_for(supplier, Span(max(free.start, self._piece_of(window.start)), free.stop))
            if span is not None:
                self._free.remove(span)
                start.append(self._claim(supplier, span, now))
                return True
        return False

    def _span_for(self, supplier: Supplier, free: Span) -> Span | None:
        """What of ``free`` this peer is asked for: about a chunk, up to a piece's end, without what it gave wrongly."""
        piece = self.settings.piece
        at = self._piece_of(free.start)
        stop = min(free.stop, max(self._piece_of(free.start + self._chunk(supplier)), at + piece))
        if not self._avoid:
            return Span(free.start, stop)
        while at < stop and self._may_give(supplier.peer, at):
            at += piece
        return Span(free.start, min(at, stop)) if at > free.start else None

    def _may_give(self, peer: Peer, at: int) -> bool:
        bad = self._avoid.get(at)
        if not bad or peer not in bad:
            return True
        return all(other.peer in bad for other in self._suppliers.values() if self._usable(other))

    def _claim(self, supplier: Supplier, span: Span, now: float) -> Claim:
        claim = Claim(supplier.peer, span, now, supplier.rate / (supplier.claims + 1))
        supplier.claims += 1
        self.started += 1
        self._claims.append(claim)
        return claim

    def _chunk(self, supplier: Supplier) -> int:
        settings = self.settings
        usable = sum(self._usable(other) for other in self._suppliers.values())
        if usable <= 1:
            return settings.lone_chunk
        fair = (self.size - self._done.count) / (2 * usable)  # smaller towards the end, so that all end together
        chunk = min(supplier.rate * settings.chunk_seconds, settings.most_chunk, fair)
        return max(settings.least_chunk, int(chunk) // settings.piece * settings.piece)

    def _usable(self, supplier: Supplier) -> bool:
        return supplier.strikes < self.settings.strikes

    def _by_rate(self, now: float) -> list[Supplier]:
        """Whom to ask, the best first: not those that rest after a failure, unless all do."""
        usable = [supplier for supplier in self._suppliers.values() if self._usable(supplier)]
        awake = [supplier for supplier in usable if supplier.rests_until <= now]
        return sorted(awake or usable, key=lambda supplier: supplier.preference)

    def _hedge(self, now: float, start: list[Claim]) -> None:
        """Ask one more peer for the bytes that a reader waits for, if those that were asked do not answer."""
        heads = self._heads()
        for claim in tuple(self._claims):
            if not self._unanswered(claim, heads) or now < claim.began + self.settings.hedge_after:
                continue
            if self.hedges >= 3 + self.settings.hedge_share * self.started:
                return
            asked = {rival.peer for rival in claim.race}
            for supplier in self._by_rate(now):
                if supplier.peer not in asked and supplier.claims < self.settings.per_peer:
                    rival = self._claim(supplier, Span(claim.start, claim.stop), now)
                    rival.race = claim.race
                    rival.race.append(rival)
                    self.hedges += 1
                    start.append(rival)
                    break

    def _unanswered(self, claim: Claim, heads: list[int]) -> bool:
        """Whether a reader waits for the answer to this claim, and nobody was asked for the same bytes after it."""
        waiting = not claim.flowing and not claim.told and claim is claim.race[-1]
        return waiting and any(claim.start <= head < claim.stop for head in heads)

    def _again_at(self, now: float) -> float | None:
        times = []
        heads = self._heads()
        for claim in self._claims:
            if claim.told:
                continue
            times.append(self._deadline(claim, now))
            if self._unanswered(claim, heads):
                hedge = claim.began + self.settings.hedge_after
                if hedge > now:
                    times.append(hedge)
        if self._free:
            times += [supplier.rests_until for supplier in self._suppliers.values() if supplier.rests_until > now]
        return min(times, default=None)
