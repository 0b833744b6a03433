"""What this node has experienced of each peer, and whom to ask because of it. Pure; takes ``now`` in seconds.

It is kept per node, not per digest: what one blob has learned about a peer spares all others.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import xxhash

from fastmirror.fetch.lru import Lru
from fastmirror.fetch.outcome import VERDICTS, PeerOutcome, Verdict
from fastmirror.oci.digest import Digest
from fastmirror.routing import Peer

FAILURES: Final = 3  # in a row, until a peer is left alone
BACKOFF_SECONDS: Final = 1.0  # at first; doubles with each further time
BACKOFF_MOST_SECONDS: Final = 30.0
FORGIVE_SECONDS: Final = 120.0  # without a failure, and the doubling begins again
PROBE_SECONDS: Final = 1.0  # one request at a time finds out whether a peer is back
PROBE_LEAD_SECONDS: Final = 0.5  # how much earlier than a request a probe may do that
PAUSE_SECONDS: Final = 1.0
QUARANTINE_SECONDS: Final = 600.0
HEDGE_COLD_SECONDS: Final = 0.05  # patience with an answer while little is known
HEDGE_LEAST_SECONDS: Final = 0.005
HEDGE_MOST_SECONDS: Final = 0.1
_HEDGE_SHARE: Final = 0.9  # of all answers come sooner
_HEDGE_SAMPLES: Final = 256
_HEDGE_ENOUGH: Final = 16
_RATE_WEIGHT: Final = 0.3  # of the newest in the smoothed rate
_RATE_BYTES: Final = 256 * 1024  # less says more about delays than about rates
_FAILED: Final = frozenset({Verdict.OPEN, Verdict.COUNT, Verdict.QUARANTINE})
_MOST_PEERS: Final = 8192
_MOST_DOUBTS: Final = 8192


class Health(NamedTuple):
    """How many peers are in which state."""

    live: int
    backoff: int
    quarantined: int


class _Record:
    __slots__ = (
        "active", "doubts", "early", "failed_at", "failures", "faulted", "last_failure", "open_until", "paused_until",
        "probe_until", "quarantined_until", "rate", "suspected_at", "trips",
    )  # fmt: skip

    def __init__(self) -> None:
        self.active = 0
        self.doubts = 0
        self.early = False  # it was left alone just now, and should be probed at once: it may only have been late
        self.faulted = False  # something of it was wrong, and nothing that was verified has come from it since
        self.failures = 0
        self.failed_at = -math.inf
        self.last_failure: tuple[PeerOutcome, float] | None = None
        self.trips = 0
        self.open_until = 0.0  # 0: the breaker is closed
        self.probe_until = 0.0  # 0: nobody is finding out whether the peer is back
        self.paused_until = -math.inf
        self.quarantined_until = -math.inf
        self.suspected_at = -math.inf
        self.rate: float | None = None


class PeerBook:
    """Breaker, quarantine, load and speed of each peer. ``outcomes`` counts all that was noted.

    ``salt`` makes nodes differ in whom they prefer among equals, so that one holder is not asked by all of them.
    ``far`` says of a peer that it is in another zone: it is asked after those that are not. ``opened`` is called when a
    peer is left alone from now on: there is a probe :meth:`due`.
    """

    def __init__(self, salt: bytes = b"", far: Callable[[Peer], bool] | None = None) -> None:
        self.outcomes: Counter[PeerOutcome] = Counter()
        self.far = far or _nobody
        self._salt = salt
        self._answers: deque[float] = deque(maxlen=_HEDGE_SAMPLES)
        self._records: Lru[Peer, _Record] = Lru(_MOST_PEERS)
        self._doubts: Lru[tuple[Peer, Digest], float] = Lru(_MOST_DOUBTS)
        self._opened: set[Peer] = set()
        self.opened: Callable[[], object] = _nothing

    # ---- what happened

    def note(self, peer: Peer, outcome: PeerOutcome, now: float, *, body: bool = True) -> None:
        """Remember how a request to ``peer`` ended; ``body`` if it was for content, not only whether it is there.

        Only content that came through makes up for earlier failures: a peer may answer every HEAD and stall in every
        body. So who was late with content is probed late in its backoff, who was late with a HEAD at once.
        """
        self.outcomes[outcome] += 1
        record = self._record(peer)
        verdict = VERDICTS[outcome]
        if verdict in _FAILED:
            record.last_failure = outcome, now
        if verdict is Verdict.QUARANTINE:
            record.quarantined_until = now + QUARANTINE_SECONDS
            record.faulted = True
        elif verdict is Verdict.OPEN:
            self._open(peer, record, now, early=not body)
        elif verdict is Verdict.COUNT:
            record.failures += 1
            if record.failures >= FAILURES:
                self._open(peer, record, now, early=not body)
        elif outcome is not PeerOutcome.LEFT:
            self._answered(peer, record, verdict, now, body)

    def _answered(self, peer: Peer, record: _Record, verdict: Verdict, now: float, body: bool) -> None:
        record.open_until = record.probe_until = 0.0
        record.early = False
        self._opened.discard(peer)
        if verdict is Verdict.PAUSE:
            record.paused_until = now + PAUSE_SECONDS
        elif verdict is Verdict.CREDIT and body:
            record.failures = record.trips = 0

    def _open(self, peer: Peer, record: _Record, now: float, *, early: bool) -> None:
        if now - record.failed_at > FORGIVE_SECONDS:
            record.trips = 0
        record.failed_at = now
        record.failures = 0
        if not record.open_until:
            record.early = early
            record.trips += 1
        elif record.early and record.probe_until:  # the early probe failed: it is as if there had been none
            record.early = False
            record.probe_until = 0.0
            return
        elif record.probe_until:  # what was under way when it opened counts once
            record.trips += 1
        record.probe_until = 0.0
        backoff = min(BACKOFF_SECONDS * 2.0 ** min(record.trips - 1, 10), BACKOFF_MOST_SECONDS)
        record.open_until = max(record.open_until, now + backoff)
        self._opened.add(peer)
        self.opened()

    def blame(self, contributors: Iterable[Peer], digest: Digest, now: float) -> list[Peer]:
        """Bytes of these peers together do not have their digest. Returns those that are quarantined for it.

        One contributor is the culprit. Of several it is not known which one lied: none of them is asked for this
        digest again while a quarantine lasts, and one that is in such a mixture twice in that time is quarantined.
        """
        peers = list(contributors)
        return [peer for peer in peers if self.suspect(peer, digest, now, sure=len(peers) == 1)]

    def suspect(self, peer: Peer, digest: Digest, now: float, *, sure: bool = False) -> bool:
        """Something that ``peer`` gave or told of this content is wrong, perhaps by no fault of its own.

        It is not asked for this digest again while a quarantine lasts; where it is ``sure``, or happens twice in that
        time, the peer is quarantined. Returns whether it is.
        """
        record = self._record(peer)
        culprit = sure or now - record.suspected_at < QUARANTINE_SECONDS
        if culprit:
            self.note(peer, PeerOutcome.CORRUPT, now)
        record.suspected_at = now
        record.faulted = True
        self._doubts.put((peer, digest), now + QUARANTINE_SECONDS)
        return culprit

    def proved(self, peer: Peer) -> None:
        """Content of ``peer`` was verified as a whole."""
        self._record(peer).faulted = False

    def believed(self, peer: Peer) -> bool:
        """Whether the word of ``peer`` alone counts: not after something of it was wrong, until :meth:`proved`."""
        record = self._records.get(peer)
        return record is None or not record.faulted

    def begin(self, peer: Peer) -> None:
        """A body is being fetched from ``peer``; :meth:`end` goes with it."""
        self._record(peer).active += 1

    def end(self, peer: Peer) -> None:
        """The body that :meth:`begin` told of is over."""
        record = self._record(peer)
        record.active = max(0, record.active - 1)

    def doubt(self, peer: Peer, *, over: bool = False) -> None:
        """An answer of ``peer`` is late, and another one was quicker; ``over`` when it is known why. It is asked after
        all others meanwhile, so that not each new content waits for it.
        """
        self._record(peer).doubts += -1 if over else 1

    def doubted(self, peer: Peer) -> bool:
        """Whether ``peer`` should have answered by now; see :meth:`doubt`."""
        record = self._records.get(peer)
        return record is not None and record.doubts > 0

    def last_failure(self, peer: Peer) -> tuple[PeerOutcome, float] | None:
        """The last outcome that was held against ``peer``, and when; None if there is none."""
        record = self._records.get(peer)
        return None if record is None else record.last_failure

    # ---- how fast

    def answered(self, seconds: float) -> None:
        """The head of an answer came so long after it was asked for, a new connection included."""
        self._answers.append(seconds)

    def gave(self, peer: Peer, count: int, seconds: float) -> None:
        """``count`` bytes of a body came within ``seconds``."""
        if count >= _RATE_BYTES and seconds > 0:
            record = self._record(peer)
            rate = count / seconds
            record.rate = rate if record.rate is None else record.rate + _RATE_WEIGHT * (rate - record.rate)

    def rate(self, peer: Peer) -> float | None:
        """Bytes per second that one body of ``peer`` had lately; None if that is not known."""
        record = self._records.get(peer)
        return None if record is None else record.rate

    def hedge_seconds(self) -> float:
        """How long to wait for an answer until somebody else is asked, too: nine of ten come sooner."""
        if len(self._answers) < _HEDGE_ENOUGH:
            return HEDGE_COLD_SECONDS
        usual = sorted(self._answers)[int(len(self._answers) * _HEDGE_SHARE)]
        return min(max(usual, HEDGE_LEAST_SECONDS), HEDGE_MOST_SECONDS)

    # ---- whom to ask

    def live(self, peer: Peer, now: float) -> bool:
        """Whether ``peer`` is worth a request that others wait for."""
        record = self._records.get(peer)
        return record is None or (not record.open_until and now >= max(record.quarantined_until, record.paused_until))

    def admits(self, peer: Peer, now: float) -> bool:
        """Like :meth:`live`, and once in a while also for a peer that was left alone long enough (half-open): it is
        asked now.
        """
        if self.live(peer, now):
            return True
        if not self.would_admit(peer, now):
            return False
        record = self._record(peer)
        record.probe_until = now + PROBE_SECONDS
        record.early = False
        return True

    def would_admit(self, peer: Peer, now: float) -> bool:
        """What :meth:`admits` would say; nothing changes."""
        record = self._records.get(peer)
        return (
            self.live(peer, now)
            or record is None
            or now >= max(record.open_until, record.probe_until, record.quarantined_until, record.paused_until)
        )

    def trusted(self, peer: Peer, digest: Digest, now: float) -> bool:
        """Whether ``peer`` may be asked for this digest: False after wrong bytes in which it had a part."""
        record = self._records.get(peer)
        if record is not None and now < record.quarantined_until:
            return False
        until = self._doubts.get((peer, digest))
        return until is None or now >= until

    def due(self, now: float) -> list[Peer]:
        """Peers left alone that a probe should ask whether they are back: at once, then late in their backoff. Each is
        given out once per probe.
        """
        due = []
        for peer in self._opened:
            record = self._record(peer)
            since = 0.0 if record.early else record.open_until - PROBE_LEAD_SECONDS
            if now >= max(since, record.probe_until, record.quarantined_until):
                record.probe_until = now + PROBE_SECONDS
                due.append(peer)
        return due

    def rank(self, peers: Iterable[Peer], digest: Digest, now: float) -> list[Peer]:
        """The order of choice: live ones before others, those that answer before those in doubt, those of this zone
        before far ones, the least loaded before others, and else as the digest falls (rendezvous).
        """

        def key(peer: Peer) -> tuple[bool, bool, bool, int, int]:
            record = self._records.get(peer)
            lot = xxhash.xxh3_64_intdigest(b"%b %b %b" % (self._salt, str(peer).encode(), digest.encode()))
            load = record.active if record else 0
            return not self.live(peer, now), self.doubted(peer), self.far(peer), load, lot

        return sorted(peers, key=key)

    def health(self, peers: Iterable[Peer], now: float) -> Health:
        """How many of ``peers`` are in which state."""
        live = backoff = quarantined = 0
        for peer in peers:
            record = self._records.get(peer)
            if record is not None and now < record.quarantined_until:
                quarantined += 1
            elif record is not None and record.open_until:
                backoff += 1
            else:
                live += 1
        return Health(live, backoff, quarantined)

    def _record(self, peer: Peer) -> _Record:
        record = self._records.get(peer)
        if record is None:
            record = _Record()
            self._records.put(peer, record)
        return record


def _nobody(_: Peer) -> bool:
    return False


def _nothing() -> None:
    pass
