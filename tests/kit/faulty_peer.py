"""A faulty mirror on loopback: it offers content, and breaks its answers in named ways, chosen per request.

One thread per connection. What a peer may be asked is a pull over HTTP/1.1: HEAD or GET of a manifest or a blob.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import Self

from fastmirror._native.check import piece_hash
from fastmirror.chunks.chunklist import ALGORITHMS, PIECE, Shape, encode
from tests.kit.faults import Fault, Plan, Seen, healthy
from tests.kit.wire import Address

_TARGET = re.compile(r"/v2/(?P<name>.*)/(?P<kind>manifests|blobs)/(?P<reference>[^/?]+)")
_PIECE = 65536
_PATIENCE = 60.0  # seconds that a silent or stalled answer stays open at most: longer than any deadline of a node


class FaultyPeer:
    """A mirror of the given blobs. ``requests`` records what it was asked; ``plan`` may be changed while it runs.

    ``head_delay``: seconds before a HEAD is answered, so that others are found first. ``pace``: bytes of a body per
    second, 0 for as many as go through. ``list_of``: gives, for some content, that of which it tells the piece hashes;
    None: it tells none. ``list_delay``: seconds before it does, ``list_pause``: between the bytes of a list.

    Owned by a ``with`` block: leaving it closes every connection and joins every thread.
    ``listening=False`` binds the port without listening: connecting is refused.
    """

    def __init__(
        self, blobs: Iterable[bytes], plan: Plan = healthy, *, host: str = "127.0.0.1", listening: bool = True
    ) -> None:
        self.plan = plan
        self.requests: list[Seen] = []
        self.sent = 0
        self.head_delay = 0.0
        self.pace = 0.0
        self.list_of: Callable[[bytes], bytes] | None = None
        self.list_requests: list[str] = []
        self.list_delay = 0.0
        self.list_pause = 0.0
        self._content = {"sha256:" + hashlib.sha256(blob).hexdigest(): blob for blob in blobs}
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._frozen = threading.Event()
        self._lock = threading.Lock()
        self._acceptor: threading.Thread | None = None
        self._listener = socket.socket()
        self._listener.bind((host, 0))
        self.address: Address = self._listener.getsockname()
        if listening:
            self._listener.listen(128)
            self._acceptor = threading.Thread(target=self._accept, name="faulty peer", daemon=True)
            self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.die()

    def drop(self) -> None:
        """End all connections, and whatever answer is going on; new ones are accepted."""
        self._ended.set()
        self._hang_up()
        self._ended.clear()

    def die(self) -> None:
        """Like a process that is killed: all connections end, new ones are refused."""
        self._ended.set()
        _wake(self._listener)
        if self._acceptor is not None:
            self._acceptor.join(10)
        self._listener.close()
        self._hang_up()

    def freeze(self) -> None:
        """Like a process that is stopped: the kernel goes on accepting, and nothing more is sent."""
        self._frozen.set()

    def _hang_up(self) -> None:
        for sock in tuple(self._open):
            _wake(sock)
        with self._lock:
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive(), "a connection of the faulty peer did not end"

    def __str__(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def gets(self, reference: str = "") -> list[Seen]:
        """The GETs so far, of one digest or of all."""
        return [r for r in list(self.requests) if r.method == "GET" and reference in r.reference]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), name="faulty peer", daemon=True)
            with self._lock:
                thread.start()
                self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    piece = sock.recv(_PIECE)
                    if not piece:
                        return
                    data += piece
                head, _, data = data.partition(b"\r\n\r\n")
                text = head.decode("latin-1")
                if (target := text.split(" ")[1]).startswith("/fastmirror/"):
                    self._list_answer(sock, target)
                elif not self._answer(sock, self._record(text)):
                    return
        except OSError:
            return  # the other side has left, or the test is over
        finally:
            self._open.discard(sock)
            sock.close()

    def _record(self, head: str) -> Seen:
        lines = head.split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        match = _TARGET.match(target)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        with self._lock:
            number = sum(1 for r in self.requests if r.method == "GET")
            seen = Seen(
                method, target, match["reference"] if match else "", int(asked[1]) if asked else None, number, headers,
                int(asked[2]) + 1 if asked and asked[2] else None,
            )  # fmt: skip
            self.requests.append(seen)
        return seen

    def _answer(self, sock: socket.socket, seen: Seen) -> bool:
        """Send one answer; False if the connection is to end."""
        self._stay_frozen()
        content = self._content.get(seen.reference.replace("%3A", ":"))
        if seen.method == "HEAD":
            self._ended.wait(self.head_delay)
        fault = self.plan(seen)
        if fault is not None and (early := _EARLY.get(fault.kind)) is not None:
            return early(self, sock, fault)
        if content is None:
            return self._error(sock, 404, "Connection: keep-alive") if seen.reference else self._ping(sock, seen)
        if fault is not None and fault.kind == "slow_first_byte":
            self._ended.wait(fault.pause)
        return self._content_answer(sock, seen, content, fault)

    def _list_answer(self, sock: socket.socket, target: str) -> None:
        self._stay_frozen()
        self.list_requests.append(target)
        self._ended.wait(self.list_delay)
        match = re.fullmatch(r"/fastmirror/v1/chunks/(.*)\?algorithm=(.*)", target)
        content = self._content.get(match[1]) if match else None
        if match is None or content is None or self.list_of is None:
            self._error(sock, 404, "Connection: keep-alive")
            return
        algorithm = ALGORITHMS[match[2]]
        told = self.list_of(content)
        pieces = [told[at : at + PIECE] for at in range(0, len(told), PIECE)]
        body = encode(Shape(len(told), algorithm), [piece_hash(piece, algorithm.name) for piece in pieces])
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        at_once = 1 if self.list_pause else len(body)
        for position in range(0, len(body), at_once):
            sock.sendall(body[position : position + at_once])
            if self.list_pause and self._ended.wait(self.list_pause):
                return

    def _ping(self, sock: socket.socket, seen: Seen) -> bool:
        code = 200 if seen.target.partition("?")[0] in ("/v2/", "/v2") else 404
        return self._error(sock, code, "Connection: keep-alive")

    def _error(self, sock: socket.socket, code: int, field: str) -> bool:
        sock.sendall(f"HTTP/1.1 {code} X\r\n{field}\r\nContent-Length: 0\r\n\r\n".encode())
        return True

    def _content_answer(self, sock: socket.socket, seen: Seen, content: bytes, fault: Fault | None) -> bool:
        kind = fault.kind if fault else ""
        at, amount = (fault.at, fault.amount) if fault else (0, 0)
        size, start, stop = len(content), 0, len(content)
        code, fields = 200, ["Content-Type: application/octet-stream", f"Docker-Content-Digest: {seen.reference}"]
        if kind == "corrupt":
            where = at % size
            content = flip(content, where)
        if kind == "unasked_range":
            start, code = size // 2, 206
        elif seen.start is not None and kind != "no_range":
            start, stop, code = seen.start, min(size, seen.stop or size), 206
        if start >= size and code == 206:
            return self._error(sock, 416, f"Content-Range: bytes */{size}")
        if code == 206:
            told = start + (amount if kind == "wrong_range" else 0)
            fields.append(f"Content-Range: bytes {told}-{stop - 1}/{size}")
        body = content[start:stop]
        if kind == "wrong_length":
            body = body + b"z" * amount if amount > 0 else body[:amount]
        if kind == "encoded":
            fields.append("Content-Encoding: gzip")
        length = len(body) + (amount if kind == "promised_length" else 0)
        fields.append("Transfer-Encoding: chunked" if kind == "chunked" else f"Content-Length: {length}")
        sock.sendall("\r\n".join((f"HTTP/1.1 {code} OK", *fields, "", "")).encode())
        if seen.method == "HEAD":
            return True
        return _BODIES.get(kind, FaultyPeer._plain)(self, sock, body, fault or Fault("plain"))

    def _stay_frozen(self) -> None:
        if self._frozen.is_set():
            self._ended.wait(_PATIENCE)
            raise ConnectionAbortedError

    # ---- bodies: each sends one, and says whether the connection goes on

    def _send(self, sock: socket.socket, data: bytes) -> None:
        for position in range(0, len(data), _PIECE):
            piece = data[position : position + _PIECE]
            self._stay_frozen()
            sock.sendall(piece)
            self.sent += len(piece)
            if self.pace:
                self._ended.wait(len(piece) / self.pace)

    def _plain(self, sock: socket.socket, body: bytes, fault: Fault) -> bool:
        self._send(sock, body)
        return fault.kind != "promised_length"

    def _truncate(self, sock: socket.socket, body: bytes, fault: Fault) -> bool:
        self._send(sock, body[: fault.at])
        return False

    def _reset(self, sock: socket.socket, body: bytes, fault: Fault) -> bool:
        self._send(sock, body[: fault.at])
        time.sleep(0.05)  # a reset throws away what the receiver has not read yet; let it read
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def _stall(self, sock: socket.socket, body: bytes, fault: Fault) -> bool:
        self._send(sock, body[: fault.at])
        self._ended.wait(_PATIENCE)
        return False

    def _drip(self, sock: socket.socket, body: bytes, fault: Fault) -> bool:
        for position in range(0, len(body), fault.amount):
            self._send(sock, body[position : position + fault.amount])
            if self._ended.wait(fault.pause):
                return False
        return True

    def _extra(self, sock: socket.socket, body: bytes, fault: Fault) -> bool:
        self._send(sock, body + b"z" * fault.amount)
        return True

    def _chunked(self, sock: socket.socket, body: bytes, fault: Fault) -> bool:
        for position in range(0, len(body), _PIECE):
            piece = body[position : position + _PIECE]
            self._send(sock, b"%x\r\n%b\r\n" % (len(piece), piece))
        sock.sendall(b"0\r\n\r\n")
        return True

    # ---- answers that do not depend on the content

    def _never(self, sock: socket.socket, fault: Fault) -> bool:
        if fault.kind == "half_status":
            sock.sendall(b"HTTP/1.1 2")
        self._ended.wait(_PATIENCE)
        return False

    def _refused(self, sock: socket.socket, fault: Fault) -> bool:
        if fault.kind == "redirect":
            return self._error(sock, 302, f"Location: {fault.text}")
        if fault.kind == "unauthorized":
            return self._error(sock, 401, f'WWW-Authenticate: Bearer realm="{fault.text}",service="x",scope="y"')
        return self._error(sock, fault.at, "Retry-After: 1")

    def _bomb(self, sock: socket.socket, fault: Fault) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\n")
        if fault.kind == "header_bomb":
            sock.sendall(b"X-Long: " + b"a" * fault.amount + b"\r\n")
        else:
            sock.sendall(b"".join(b"X-%d: a\r\n" % number for number in range(fault.amount)))
        sock.sendall(b"Content-Length: 0\r\n\r\n")
        return True

    def _garbage(self, sock: socket.socket, fault: Fault) -> bool:
        sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff\r\n\r\n")
        return False


def flip(content: bytes, at: int) -> bytes:
    """The content with another byte at this offset."""
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


_BODIES: dict[str, Callable[[FaultyPeer, socket.socket, bytes, Fault], bool]] = {
    "truncate": FaultyPeer._truncate,
    "reset": FaultyPeer._reset,
    "stall": FaultyPeer._stall,
    "drip": FaultyPeer._drip,
    "extra": FaultyPeer._extra,
    "chunked": FaultyPeer._chunked,
}
_EARLY: dict[str, Callable[[FaultyPeer, socket.socket, Fault], bool]] = {
    "silent": FaultyPeer._never,
    "half_status": FaultyPeer._never,
    "redirect": FaultyPeer._refused,
    "unauthorized": FaultyPeer._refused,
    "status": FaultyPeer._refused,
    "header_bomb": FaultyPeer._bomb,
    "many_headers": FaultyPeer._bomb,
    "garbage": FaultyPeer._garbage,
}


def _wake(sock: socket.socket) -> None:
    """Make a thread that waits on the socket return."""
    with contextlib.suppress(OSError):  # already ended
        sock.shutdown(socket.SHUT_RDWR)
