"""What is told of fetches: who gave what, what was late, slow or wrong, and for how many of them."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec

from fastmirror.fetch.claims import Claim
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.record import KEPT, FetchLog, FetchRecord
from fastmirror.fetch.want import Want
from fastmirror.http.body import Received
from fastmirror.oci.digest import Digest
from fastmirror.oci.span import Span
from fastmirror.routing import Peer

MIB = 1 << 20
FAST, SLOW = Peer("10.0.0.1", 5001), Peer("10.0.0.2", 5001)


def record(now: float = 100.0) -> FetchRecord:
    return FetchRecord(Want(Digest.of(b"layer"), "blobs", "team/app", "registry.example"), now)


def claim(peer: Peer, start: int, stop: int, seconds: float) -> Claim:
    """One whose bytes have all come within that time."""
    made = Claim(peer, Span(start, stop), 0.0, 1.0)
    made.flowing = True
    made.flowed_at, made.last = 1.0, 1.0 + seconds
    return made


def test_each_peer_has_its_bytes_rate_and_failures():
    one = record()
    one.follow(SimpleNamespace(size=3 * MIB, hedges=1, steals=2))
    one.arrived(FAST, 2 * MIB, 100.25)
    one.ended(claim(FAST, 0, 2 * MIB, 0.5), Received(PeerOutcome.GOT, 2 * MIB))
    one.arrived(SLOW, MIB, 101.0)
    one.ended(claim(SLOW, 2 * MIB, 4 * MIB, 1.0), Received(PeerOutcome.STALLED, MIB))
    one.end("verified", 102.0)
    one.end("over", 103.0)
    told = one.told(105.0)
    assert msgspec.json.decode(msgspec.json.encode(told)) == told
    assert (told["stage"], told["size"], told["seconds"], told["ended"]) == ("verified", 3 * MIB, 2.0, 3.0)
    assert (told["first_byte"], told["hedges"], told["steals"]) == (0.25, 1, 2)
    fast, slow = told["peers"]
    assert (fast["peer"], fast["bytes"], fast["rate"], fast["failed"]) == (str(FAST), 2 * MIB, 4 * MIB, {})
    assert (slow["bytes"], slow["rate"], slow["failed"]) == (MIB, MIB, {"stalled": 1})


def test_what_was_late_slow_or_wrong_is_told_of_the_peer():
    one = record()
    late = Claim(SLOW, Span(0, MIB), 0.0, 1.0)
    late.stop = 0  # a rival had its bytes
    one.ended(late, Received(PeerOutcome.LEFT, 0))
    given_up = claim(SLOW, 0, MIB, 3.0)
    given_up.slow = True
    one.ended(given_up, Received(PeerOutcome.LEFT, MIB // 2))
    one.refused(MIB, [SLOW])
    one.convicted(SLOW)
    (told,) = one.told(101.0)["peers"]
    assert (told["late"], told["slow"], told["wrong"], told["failed"]) == (1, 1, MIB, {})
    assert told["convicted"]
    assert one.told(101.0)["refetched"] == MIB


def test_attempts_are_added_up_and_their_plans_let_go():
    one = record()
    for _ in range(2):
        one.follow(SimpleNamespace(size=MIB, hedges=2, steals=1))
    assert one.told(101.0)["hedges"] == 4
    one.end("over", 102.0)
    assert (one.told(103.0)["hedges"], one.told(103.0)["steals"]) == (4, 2)
    assert one._plan is None


def test_only_the_last_fetches_are_kept_and_none_that_had_nobody_to_ask():
    log = FetchLog()
    for number in range(KEPT + 10):
        one = record(float(number))
        log.begin(one)
        if number % 2 == 0 or number > 20:
            one.arrived(FAST, 1, float(number))
        log.end(one)
    running = record(1000.0)
    log.begin(running)
    told = log.told(1001.0)["fetches"]
    assert [fetch["began"] for fetch in told[:2]] == [1.0, 1001.0 - (KEPT + 9)]
    assert len(told) == 1 + KEPT
    assert told[0]["stage"] == "running"
