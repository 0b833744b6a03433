"""A content under a real Verifier, with peers that are made up."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from typing import Any

from blake3 import blake3

from fastmirror.chunks.checks import Checks
from fastmirror.chunks.chunklist import ALGORITHMS, PIECE, piece_count, piece_span
from fastmirror.chunks.trust import Fault
from fastmirror.chunks.verifier import Subject, Verifier
from fastmirror.oci.digest import Digest
from fastmirror.oci.span import Span
from fastmirror.routing import Peer

BLAKE3 = ALGORITHMS["blake3"]


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def turns_until(condition: Callable[[], bool]) -> None:
    """Let the loop go round until something holds that nobody tells of."""
    deadline = time.monotonic() + 20
    for _ in iter(condition, True):
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


class Shelf:
    """A file that is closed by its last release."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("spool")
        self.holds = 1

    def fileno(self) -> int:
        assert self.holds > 0
        return self.fd

    def hold(self) -> None:
        self.holds += 1

    def release(self) -> None:
        self.holds -= 1
        if not self.holds:
            os.close(self.fd)


class Case:
    """A content on its way, and what the watcher hears of it. ``close`` it."""

    def __init__(self, content: bytes, checks: Checks, algorithm: Any = BLAKE3, digest: Digest | None = None) -> None:
        self.content = content
        self.shelf = Shelf()
        self.frontiers: list[int] = []
        self.looks = 0
        self.refusals: list[tuple[Span, frozenset[Peer]]] = []
        self.convicts: list[tuple[Peer, Fault]] = []
        self.end: asyncio.Future[bool | int] = asyncio.get_running_loop().create_future()
        self._heard = asyncio.Event()
        self.missing = set(range(piece_count(len(content))))
        self.verifier = Verifier(
            Subject(digest or Digest.of(content), len(content), algorithm), self.shelf, checks, self
        )

    async def close(self) -> None:
        self.verifier.close()
        await turns_until(lambda: self.shelf.holds == 1)
        self.shelf.release()

    # what it hears

    def ahead(self, span: Span) -> None:
        """See ``Watcher.ahead``."""
        assert not self.frontiers or span.start >= self.frontiers[-1]
        found = os.pread(self.shelf.fd, len(span), span.start)
        assert found == self.content[span.start : span.stop], "wrong bytes would be passed on"

    def checked(self) -> None:
        """See ``Watcher.checked``."""
        self.looks += 1

    def verified(self, frontier: int) -> None:
        assert not self.end.done()
        assert os.pread(self.shelf.fd, frontier, 0) == self.content[:frontier], "wrong bytes would be passed on"
        assert not self.frontiers or frontier > self.frontiers[-1]
        self.frontiers.append(frontier)
        self._heard.set()

    def refused(self, span: Span, peers: frozenset[Peer]) -> None:
        assert not self.frontiers or span.start >= self.frontiers[-1], "bytes that were shown cannot come again"
        self.refusals.append((span, peers))
        self.missing.add(span.start // PIECE)
        self._heard.set()

    def convicted(self, peer: Peer, fault: Fault) -> None:
        self.convicts.append((peer, fault))
        self._heard.set()

    def finished(self, right: bool) -> None:
        self.end.set_result(right)
        self._heard.set()

    def failed(self, number: int) -> None:
        self.end.set_result(number)
        self._heard.set()

    # what happens

    def send(self, peer: Peer, start: int, stop: int, wrong: int | None = None) -> None:
        """Bytes of ``peer`` are written, one of them a wrong one, and told."""
        data = bytearray(self.content[start:stop])
        if wrong is not None:
            data[wrong - start] ^= 1
        os.pwrite(self.shelf.fd, data, start)
        self.verifier.arrived(peer, Span(start, stop))

    def piece(self, peer: Peer, index: int, wrong: bool = False) -> None:
        span = piece_span(index, len(self.content))
        self.missing.discard(index)
        self.send(peer, span.start, span.stop, span.start if wrong else None)

    def lists(self, *peers: Peer, wrong: tuple[int, ...] = ()) -> None:
        """Whole lists, which the last of the peers has wrong at some pieces."""
        for peer in peers:
            self.verifier.expect(peer)
        for peer in peers:
            bad = wrong if peer == peers[-1] else ()
            self.verifier.told(
                peer, [self.hash(index, index in bad) for index in range(piece_count(len(self.content)))]
            )
            self.verifier.ended(peer)
        self.verifier.sought()

    def hash(self, index: int, wrong: bool = False) -> bytes:
        span = piece_span(index, len(self.content))
        data = bytearray(self.content[span.start : span.stop])
        if wrong:
            data[0] ^= 1
        return blake3(data).digest()

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._heard.clear()
                await self._heard.wait()

    async def over(self) -> bool | int:
        async with asyncio.timeout(20):
            return await self.end
