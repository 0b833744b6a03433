"""The load: keep-alive connections that ask for one object again and again, and throw bodies away in the kernel.

Source: tcp(7) on MSG_TRUNC.
"""

from __future__ import annotations

import selectors
import socket
import time
from dataclasses import dataclass
from typing import Final

from fastmirror.errors import FastmirrorError

HOST: Final = "127.0.0.1"
DISCARD: Final = 4 << 20  # bytes of one recv
HEAD_LIMIT: Final = 16384
ANSWER_SECONDS: Final = 60.0  # the longest that nothing may arrive


class BenchFailed(FastmirrorError):
    """A measurement could not be made: the server's answer was wrong or did not come. Caught in ``cli.main``."""


@dataclass(frozen=True)
class Load:
    """``connections`` that fetch ``path`` for ``seconds``, or, where ``requests`` is set, so often in all."""

    path: str
    size: int
    connections: int = 1
    seconds: float = 2.0
    requests: int = 0


@dataclass(frozen=True)
class Sample:
    """What came in the measured time: seconds, body bytes, whole answers, seconds each of those took (sorted), and the
    client's own CPU seconds."""

    seconds: float
    bytes: int
    requests: int
    latencies: list[float]
    own_cpu: float

    def latency(self, share: float) -> float | None:
        """The latency in seconds that this share of the answers did not exceed; None of no answer."""
        return (
            self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))] if self.latencies else None
        )


class _Connection:
    """One keep-alive connection; owned by :func:`run`, which closes it."""

    def __init__(self, port: int, load: Load) -> None:
        self.load = load
        self.text = f"GET {load.path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        self.sock = socket.create_connection((HOST, port), ANSWER_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.head = b""
        self.left = -1  # body bytes to come; -1: the head is not complete
        self.began = 0.0

    def ask(self) -> None:
        """Send the next request."""
        self.head, self.left, self.began = b"", -1, time.perf_counter()
        self.sock.send(self.text)

    def receive(self, buffer: bytearray) -> int:
        """One recv; returns the body bytes that came. Raises BenchFailed for a wrong answer and an ended connection."""
        try:
            if self.left < 0:
                piece = self.sock.recv(HEAD_LIMIT - len(self.head))
                return self._head(piece)
            got = self.sock.recv_into(buffer, min(self.left, DISCARD), socket.MSG_TRUNC)
        except BlockingIOError:
            return 0
        if not got:
            raise BenchFailed(f"bench: the server ended a connection {self.left} bytes before the end of a body")
        self.left -= got
        return got

    def _head(self, piece: bytes) -> int:
        self.head += piece
        text, end, body = self.head.partition(b"\r\n\r\n")
        if not end and piece and len(self.head) < HEAD_LIMIT:
            return 0
        length = f"\r\nContent-Length: {self.load.size}\r\n".encode()
        if not text.startswith(b"HTTP/1.1 200 ") or length not in text + end:
            raise BenchFailed(f"bench: {self.load.path} was answered wrongly: {self.head[:120]!r}")
        self.left = self.load.size - len(body)
        return len(body)


def run(port: int, load: Load) -> Sample:
    """Put the load on the server at this port of loopback. Raises BenchFailed; OSError if it cannot be reached."""
    buffer = bytearray(DISCARD)
    latencies: list[float] = []
    received = 0
    connections: list[_Connection] = []
    with selectors.DefaultSelector() as selector:
        try:
            for _ in range(load.connections):
                connections.append(_Connection(port, load))
                selector.register(connections[-1].sock, selectors.EVENT_READ, connections[-1])
            cpu, began = time.process_time(), time.perf_counter()
            for connection in connections:
                connection.ask()
            while not load.requests or len(latencies) < load.requests:
                if not load.requests and time.perf_counter() - began >= load.seconds:
                    break
                ready = selector.select(ANSWER_SECONDS)
                if not ready:
                    raise BenchFailed(f"bench: nothing came for {ANSWER_SECONDS:g} s")
                for key, _ in ready:
                    connection = key.data
                    received += connection.receive(buffer)
                    if connection.left == 0:
                        latencies.append(time.perf_counter() - connection.began)
                        connection.ask()
            seconds, own = time.perf_counter() - began, time.process_time() - cpu
        finally:
            for connection in connections:
                connection.sock.close()
    return Sample(seconds, received, len(latencies), sorted(latencies), own)
