"""What does it cost to bring a body from a socket into a file, with and without its digest?

``python -m benches.micro.bench_ingest [--directory DIR]``: CPU-s/GiB of the receiving process (all of its threads,
loop included), median and best; GiB/s and wake-ups of Python per GiB, medians. The sender is another process that uses
sendfile from the page cache; both share the machine. Beside it: the same work in Python on one thread, and the ingester
beside a thread that keeps the GIL busy.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import select
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from fastmirror._native.hashing import Hasher
from fastmirror._native.ingest import Ingester

GIB = 1 << 30
PIECE = 256 * 1024
Move = Callable[[list[socket.socket], list[int], int], int]
"""Moves ``size`` bytes from each socket into the file beside it; returns how often Python was woken."""


@dataclass
class Sample:
    cpu: float  # seconds per GiB
    speed: float  # GiB/s
    wakes: float  # per GiB


@contextmanager
def sender(connections: int, size: int, pace: float) -> Iterator[list[socket.socket]]:
    """Connected sockets on which a child sends ``size`` bytes each, at most ``pace`` bytes a second in all."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=connections)
    pid = os.fork()
    if pid == 0:
        try:
            send_all([listener.accept()[0] for _ in range(connections)], size, pace)
        finally:
            os._exit(0)
    port = listener.getsockname()[1]
    listener.close()
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()
        os.waitpid(pid, 0)


def send_all(sockets: list[socket.socket], size: int, pace: float) -> None:
    source = os.memfd_create("source")
    os.write(source, os.urandom(16 << 20))
    left = dict.fromkeys(sockets, size)
    step = 65536 if pace else 1 << 20
    begin, sent = time.monotonic(), 0
    while left:
        for each in list(left):
            offset = (size - left[each]) % (16 << 20)
            n = os.sendfile(each.fileno(), source, offset, min(step, left[each], (16 << 20) - offset))
            left[each] -= n
            sent += n
            if left[each] == 0:
                del left[each]
        if pace:
            time.sleep(max(0.0, begin + sent / pace - time.monotonic()))


def by_ingester(threads: int, algorithm: str | None) -> Move:
    def move(sockets: list[socket.socket], files: list[int], size: int) -> int:
        ingester = Ingester(threads)
        wakes = 0
        for sock, file in zip(sockets, files, strict=True):
            ingester.start(sock.fileno(), file, 0, size, Hasher(algorithm) if algorithm else None)
        while ingester.running:
            select.select([ingester.fileno()], [], [])
            wakes += 1
            for job in ingester.collect():
                if job.done and job.outcome != "complete":
                    sys.exit(f"{job.outcome}: {os.strerror(job.errno)}")
        ingester.close()
        return wakes

    return move


def by_python(algorithm: str | None) -> Move:
    def move(sockets: list[socket.socket], files: list[int], size: int) -> int:
        buffer = memoryview(bytearray(PIECE))
        wakes = 0
        for sock, file in zip(sockets, files, strict=True):
            digest = hashlib.new(algorithm) if algorithm else None
            offset = 0
            while offset < size:
                n = sock.recv_into(buffer[: size - offset])
                if digest:
                    digest.update(buffer[:n])
                os.pwrite(file, buffer[:n], offset)
                offset += n
                wakes += 1
        return wakes

    return move


@contextmanager
def busy_python(wanted: bool) -> Iterator[None]:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if wanted:
            thread.join()


def measure(move: Move, connections: int, total: int, directory: str, pace: float = 0, busy: bool = False) -> Sample:
    size = total // connections
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile(dir=directory)) for _ in range(connections)]
        sockets = stack.enter_context(sender(connections, size, pace))
        stack.enter_context(busy_python(busy))
        before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        wakes = move(sockets, [file.fileno() for file in files], size)
        seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Sample(cpu * GIB / total, total / seconds / GIB, wakes * GIB / total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default=".", help="where the files go: a disk or a tmpfs")
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cells: dict[str, tuple[Move, int, float, bool]] = {
        "recv+pwrite, 1 connection, 1 thread": (by_ingester(1, None), 1, 0, False),
        "recv+pwrite+sha256, 1 connection, 1 thread": (by_ingester(1, "sha256"), 1, 0, False),
        "the same, 4 threads": (by_ingester(4, "sha256"), 1, 0, False),
        "the same, 4 threads, beside a busy Python thread": (by_ingester(4, "sha256"), 1, 0, True),
        "the same, 8 connections, 4 threads": (by_ingester(4, "sha256"), 8, 0, False),
        "the same, 1 connection at 1 Gbit/s": (by_ingester(4, "sha256"), 1, 125e6, False),
        "Python and hashlib, 1 connection": (by_python("sha256"), 1, 0, False),
        "Python and hashlib, beside a busy Python thread": (by_python("sha256"), 1, 0, True),
    }
    samples: dict[str, list[Sample]] = {name: [] for name in cells}
    for turn in range(options.rounds):
        for name in list(cells)[:: -1 if turn % 2 else 1]:
            move, connections, pace, busy = cells[name]
            total = (64 if busy or pace else options.mib) << 20
            samples[name].append(measure(move, connections, total, options.directory, pace, busy))
    print(f"{'':<50}CPU-s/GiB   best    GiB/s  wakes/GiB")
    for name, taken in samples.items():
        cpu, speed, wakes = (
            statistics.median(getattr(each, key) for each in taken) for key in ("cpu", "speed", "wakes")
        )
        note = "  (CPU includes the busy thread)" if cells[name][3] else ""
        best = min(each.cpu for each in taken)
        print(f"{name:<50}{cpu:9.2f}{best:7.2f}{speed:9.2f}{wakes:11.0f}{note}")


if __name__ == "__main__":
    main()
