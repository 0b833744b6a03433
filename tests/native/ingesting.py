"""An ingester with real sockets and files around it, for its tests."""

from __future__ import annotations

import os
import random
import select
import socket
import tempfile
import threading
import time
from contextlib import ExitStack
from typing import Any

MIB = 1 << 20


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Rig:
    """Owns all that it hands out; ``close`` gives everything back."""

    def __init__(self, ingest: Any, threads: int = 4) -> None:
        self.stack = ExitStack()
        self.ingester = ingest.Ingester(threads)
        self.listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.senders: list[threading.Thread] = []
        self.ended: set[Any] = set()  # jobs that were told as ended

    def close(self) -> None:
        self.ingester.close()
        self.ingester.collect()
        self.stack.close()
        for sender in self.senders:
            sender.join()

    def connection(self) -> tuple[socket.socket, socket.socket]:
        """Our end and the peer's."""
        ours = self.stack.enter_context(socket.create_connection(self.listener.getsockname()))
        peer = self.stack.enter_context(self.listener.accept()[0])
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return ours, peer

    def file(self) -> int:
        file, path = tempfile.mkstemp()
        os.unlink(path)
        self.stack.callback(os.close, file)
        return file

    def send(self, peer: socket.socket, data: bytes, then_close: bool = False) -> None:
        """From a thread, so that any size goes through."""

        def work() -> None:
            try:
                peer.sendall(data)
                if then_close:
                    peer.close()
            except OSError:
                pass  # cancelled

        sender = threading.Thread(target=work)
        self.senders.append(sender)
        sender.start()

    def news(self, seconds: float = 10.0) -> list[Any]:
        """What the next wake-up tells."""
        ready, _, _ = select.select([self.ingester.fileno()], [], [], seconds)
        assert ready, f"no news within {seconds} s"
        return self.collect()

    def collect(self) -> list[Any]:
        told: list[Any] = self.ingester.collect()
        self.ended.update(job for job in told if job.done)
        return told

    def finish(self, *jobs: Any, seconds: float = 20.0) -> list[Any]:
        """Collect until these have been told as ended; all that was told, in order."""
        told: list[Any] = []
        deadline = time.monotonic() + seconds
        while not self.ended.issuperset(jobs):
            told += self.news(deadline - time.monotonic())
        return told

    def until(self, job: Any, received: int, seconds: float = 10.0) -> None:
        """Collect until a job has that many bytes."""
        deadline = time.monotonic() + seconds
        while job.received < received:
            self.news(deadline - time.monotonic())


def read_back(file: int, offset: int, size: int) -> bytes:
    return os.pread(file, size, offset)
