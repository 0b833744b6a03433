"""A client's end of one TCP connection: bytes out, answers in, and how it ended. Source: RFC 9112."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import time
from typing import NamedTuple, Self

Address = tuple[str, int]

_PIECE = 1 << 18


class End(enum.Enum):
    """How the other side left the connection."""

    KEPT = "kept open"
    FIN = "ended by FIN"
    RST = "ended by RST"


class Answer(NamedTuple):
    """One response as it came over the wire. ``body`` is what arrived of it; ``complete`` says if that was all."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    complete: bool
    end: End
    seconds: float

    @property
    def headers(self) -> dict[str, str]:
        """The fields by lower-case name; AssertionError if one came twice."""
        result = {name.lower(): value for name, value in self.fields}
        assert len(result) == len(self.fields), f"a header field came twice: {self.fields}"
        return result


class NoAnswer(AssertionError):
    """The connection ended, or the deadline passed, before a response head was whole."""

    def __init__(self, text: str, end: End) -> None:
        super().__init__(text)
        self.end = end


def parse_address(text: str) -> Address:
    """``host:port`` as a socket address."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def build_request(method: str, target: str, **fields: str) -> bytes:
    """A request head; underscores in the names of ``fields`` stand for dashes."""
    lines = [f"{method} {target} HTTP/1.1", "Host: mirror"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Wire:
    """One connection. Every wait is bounded by ``timeout`` seconds (since the last byte) and then fails the test."""

    def __init__(self, address: Address, *, receive_buffer: int = 0, timeout: float = 20.0, source: str = "") -> None:
        self.sock = socket.socket()
        self.buffer = bytearray()
        self.end = End.KEPT
        try:
            self.sock.settimeout(timeout)
            if receive_buffer:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source:
                self.sock.bind((source, 0))
            self.sock.connect(address)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            self.sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send all of it; whether the other side has left meanwhile is for the reading to tell."""
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(data)

    def ask(self, method: str, target: str, **fields: str) -> Answer:
        """Send one request and read its answer."""
        self.send(build_request(method, target, **fields))
        return self.answer(method)

    def fill(self, at_least: int) -> bool:
        """Read until the buffer has ``at_least`` bytes; False if the connection ended before."""
        while len(self.buffer) < at_least:
            if self.end is not End.KEPT:  # after a RST the socket would read like one that was ended by FIN
                return False
            try:
                piece = self.sock.recv(_PIECE)
            except ConnectionResetError:
                self.end = End.RST
                return False
            except TimeoutError:
                raise AssertionError(f"no byte for {self.sock.gettimeout()} s, {len(self.buffer)} waiting") from None
            if not piece:
                self.end = End.FIN
                return False
            self.buffer += piece
        return True

    def take(self, count: int) -> bytes:
        """Remove up to ``count`` bytes from the front of the buffer."""
        piece = bytes(self.buffer[:count])
        del self.buffer[:count]
        return piece

    def head(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        """Read one response head: its status and fields. Raises NoAnswer if the connection ends before."""
        while (at := self.buffer.find(b"\r\n\r\n")) < 0:
            if not self.fill(len(self.buffer) + 1):
                raise NoAnswer(f"{self.end.value} after {bytes(self.buffer[:200])!r}", self.end)
        lines = self.take(at + 4)[:-4].decode("latin-1").split("\r\n")
        version, status, _ = (lines[0] + "  ").split(" ", 2)
        assert version == "HTTP/1.1", lines[0]
        pairs = [line.partition(":") for line in lines[1:]]
        return int(status), tuple((name, value.strip()) for name, _, value in pairs)

    def answer(self, method: str = "GET") -> Answer:
        """Read one whole answer (its length must be announced), or as much of it as comes before the end."""
        began = time.monotonic()
        status, fields = self.head()
        names = {name.lower(): value for name, value in fields}
        assert "content-length" in names, f"an answer without Content-Length: {status} {fields}"
        length = 0 if method == "HEAD" else int(names["content-length"])
        complete = self.fill(length)
        return Answer(status, fields, self.take(length), complete, self.end, time.monotonic() - began)

    def rest(self) -> bytes:
        """Read what still comes until the other side ends the connection; ``end`` says how."""
        while self.fill(len(self.buffer) + 1):
            pass
        return self.take(len(self.buffer))

    def half_close(self) -> None:
        """Say that no more requests will come, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave by RST, as containerd does when it has read enough of an open-ended range."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def ask(address: Address, method: str, target: str, **fields: str) -> Answer:
    """One request on a connection of its own."""
    with Wire(address) as wire:
        return wire.ask(method, target, **fields)
