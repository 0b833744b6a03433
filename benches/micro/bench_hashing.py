"""How fast is each SHA-2 implementation beside hashlib's OpenSSL, and what does a busy GIL do to both?

``python -m benches.micro.bench_hashing``: the best of several rounds, alternating, in GB/s.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Protocol

from fastmirror._native.hashing import Hasher, implementations

PIECE = 256 * 1024
ROUND_BYTES = 128 << 20
ROUNDS = 7


class Digester(Protocol):
    def update(self, data: bytes, /) -> None: ...


def rate(make: Callable[[], Digester], piece: bytes, size: int) -> float:
    """GB/s of one round."""
    digester = make()
    begin = time.perf_counter()
    for _ in range(size // len(piece)):
        digester.update(piece)
    return size / (time.perf_counter() - begin) / 1e9


def contenders(algorithm: str) -> dict[str, Callable[[], Digester]]:
    made: dict[str, Callable[[], Digester]] = {"hashlib": lambda: hashlib.new(algorithm)}
    for name in implementations(algorithm):
        made[name] = lambda name=name: Hasher(algorithm, name)  # type: ignore[misc]
    return made


def compare(algorithm: str, piece_size: int, rounds: int = ROUNDS, size: int = ROUND_BYTES) -> dict[str, float]:
    """Best GB/s of each contender; the order is turned round after each round."""
    piece = bytes(piece_size)
    best: dict[str, float] = {}
    entries = list(contenders(algorithm).items())
    for _ in range(rounds):
        for name, make in entries:
            best[name] = max(best.get(name, 0.0), rate(make, piece, size))
        entries.reverse()
    return best


def beside_busy_python(algorithm: str) -> dict[str, float]:
    """The same while another thread never gives the GIL up by itself."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        return compare(algorithm, PIECE, rounds=1, size=32 << 20)
    finally:
        stop.set()
        thread.join()


def show(title: str, results: dict[str, float]) -> None:
    cells = "  ".join(f"{name} {results[name]:.2f}" for name in sorted(results, key=lambda name: -results[name]))
    print(f"{title:<44}{cells}")


def main() -> None:
    for algorithm in ("sha256", "sha512"):
        for size in (4096, 16384, PIECE):
            show(f"{algorithm}, pieces of {size} bytes, GB/s", compare(algorithm, size))
    show("sha256, 256 KiB, beside a busy Python thread", beside_busy_python("sha256"))


if __name__ == "__main__":
    main()
