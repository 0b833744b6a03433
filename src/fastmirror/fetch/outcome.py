"""What a PeerOutcome means for the peer. Pure; after nginx's split of upstream failures into "next" and "failed"."""

from __future__ import annotations

import enum
from typing import Final

from fastmirror.http.outcome import PeerOutcome

__all__ = ["VERDICTS", "PeerOutcome", "Verdict"]


class Verdict(enum.Enum):
    """How a peer is treated from now on."""

    CREDIT = enum.auto()
    """It works: what it did wrong before is forgotten."""
    NOTHING = enum.auto()
    """It answered, or it was us who ended it."""
    PAUSE = enum.auto()
    """It is healthy and has no time now: not asked for a moment."""
    COUNT = enum.auto()
    """It failed: some of these in a row and it is left alone for a while."""
    OPEN = enum.auto()
    """It failed in a way that costs time whenever it is tried: left alone for a while at once."""
    QUARANTINE = enum.auto()
    """It sent wrong bytes."""


VERDICTS: Final = {
    PeerOutcome.GOT: Verdict.CREDIT,
    PeerOutcome.LACKS: Verdict.NOTHING,
    PeerOutcome.BUSY: Verdict.PAUSE,
    PeerOutcome.UNREACHABLE: Verdict.OPEN,
    PeerOutcome.STALLED: Verdict.OPEN,
    PeerOutcome.TRUNCATED: Verdict.COUNT,
    PeerOutcome.GARBLED: Verdict.COUNT,
    PeerOutcome.DIFFERS: Verdict.NOTHING,  # until it is known which size is right
    PeerOutcome.CORRUPT: Verdict.QUARANTINE,
    PeerOutcome.LEFT: Verdict.NOTHING,
}
