"""How a request to a peer ended. A value, never an exception: a peer that fails is an everyday matter."""

from __future__ import annotations

import enum


class PeerOutcome(enum.StrEnum):
    """A closed set; what each one means for the peer says ``fetch.outcome``."""

    GOT = "got"
    """All that was asked for."""
    LACKS = "lacks"
    """It does not have the content, or does not give it to us: 404, 401, 403."""
    BUSY = "busy"
    """It has it and cannot give it now: 503, 429."""
    UNREACHABLE = "unreachable"
    """No connection, or one that ended before a byte of an answer."""
    STALLED = "stalled"
    """No byte, or too few of them, within the deadline."""
    TRUNCATED = "truncated"
    """The connection ended in the middle of the answer, by FIN or RST."""
    GARBLED = "garbled"
    """An answer that is not what was asked for: another status, length, range or coding, or no HTTP at all."""
    DIFFERS = "differs"
    """It has something under this name, but of another size than it was asked for."""
    CORRUPT = "corrupt"
    """Its bytes do not have the digest."""
    LEFT = "left"
    """We ended it ourselves, or could not go on for a reason of our own."""
