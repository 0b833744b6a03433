"""The real connection over a real socket, without a loop: bytes in, refusals and requests out."""

from __future__ import annotations

import socket
import zlib
from collections import deque
from collections.abc import Callable, Hashable

from fastmirror._native.connection import Connection
from fastmirror._native.endpoint import Endpoint, Pace, Reply
from fastmirror._native.requests import Refusal, Request
from tests.twins import requests as twin

_LISTENER = socket.create_server(("127.0.0.1", 0))  # a socket pair knows no MSG_TRUNC that discards
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"


class StillLoop:
    """What a connection asks of a loop; the fuzzer calls what was added."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}
        self.soon: deque[Callable[[], None]] = deque()

    def time(self) -> float:
        return 1.0

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def add_reader(self, fd: int, call: Callable[[], None]) -> None:
        self.readers[fd] = call

    def add_writer(self, fd: int, call: Callable[[], None]) -> None:
        self.writers[fd] = call

    def remove_reader(self, fd: int) -> bool:
        return self.readers.pop(fd, None) is not None

    def remove_writer(self, fd: int) -> bool:
        return self.writers.pop(fd, None) is not None


class Served:
    """One connection: ``seen`` has its requests and refusals in order."""

    def __init__(self) -> None:
        self.loop = StillLoop()
        self.seen: list[Request | Refusal] = []
        self.endpoint = Endpoint(self.loop, self._answer, self._spawn, self._refuse, lambda _: None, Pace())  # type: ignore[arg-type]

    def _answer(self, request: Request) -> Reply:
        self.seen.append(request)
        return Reply(_ANSWER)

    def _refuse(self, refusal: Refusal) -> Reply:
        self.seen.append(refusal)
        return Reply(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n" % refusal.status, close=refusal.close)

    def _spawn(self, answer: object, connection: Connection) -> object:
        raise AssertionError("every answer is there at once")

    def take(self, pieces: list[bytes]) -> bytes:
        """Give it these pieces and then the end; what it sent. It holds nothing afterwards."""
        client = socket.create_connection(_LISTENER.getsockname())
        served, _ = _LISTENER.accept()
        served.setblocking(False)
        fd = served.detach()
        connection = Connection(self.endpoint, fd, "127.0.0.1")
        with client:
            for piece in filter(None, pieces):
                client.send(piece)
                self._turn(fd)
            client.shutdown(socket.SHUT_WR)
            self._turn(fd)
            connection.close()
            assert not self.loop.readers
            assert not self.loop.writers
            assert not self.endpoint.connections
            sent = b""
            while more := client.recv(1 << 20):
                sent += more
        return sent

    def _turn(self, fd: int) -> None:
        for _ in range(2000):
            call = (
                self.loop.soon.popleft() if self.loop.soon else self.loop.writers.get(fd) or self.loop.readers.get(fd)
            )
            if call is None:
                return
            before = self._state(fd)
            call()
            if self._state(fd) == before and not self.loop.soon:
                return
        raise AssertionError("it goes on without end")

    def _state(self, fd: int) -> Hashable:
        return len(self.seen), self.endpoint.stats.closed, fd in self.loop.readers, fd in self.loop.writers


def _plain(entry: Request | Refusal) -> Hashable:
    if isinstance(entry, Refusal):
        return entry.status, entry.close
    return entry.method, entry.raw_target, entry.range, entry.if_range, entry.keep_alive, entry.token


def _cut(data: bytes) -> list[bytes]:
    """The same bytes in pieces, by places that their own checksum chooses."""
    seed = zlib.crc32(data)
    places = sorted({seed % (len(data) + 1), (seed >> 8) % (len(data) + 1), (seed >> 16) % (len(data) + 1)})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def run(data: bytes) -> Hashable:
    """Whole and in pieces it means the same; requests are within the limits; the twin agrees where it has a view."""
    whole, pieces = Served(), Served()
    sent = whole.take([data])
    assert pieces.take(_cut(data)) == sent
    seen = [_plain(entry) for entry in whole.seen]
    assert [_plain(entry) for entry in pieces.seen] == seen
    assert sent.count(b"HTTP/1.1 ") == len(seen), "each is answered once"
    for entry in whole.seen:
        if isinstance(entry, Request):
            assert entry.method in ("GET", "HEAD")
            assert 0 < len(entry.raw_target) <= 8192
            assert not set(entry.raw_target) & set(b" \r\n\t\0")
            for value in (entry.range, entry.if_range, entry.token):
                assert value is None or not set(value) & set(b"\r\n\0")
    expected = twin.read(data)
    assert expected is None or expected == seen, f"the twin reads {expected}, not {seen}"
    return tuple(
        (entry.status, entry.message) if isinstance(entry, Refusal)
        else (entry.method, entry.range is None, entry.if_range is None, entry.keep_alive, entry.token is None)
        for entry in whole.seen[:4]
    ), min(len(whole.seen), 40), expected is None  # fmt: skip
