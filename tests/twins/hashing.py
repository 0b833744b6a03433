"""What ``fastmirror._native.hashing`` does, by hashlib."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

_SIZES = {"sha256": 32, "sha512": 64}


def implementations(algorithm: str) -> tuple[str, ...]:
    if algorithm not in _SIZES:
        raise ValueError(f"digest algorithm {algorithm!r} is not supported: use sha256 or sha512")
    return ("portable",)


class Hasher:
    def __init__(self, algorithm: str, implementation: str = "") -> None:
        if implementation not in ("", *implementations(algorithm)):
            raise ValueError(f"{algorithm} has no implementation {implementation!r} on this machine")
        self.algorithm = algorithm
        self.implementation = "portable"
        self.digest_size = _SIZES[algorithm]
        self.busy = False
        self._length = 0
        self._state = hashlib.new(algorithm)

    def take(self) -> None:
        if self.busy:
            raise RuntimeError("the hasher is in use by a job or another thread")
        self.busy = True

    def give(self) -> None:
        self.busy = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.take()
        yield
        self.give()

    def feed(self, data: bytes | memoryview) -> None:
        """For the job that took the hasher."""
        self._state.update(data)
        self._length += len(data)

    @property
    def length(self) -> int:
        with self.alone():
            return self._length

    def update(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        if not view.contiguous:
            raise BufferError("the bytes are not in one piece")
        with self.alone():
            self.feed(view.cast("B") if view.nbytes else b"")

    def digest(self) -> bytes:
        with self.alone():
            return self._state.digest()

    def hexdigest(self) -> str:
        return self.digest().hex()

    def copy(self) -> Hasher:
        other = Hasher(self.algorithm)
        with self.alone():
            other._state = self._state.copy()
            other._length = self._length
        return other
