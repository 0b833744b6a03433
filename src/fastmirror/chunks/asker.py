"""Lists of piece hashes from peers, taken in while they arrive."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from fastmirror.chunks.chunklist import ListReader, Shape
from fastmirror.chunks.holder import list_target
from fastmirror.http.body import Landing
from fastmirror.http.client import PeerClient
from fastmirror.http.outcome import PeerOutcome
from fastmirror.http.response import Ask
from fastmirror.oci.digest import Digest
from fastmirror.routing import Peer


class ListClient:
    """Asks peers for lists, over the connections of ``client``.

    A list comes as fast as its holder reads the content, which may be a few kilobytes a second and still be well. It
    has to go on without a pause of ``stall_timeout`` all the same.
    """

    def __init__(self, client: PeerClient) -> None:
        self._client = client

    async def receive(
        self, peer: Peer, digest: Digest, shape: Shape, told: Callable[[list[bytes]], object]
    ) -> PeerOutcome:
        """The list of ``peer``; ``told`` hears the next hashes, in order, as they come.

        Returns  GOT if it was whole and of that shape. LACKS if the peer has none to give: it does not hold the
                 content, or not all of it yet, or is older than lists. What was told before another end stays said.
        Cancel   the connection is closed; nothing more is told.
        """
        ask = Ask(list_target(digest, shape.algorithm), None, shape.length)
        body = await self._client.open(peer, ask, slow=True)
        if isinstance(body, PeerOutcome):
            return body
        with contextlib.closing(body):
            landing = _Landing(shape, told)
            try:
                outcome = (await body.receive(landing.landing())).outcome
            finally:
                landing.told = None
        if not landing.good:
            return PeerOutcome.GARBLED
        return PeerOutcome.GARBLED if outcome is PeerOutcome.GOT and not landing.reader.whole else outcome


class _Landing:
    """A list's bytes go into a file in memory, and from there to the reader."""

    def __init__(self, shape: Shape, told: Callable[[list[bytes]], object]) -> None:
        self.reader = ListReader(shape)
        self.good = True
        self.told: Callable[[list[bytes]], object] | None = told
        self._fd = os.memfd_create("fastmirror-list", os.MFD_CLOEXEC)
        self._position = 0

    def landing(self) -> Landing:
        """What the body is received into."""
        return Landing(self._fd, None, self._moved, self._landed)

    def _landed(self) -> None:
        os.close(self._fd)

    def _moved(self, position: int) -> None:
        if position <= self._position or not self.good:
            return
        known = len(self.reader.hashes)
        self.good = self.reader.feed(os.pread(self._fd, position - self._position, self._position))
        self._position = position
        if self.good and self.told is not None and len(self.reader.hashes) > known:
            self.told(self.reader.hashes[known:])
