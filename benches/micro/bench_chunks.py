"""What does it cost to check pieces before they are passed on, to follow with the whole digest, and to make a list?

``python -m benches.micro.bench_chunks [--directory DIR] [--mib N]``: CPU-s/GiB of this process (all threads, loop
included), median and best of five, of a file in the page cache. Then the same check while the loop is busy with Python,
by the native threads and by Python threads with PyPI's ``blake3`` (which gives up the GIL for each piece): how fast
each goes, and by how much the loop is late.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from blake3 import blake3

from fastmirror._native.hashing import Hasher
from fastmirror.chunks.checks import Checks
from fastmirror.chunks.chunklist import ALGORITHMS, DEFAULT, PIECE, Shape
from fastmirror.chunks.making import Making
from fastmirror.chunks.trust import Fault
from fastmirror.chunks.verifier import Subject, Verifier
from fastmirror.oci.digest import Digest
from fastmirror.oci.span import Span
from fastmirror.routing import Peer
from fastmirror.store import Blob

GIB = 1 << 30
ROUNDS = 5
BUSY_SECONDS = 0.0002  # of Python in each callback of the busy loop


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Case:
    """A file, and the ways to hash it."""

    def __init__(self, fd: int, size: int, digest: Digest) -> None:
        self.fd, self.size, self.digest = fd, size, digest
        self.checks = Checks(2)
        self.hashes = [blake3(os.pread(fd, PIECE, at)).digest() for at in range(0, size, PIECE)]

    async def pieces(self, algorithm: str) -> None:
        """Each piece as a work of its own, as they arrive."""
        left = self.size // PIECE
        done = asyncio.get_running_loop().create_future()

        def told(_: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set_result(None)

        for at in range(0, self.size, PIECE):
            self.checks.sum(self.fd, Span(at, at + PIECE), ALGORITHMS[algorithm], told)
        await done

    async def follow(self) -> None:
        done = asyncio.get_running_loop().create_future()
        self.checks.follow(self.fd, Hasher("sha256"), self.size, done.set_result).advance(self.size)
        await done

    async def making(self) -> None:
        done = asyncio.get_running_loop().create_future()

        class Owner:
            def made(self, making: Making, content: bytes | None) -> None:
                done.set_result(content)

            def unread(self, making: Making) -> None: ...

        Making(Blob(os.dup(self.fd), self.size, self.digest), Shape(self.size), self.checks, Owner()).begin()
        assert await done is not None

    async def verifier(self, algorithm: str | None) -> None:
        """Everything that a content from peers goes through: two lists, pieces from four peers, the whole."""
        how = ALGORITHMS[algorithm] if algorithm else None
        watcher = Watcher()
        verifier = Verifier(Subject(self.digest, self.size, how), Held(self.fd), self.checks, watcher)
        peers = [Peer("198.18.0.1", port) for port in range(1, 5)]
        if how is not None:
            for peer in peers[:2]:
                verifier.expect(peer)
                verifier.told(peer, self.hashes)
        verifier.sought()
        for at in range(0, self.size, PIECE // 4):
            verifier.arrived(peers[at // PIECE % 4], Span(at, at + PIECE // 4))
            if at % (4 * PIECE) == 0:
                await asyncio.sleep(0)
        assert await watcher.end
        verifier.close()


class Watcher:
    def __init__(self) -> None:
        self.end: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def verified(self, frontier: int) -> None: ...

    def ahead(self, span: Span) -> None: ...

    def checked(self) -> None: ...

    def refused(self, span: Span, peers: frozenset[Peer]) -> None:
        raise AssertionError(span)

    def convicted(self, peer: Peer, fault: Fault) -> None:
        raise AssertionError(fault)

    def finished(self, right: bool) -> None:
        self.end.set_result(right)

    def failed(self, number: int) -> None:
        raise OSError(number, os.strerror(number))


class Held:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def hold(self) -> None: ...

    def release(self) -> None: ...


async def measure(name: str, size: int, run: Callable[[], Awaitable[None]]) -> None:
    costs, speeds = [], []
    for _ in range(ROUNDS):
        began, spent = time.perf_counter(), cpu()
        await run()
        costs.append((cpu() - spent) * GIB / size)
        speeds.append(size / GIB / (time.perf_counter() - began))
    print(f"{name:44} {statistics.median(costs):6.3f} {min(costs):6.3f} {statistics.median(speeds):8.2f}")


# ---- beside a busy loop


async def beside_busy_loop(name: str, size: int, run: Callable[[], Awaitable[None]]) -> None:
    """Callbacks of BUSY_SECONDS back to back while ``run`` goes on; late: how long a callback took beyond its time."""
    loop = asyncio.get_running_loop()
    late: list[float] = []
    running = True

    def busy() -> None:
        began = time.perf_counter()
        spent = time.thread_time()
        while time.thread_time() - spent < BUSY_SECONDS:
            pass
        late.append(time.perf_counter() - began - BUSY_SECONDS)
        if running:
            loop.call_soon(busy)

    loop.call_soon(busy)
    began = time.perf_counter()
    await run()
    seconds = time.perf_counter() - began
    running = False
    await asyncio.sleep(0.01)
    late.sort()
    p99 = late[int(len(late) * 0.99)] * 1000
    print(
        f"{name:44} {size / 1e9 / seconds:6.2f} GB/s, callbacks late p99 {p99:.2f} ms, worst {late[-1] * 1000:.1f} ms"
    )


async def by_python_threads(case: Case, threads: int) -> None:
    loop = asyncio.get_running_loop()

    def one(at: int) -> bytes:
        return blake3(os.pread(case.fd, PIECE, at)).digest()

    with ThreadPoolExecutor(threads) as pool:
        works = [loop.run_in_executor(pool, one, at) for at in range(0, case.size, PIECE)]
        for work in works:
            await work


async def run(directory: str | None, mib: int) -> None:
    size = mib << 20
    with tempfile.TemporaryFile(dir=directory) as file:
        piece = os.urandom(8 << 20)
        hasher = Hasher("sha256")
        for at in range(0, size, len(piece)):
            file.write(piece[: min(len(piece), size - at)])
            hasher.update(piece[: min(len(piece), size - at)])
        file.flush()
        case = Case(file.fileno(), size, Digest.parse("sha256:" + hasher.hexdigest()))
        print(f"{'':44} CPU-s/GiB   best    GiB/s")
        for algorithm in ALGORITHMS:
            await measure(f"pieces, {algorithm}, as they arrive", size, partial(case.pieces, algorithm))
        await measure("the whole, SHA-256, following", size, case.follow)
        await measure(f"a list is made, {DEFAULT.name}", size, case.making)
        await measure("all of it: two lists, pieces, the whole", size, lambda: case.verifier("blake3"))
        await measure("without lists", size, lambda: case.verifier(None))
        print()
        await beside_busy_loop("native threads, busy loop", size, lambda: case.pieces("blake3"))
        part = Case(case.fd, min(size, 64 << 20), case.digest)
        await beside_busy_loop("two Python threads, busy loop", part.size, lambda: by_python_threads(part, 2))
        for each in (case, part):
            each.checks.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", help="where the file is")
    parser.add_argument("--mib", type=int, default=512)
    options = parser.parse_args()
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(options.directory, options.mib))


if __name__ == "__main__":
    main()
