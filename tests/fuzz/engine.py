"""A mutation loop that keeps what behaves in a new way.

A target gets bytes, checks what must hold for all of them, and returns a signature of what it did: which errors, which
answers. An input with a signature that was not seen before joins the pool that later inputs are made from, so the loop
works its way behind checks that random bytes never pass. That needs no instrumented build, so native code and Python
are fuzzed alike, as they are shipped (and under sanitizers, as these are built).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
POOL_LIMIT = 4000
KEPT_BYTES = 1000
LOOK_EVERY = 64  # cases between two looks at the clock


class Found(AssertionError):
    """A target failed; the text has the input as a Python literal, ready to become a test."""


@dataclass(frozen=True)
class Target:
    """``run`` fails for a defect; ``seeds`` are inputs that get far, ``words`` what is put into others.

    ``rate`` says how many cases a second may be expected: it divides a budget among the targets.
    """

    name: str
    run: Callable[[bytes], Hashable]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    rate: int = 10_000
    limit: int = 4096  # bytes of an input

    @property
    def file(self) -> Path:
        """The committed corpus: a JSON list of Latin-1 texts."""
        return CORPUS / f"{self.name}.json"

    def corpus(self) -> list[bytes]:
        """Seeds, and what earlier runs found worth keeping."""
        kept = json.loads(self.file.read_text()) if self.file.exists() else []
        return [*self.seeds, *(text.encode("latin-1") for text in kept)]


@dataclass
class Progress:
    """What a run has done: cases, signatures with the shortest input of each, seconds."""

    cases: int = 0
    kept: dict[Hashable, bytes] = field(default_factory=dict)
    seconds: float = 0.0


def _flip(data: bytearray, source: random.Random) -> None:
    if data:
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _put_byte(data: bytearray, source: random.Random) -> None:
    data[(at := source.randint(0, len(data))) : at] = bytes([source.randrange(256)])


def _replace_byte(data: bytearray, source: random.Random) -> None:
    if data:
        data[source.randrange(len(data))] = source.choice(b"\0\r\n\t :;,=-%/?0129azAZ\x7f\x80\xff[]{}\"'")


def _cut(data: bytearray, source: random.Random) -> None:
    if data:
        at = source.randrange(len(data))
        del data[at : at + source.choice((1, 1, 2, 4, 16, 256))]


def _repeat(data: bytearray, source: random.Random) -> None:
    if data:
        at = source.randrange(len(data))
        piece = data[at : at + source.choice((1, 2, 8, 32, 128))]
        data[at:at] = piece * source.choice((1, 1, 2, 7))


def _number(data: bytearray, source: random.Random) -> None:
    value = source.choice((0, 1, -1, 7, 255, 1 << 16, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 64, 10**45))
    data[(at := source.randint(0, len(data))) : at] = str(value).encode()


_STEPS = (_flip, _put_byte, _replace_byte, _replace_byte, _cut, _cut, _repeat, _number)


def mutate(target: Target, pool: Sequence[bytes], source: random.Random) -> bytes:
    """A new input out of the pool: one to six steps, among them words of the target and pieces of other inputs."""
    data = bytearray(source.choice(pool))
    for _ in range(source.choice((1, 1, 1, 2, 3, 6))):
        kind = source.randrange(10)
        if kind < 2 and target.words:
            data[(at := source.randint(0, len(data))) : at] = source.choice(target.words)
        elif kind == 2:
            other = source.choice(pool)
            at, begin = source.randint(0, len(data)), source.randint(0, len(other))
            data[at : at + source.choice((0, 0, len(other)))] = other[begin:]
        else:
            source.choice(_STEPS)(data, source)
    return bytes(data[: target.limit])


def _one(target: Target, data: bytes, progress: Progress) -> bool:
    """Run one case; whether its signature is new. Raises Found."""
    try:
        signature = target.run(data)
    except Exception as error:  # whatever it is, the input belongs to it
        raise Found(f"{target.name}: {type(error).__name__}: {error}\n  input: {data!r}") from error
    progress.cases += 1
    known = progress.kept.get(signature)
    if known is None or len(data) < len(known):
        progress.kept[signature] = data
    return known is None


def replay(target: Target) -> Progress:
    """Run the corpus alone. Raises Found."""
    progress = Progress()
    for data in target.corpus():
        _one(target, data, progress)
    return progress


def fuzz(target: Target, *, cases: int, seconds: float = float("inf"), seed: int = 0) -> Progress:
    """Run the corpus and then ``cases`` inputs made from it, or as many as ``seconds`` allow. Raises Found."""
    source = random.Random(f"{seed} {target.name}")
    progress = replay(target)
    pool = target.corpus()
    began = time.monotonic()
    while progress.cases < cases:
        if progress.cases % LOOK_EVERY == 0 and time.monotonic() - began > seconds:
            break
        data = mutate(target, pool, source)
        if _one(target, data, progress) and len(pool) < POOL_LIMIT:
            pool.append(data)
    progress.seconds = time.monotonic() - began
    return progress


def keep(target: Target, progress: Progress) -> int:
    """Write the shortest input of each signature into the corpus, without seeds and long ones; how many those are."""
    short = {data for data in progress.kept.values() if len(data) <= KEPT_BYTES}
    kept = sorted(short - set(target.seeds), key=lambda data: (len(data), data))
    target.file.write_text(json.dumps([data.decode("latin-1") for data in kept], indent=0) + "\n")
    return len(kept)
