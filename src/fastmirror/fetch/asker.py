"""Questions to peers that are no transfers: do you have this, what does this tag mean, are you back?"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Literal

from fastmirror.errors import DigestInvalid
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.peerbook import PeerBook
from fastmirror.fetch.want import lookup_target
from fastmirror.http.client import PeerClient
from fastmirror.http.response import Head, refusal
from fastmirror.oci.digest import Digest
from fastmirror.routing import Holder, Key, Peer
from fastmirror.routing.static import Standing

GREET_SECONDS: Final = 1.0
_VERSION: Final = b"fastmirror-version"  # mirror.answers.VERSION_FIELD, in lower case
_SAYS_WHO: Final = frozenset({200, 401, 404})  # fastmirror has 200 for /v2/, 403 for strangers, 5xx without time for it


class PeerAsker:
    """The ``Asker`` of the static router, over a PeerClient; what it meets goes into the PeerBook."""

    def __init__(self, client: PeerClient, book: PeerBook) -> None:
        self._client = client
        self._book = book
        self._loop = asyncio.get_running_loop()
        self._opened = asyncio.Event()
        book.opened = self._opened.set

    def live(self, peer: Peer) -> bool:
        """See ``Asker.live``."""
        return self._book.live(peer, self._loop.time())

    def standing(self, peer: Peer) -> Standing:
        """See ``Asker.standing``."""
        now = self._loop.time()
        health = self._book.health((peer,), now)
        state: Literal["live", "down", "quarantined"]
        state = "live" if health.live else "down" if health.backoff else "quarantined"
        failed = self._book.last_failure(peer)
        return Standing(state) if failed is None else Standing(state, failed[0].value, now - failed[1])

    async def ask(self, peer: Peer, key: Key, seconds: float) -> Holder | None:
        """See ``Asker.ask``. Cancel: the connection is closed, nothing is held against the peer."""
        head = await self._client.head(peer, lookup_target(key), seconds)
        holder = _holder(peer, key, head) if isinstance(head, Head) else None
        outcome = PeerOutcome.GOT if holder else head if isinstance(head, PeerOutcome) else PeerOutcome.GARBLED
        self._note(peer, outcome)
        return holder

    async def pause(self, seconds: float) -> None:
        """See ``Asker.pause``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._opened.wait()
        self._opened.clear()

    async def resolve(self, peer: Peer) -> None:
        """See ``Asker.resolve``."""
        await self._client.resolve(peer)

    def due(self) -> list[Peer]:
        """See ``Asker.due``."""
        return self._book.due(self._loop.time())

    async def greet(self, peer: Peer) -> bool | None:
        """See ``Asker.greet``."""
        head = await self._client.head(peer, "/v2/", GREET_SECONDS, any_status=True)
        if isinstance(head, PeerOutcome):
            self._note(peer, head)
            return None
        self._note(peer, PeerOutcome.GOT if head.status == 200 else refusal(head))
        return _VERSION in head.fields if head.status in _SAYS_WHO else None

    def _note(self, peer: Peer, outcome: PeerOutcome) -> None:
        self._book.note(peer, outcome, self._loop.time(), body=False)


def _holder(peer: Peer, key: Key, head: Head) -> Holder | None:
    """What a 200 says; None if it leaves out what it must say."""
    if head.length is None:
        return None
    if isinstance(key, Digest):
        return Holder(peer, head.length)
    try:
        target = Digest.parse(head.fields[b"docker-content-digest"].decode("ascii", "replace"))
    except (KeyError, DigestInvalid):
        return None
    return Holder(peer, head.length, target)
