"""A checker with real files around it, for its tests, and what the hashes of pieces are by other libraries."""

from __future__ import annotations

import hashlib
import os
import random
import select
import tempfile
import time
from contextlib import ExitStack
from typing import Any

import xxhash
from blake3 import blake3

PIECE = 1 << 20
SUMS = {
    "blake3": lambda data: blake3(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "xxh3-128": lambda data: xxhash.xxh3_128_digest(data),
}


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def pieces(data: bytes, algorithm: str) -> bytes:
    return b"".join(SUMS[algorithm](data[at : at + PIECE]) for at in range(0, len(data), PIECE))


class Rig:
    """A checker with files; ``close`` gives everything back."""

    def __init__(self, check: Any, hashing: Any) -> None:
        self.stack = ExitStack()
        self.hashing = hashing
        self.checker = check.Checker(2)
        self.ended: set[Any] = set()

    def close(self) -> None:
        self.checker.close()
        self.checker.collect()
        self.stack.close()

    def file(self, content: bytes = b"") -> int:
        file, path = tempfile.mkstemp()
        os.unlink(path)
        self.stack.callback(os.close, file)
        os.write(file, content)
        return file

    def finish(self, *works: Any, seconds: float = 20.0) -> list[Any]:
        """Collect until these have been told; all that was told, in order."""
        told: list[Any] = []
        deadline = time.monotonic() + seconds
        while not self.ended.issuperset(works):
            ready, _, _ = select.select([self.checker.fileno()], [], [], deadline - time.monotonic())
            assert ready, "no news"
            told += self.collect()
        return told

    def collect(self) -> list[Any]:
        told: list[Any] = self.checker.collect()
        self.ended.update(told)
        return told

    def until(self, work: Any, position: int, seconds: float = 20.0) -> None:
        """Look at the work until it has come that far; the native one wakes nobody for mere progress."""
        deadline = time.monotonic() + seconds
        while work.position < position:
            assert time.monotonic() < deadline
            self.collect()
            os.sched_yield()
