"""Clients of one mirror: several blobs at a time, each checked, with the longest time without a byte."""

from __future__ import annotations

import hashlib
import http.client
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

PIECE = 256 * 1024
CLIENT_SECONDS = 40.0


@dataclass(frozen=True)
class Pulled:
    """What became of one request. ``gap``: seconds, the longest wait for a next byte (the head's included)."""

    status: int
    complete: bool
    seconds: float
    gap: float


class Load:
    """Pulls blobs from ``host:port``; ``received`` grows as bytes come."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.received = 0
        self._lock = threading.Lock()

    def pull(self, blobs: Sequence[tuple[str, int]], at_once: int) -> list[Pulled]:
        """Pull every (digest, size), ``at_once`` of them at a time, in order."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda blob: self.get(*blob), blobs))

    def ranges(self, digest: str, content: bytes, count: int) -> list[Pulled]:
        """One blob as ``count`` ranges at once."""
        step = -(-len(content) // count)
        spans = [(start, min(start + step, len(content))) for start in range(0, len(content), step)]
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda span: self.get(digest, span[1] - span[0], span, content), spans))

    def get(self, digest: str, size: int, span: tuple[int, int] | None = None, content: bytes | None = None) -> Pulled:
        """One request; complete means: every byte came and was right."""
        expected = None if span is None or content is None else hashlib.sha256(content[slice(*span)]).hexdigest()
        fields = {} if span is None else {"Range": f"bytes={span[0]}-{span[1] - 1}"}
        began = last = time.monotonic()
        gap, got, status = 0.0, 0, 0
        hasher = hashlib.sha256()
        connection = http.client.HTTPConnection(*self.address, timeout=CLIENT_SECONDS)
        try:
            connection.request("GET", f"/v2/bench/blobs/{digest}", headers=fields)
            answer = connection.getresponse()
            status = answer.status
            while status in (200, 206) and (piece := answer.read1(PIECE)):
                now = time.monotonic()
                gap, last = max(gap, now - last), now
                got += len(piece)
                hasher.update(piece)
                with self._lock:
                    self.received += len(piece)
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        now = time.monotonic()
        right = hasher.hexdigest() == (expected or digest.removeprefix("sha256:"))
        return Pulled(status, right and got == size, now - began, max(gap, now - last))


def when(load: Load, received: int, act: Callable[[], None]) -> threading.Thread:
    """Call ``act`` once ``received`` bytes have come; the thread ends then, or after the clients' own patience."""

    def watch() -> None:
        deadline = time.monotonic() + CLIENT_SECONDS
        while load.received < received and time.monotonic() < deadline:
            time.sleep(0.001)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread
