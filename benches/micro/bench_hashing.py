"""How fast is each SHA-2 implementation beside hashlib's OpenSSL, and what does a busy GIL do to both?

``python -m benches.micro.bench_hashing``: the best of several rounds, alternating, in GB per second of CPU (so that
other work on the machine counts little), and of the wall clock where another thread holds the GIL.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fastmirror._native.hashing import Hasher, implementations

PIECE = 256 * 1024
ROUND_BYTES = 128 << 20
ROUNDS = 7


class Digester(Protocol):
    def update(self, data: bytes, /) -> None: ...


@dataclass
class Course:
    piece: int = PIECE  # bytes
    size: int = ROUND_BYTES
    rounds: int = ROUNDS
    clock: Callable[[], float] = time.thread_time


def rate(make: Callable[[], Digester], course: Course) -> float:
    """GB/s of one round."""
    digester, piece = make(), bytes(course.piece)
    begin = course.clock()
    for _ in range(course.size // course.piece):
        digester.update(piece)
    return course.size / (course.clock() - begin) / 1e9


def contenders(algorithm: str) -> dict[str, Callable[[], Digester]]:
    made: dict[str, Callable[[], Digester]] = {"hashlib": lambda: hashlib.new(algorithm)}
    for name in implementations(algorithm):
        made[name] = lambda name=name: Hasher(algorithm, name)  # type: ignore[misc]
    return made


def compare(algorithm: str, course: Course) -> dict[str, float]:
    """Best GB/s of each contender; the order is turned round after each round."""
    best: dict[str, float] = {}
    entries = list(contenders(algorithm).items())
    for _ in range(course.rounds):
        for name, make in entries:
            best[name] = max(best.get(name, 0.0), rate(make, course))
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
        return compare(algorithm, Course(rounds=1, size=32 << 20, clock=time.perf_counter))
    finally:
        stop.set()
        thread.join()


def show(title: str, results: dict[str, float]) -> None:
    cells = "  ".join(f"{name} {results[name]:.2f}" for name in sorted(results, key=lambda name: -results[name]))
    print(f"{title:<46}{cells}")


def main() -> None:
    for algorithm in ("sha256", "sha512"):
        for size in (4096, 16384, PIECE):
            show(f"{algorithm}, pieces of {size} bytes, GB/s", compare(algorithm, Course(size)))
    show("sha256, 256 KiB, beside a busy Python thread", beside_busy_python("sha256"))


if __name__ == "__main__":
    main()
