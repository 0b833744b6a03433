"""What becomes of peers, by name, for the rows of docs/failure-modes.md: each runs in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from tests.kit.swarm import Fate, SimPeer, Swarm

MIB: Final = 1 << 20
SIZE: Final = 256 * MIB
RATE: Final = 37.5e6  # bytes per second of each peer: 300 Mbit/s
MID: Final = 0.3 * SIZE / (4 * RATE)


class Outcome(NamedTuple):
    """Seconds: the reader's longest wait for a next byte, and the whole transfer beside the ideal one."""

    gap: float
    seconds: float
    ideal: float


def _one_of_four(bad: SimPeer, ideal: float) -> Outcome:
    swarm = Swarm(SIZE, [bad, *(SimPeer(f"p{number}", RATE) for number in range(3))])
    return Outcome(seconds=swarm.run(), gap=swarm.gap, ideal=ideal)


def _failing(fate: Fate, at: float) -> Callable[[], Outcome]:
    ideal = at + (SIZE - 4 * RATE * at) / (3 * RATE)
    return lambda: _one_of_four(SimPeer("bad", RATE, fate=fate, at=at), ideal)


SCENARIOS: Final[dict[str, Callable[[], Outcome]]] = {
    "dead from the start": _failing(Fate.KILLED, 0.0),
    "gone from the start": _failing(Fate.GONE, 0.0),
    "frozen from the start": _failing(Fate.FROZEN, 0.0),
    "killed in mid-body": _failing(Fate.KILLED, MID),
    "gone in mid-body": _failing(Fate.GONE, MID),
    "frozen in mid-body": _failing(Fate.FROZEN, MID),
    "one of four at a hundredth of the rate": lambda: _one_of_four(SimPeer("slow", RATE / 100), SIZE / (RATE * 3.01)),
}
