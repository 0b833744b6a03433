"""In which order the bodies of one content that cannot go on are ended: the one at the lowest offset first. Pure.

containerd's parallel fetch takes the end of a body for a reason to ask again only if the piece that it needs next was
cut; the end of a later piece cancels all of them and fails the pull. So the others wait their turn, and are hung up on
by the client in the meantime. Source: containerd core/remotes/docker/fetcher.go, and seen with 2.1.9.
"""

from __future__ import annotations

from typing import Final

TURN_SECONDS: Final = 0.7
PATIENCE_SECONDS: Final = 3.0


class Endings:
    """The readers of one content and where they are; readers are told apart by identity."""

    def __init__(self) -> None:
        self._positions: dict[object, int] = {}
        self._since: dict[object, float] = {}
        self._last = float("-inf")

    def reads(self, reader: object, position: int) -> None:
        """A reader has come to this offset."""
        self._positions[reader] = position

    def left(self, reader: object) -> None:
        """A reader has gone; nothing happens if it was not there."""
        self._positions.pop(reader, None)
        self._since.pop(reader, None)

    def may_end(self, reader: object, now: float) -> bool:
        """Whether it is this reader's turn to be ended; if not, it is asked again a little later.

        The lowest one goes at once, the next one when the client had time to hang up on it, and nobody waits for more
        than three seconds.
        """
        lowest = min(self._positions.values()) == self._positions[reader]
        waited = now - self._since.setdefault(reader, now)
        if (lowest and now - self._last >= TURN_SECONDS) or waited >= PATIENCE_SECONDS:
            self._last = now
            return True
        return False
