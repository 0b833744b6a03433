"""What ``fastmirror._native.check`` does, without threads: all work is done inside ``collect``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import xxhash
from blake3 import blake3

from tests.twins.hashing import Hasher

PIECE = 1 << 20

_SUMS: dict[str, Callable[[bytes], bytes]] = {
    "blake3": lambda data: blake3(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "xxh3-128": lambda data: xxhash.xxh3_128_digest(data),
}


def implementations() -> tuple[str, ...]:
    return ("portable",)


def piece_hash(data: bytes, algorithm: str, implementation: str = "") -> bytes:
    if algorithm not in _SUMS or implementation not in ("", *implementations()):
        raise ValueError(f"pieces are not hashed by {algorithm!r} {implementation!r}")
    if len(data) > PIECE:
        raise ValueError(f"{len(data)} bytes are more than a piece")
    return _SUMS[algorithm](data)


class Work:
    def __init__(self, checker: Checker, fd: int, start: int, stop: int) -> None:
        self.checker = checker
        self.fd = fd
        self.position = self.start = start
        self.stop = stop
        self.outcome = "running"
        self.errno = 0
        self.cancelled = False

    @property
    def done(self) -> bool:
        return self.outcome != "running"

    def cancel(self) -> None:
        self.cancelled = True
        self.checker.wake()

    def work(self) -> str:
        raise NotImplementedError

    def end(self, outcome: str) -> None:
        self.outcome = outcome

    def turn(self) -> bool:
        """Do what can be done; whether the work has ended."""
        if self.cancelled:
            self.end("cancelled")
        else:
            try:
                outcome = self.work()
            except OSError as error:
                outcome, self.errno = "failed", error.errno or 0
            if outcome != "running":
                self.end(outcome)
        return self.done


class Sum(Work):
    def __init__(self, checker: Checker, fd: int, start: int, stop: int, algorithm: str) -> None:
        super().__init__(checker, fd, start, stop)
        self.algorithm = algorithm
        self._hashes = b""

    @property
    def hashes(self) -> bytes:
        return self._hashes if self.outcome == "complete" else b""

    def work(self) -> str:
        while self.position < self.stop:
            size = min(PIECE, self.stop - self.position)
            data = os.pread(self.fd, size, self.position)
            if len(data) < size:
                return "short"
            self._hashes += _SUMS[self.algorithm](data)
            self.position += size
        return "complete"


class Follow(Work):
    def __init__(self, checker: Checker, fd: int, hasher: Hasher, stop: int) -> None:
        super().__init__(checker, fd, hasher._length, stop)
        self.hasher = hasher
        self.limit = self.start

    def advance(self, limit: int) -> None:
        self.limit = max(self.limit, min(limit, self.stop))
        self.checker.wake()

    def work(self) -> str:
        while self.position < self.limit:
            data = os.pread(self.fd, min(PIECE, self.limit - self.position), self.position)
            if not data:
                return "short"
            self.hasher.give()
            self.hasher.update(data)
            self.hasher.take()
            self.position += len(data)
        return "complete" if self.position == self.stop else "running"

    def end(self, outcome: str) -> None:
        super().end(outcome)
        self.hasher.give()


class Checker:
    def __init__(self, threads: int, nice: int = 0) -> None:
        if not 1 <= threads <= 64 or not 0 <= nice <= 19:
            raise ValueError("threads must be 1 to 64, nice 0 to 19")
        self.threads = threads
        self._works: list[Work] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def running(self) -> int:
        return len(self._works)

    def wake(self) -> None:
        if self.threads:
            os.eventfd_write(self._wake, 1)

    def fileno(self) -> int:
        self._usable()
        return self._wake

    def _usable(self) -> None:
        if not self.threads:
            raise ValueError("the Checker is closed")

    def sum(self, fd: int, start: int, stop: int, algorithm: str) -> Sum:
        if algorithm not in _SUMS:
            raise ValueError(f"pieces are not hashed by {algorithm!r}")
        self._usable()
        if start < 0 or stop < start or start % PIECE or stop - start > 65536 * PIECE:
            raise ValueError("no pieces of a file")
        os.fstat(fd)
        work = Sum(self, fd, start, stop, algorithm)
        self._works.append(work)
        self.wake()
        return work

    def follow(self, fd: int, hasher: Hasher, stop: int) -> Follow:
        self._usable()
        if hasher.busy:
            raise RuntimeError("the hasher is in use")
        if stop < hasher._length:
            raise ValueError("the hasher has had more already")
        os.fstat(fd)
        work = Follow(self, fd, hasher, stop)
        hasher.take()
        self._works.append(work)
        self.wake()
        return work

    def collect(self) -> list[Work]:
        if self.threads:
            try:
                os.eventfd_read(self._wake)
            except BlockingIOError:
                return []
        ended = [work for work in self._works if work.turn()]
        self._works = [work for work in self._works if not work.done]
        return ended

    def close(self) -> None:
        if self.threads:
            self.threads = 0
            os.close(self._wake)
            for work in self._works:
                work.cancelled = True
