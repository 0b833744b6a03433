"""Sends what a case says over one connection and records everything that comes back, and how it ended."""

from __future__ import annotations

import re
import select
import socket
import time
from dataclasses import dataclass, field

from tests.catalogue.cases import Case
from tests.kit.wire import Address, End

LATEST = 14.0  # seconds until an answer or an end must have come: the header timeout that cases allow, and more
QUIET = 0.2  # seconds without a byte, after which an answer is taken for the last one
_PIECE = 1 << 20


@dataclass
class Reply:
    """One answer out of the bytes received."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes
    complete: bool

    @property
    def headers(self) -> dict[str, str]:
        """Fields by lower-case name, the first of each."""
        result: dict[str, str] = {}
        for name, value in self.fields:
            result.setdefault(name.lower(), value)
        return result


@dataclass
class Outcome:
    """What came back for one case."""

    methods: list[str]
    received: bytes = b""
    end: End = End.KEPT
    late: bool = False
    first_byte_ms: float = 0.0
    replies: list[Reply] = field(default_factory=list)
    informational: int = 0
    rest: bytes = b""
    rss_growth_kib: int = 0
    usable: bool | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The status of the first final answer; 0 if there was none."""
        return self.replies[0].status if self.replies else 0


def methods_in(payload: bytes) -> list[str]:
    """The methods of the requests in the bytes, as far as a simple reader sees them."""
    return [match[1].decode() for match in re.finditer(rb"(?:^|\n)([A-Z]+) [^\r\n]* HTTP/", payload[:2_000_000])]


def parse(outcome: Outcome) -> None:
    """Cut the received bytes into answers; what is left over goes to ``rest``."""
    outcome.replies, outcome.informational, at = [], 0, 0
    data = outcome.received
    while (end := data.find(b"\r\n\r\n", at)) >= 0:
        lines = data[at:end].decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) (.*)", lines[0])
        if match is None:
            break
        at = end + 4
        status = int(match[1])
        if status < 200:
            outcome.informational += 1
            continue
        pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        number = len(outcome.replies)
        method = outcome.methods[number] if number < len(outcome.methods) else "GET"
        length = next((value for name, value in pairs if name.lower() == "content-length"), "0")
        count = 0 if method == "HEAD" or not length.isdecimal() else int(length)
        body = data[at : at + count]
        at += count
        outcome.replies.append(Reply(status, match[2], pairs, body, len(body) == count))
    outcome.rest = data[at:]


class _Talk:
    """The sending and receiving of one exchange, with a deadline on everything."""

    def __init__(self, case: Case, sock: socket.socket, payload: bytes) -> None:
        self.case = case
        self.sock = sock
        self.payload = payload
        self.sent = 0
        self.outcome = Outcome(methods_in(payload))
        self.began = self.last = time.monotonic()
        self.pieces: list[bytes] = []
        self.wanted = max(case.answers, case.answers_or_close, 1)

    def run(self) -> Outcome:
        """Talk until the connection ends, or the answers have come and nothing follows, or it is too late."""
        half_closed = False
        while not self._over():
            sending = self.sent < len(self.payload)
            if not sending and self.case.halfclose and not half_closed:
                half_closed = True
                self.sock.shutdown(socket.SHUT_WR)
            readable, writable, _ = select.select([self.sock], [self.sock] if sending else [], [], 0.05)
            if writable:
                self._send()
            if readable and not self._receive():
                break
        self.outcome.received = b"".join(self.pieces)
        parse(self.outcome)
        return self.outcome

    def _over(self) -> bool:
        now = time.monotonic()
        if now - self.began > LATEST:
            self.outcome.late = True
            return True
        if self.sent < len(self.payload) or self.case.closes or not self.pieces or now - self.last < QUIET:
            return False
        self.outcome.received = b"".join(self.pieces)
        parse(self.outcome)
        replies = self.outcome.replies
        return len(replies) >= self.wanted and all(reply.complete for reply in replies)

    def _send(self) -> None:
        try:
            self.sent += self.sock.send(self.payload[self.sent : self.sent + self.case.piece])
        except BlockingIOError:
            return
        except ConnectionError:
            self.sent = len(self.payload)  # reading tells how the connection ended

    def _receive(self) -> bool:
        try:
            piece = self.sock.recv(_PIECE)
        except BlockingIOError:
            return True
        except ConnectionError:
            self.outcome.end = End.RST
            return False
        if not piece:
            self.outcome.end = End.FIN
            return False
        self.last = time.monotonic()
        if not self.pieces:
            self.outcome.first_byte_ms = (self.last - self.began) * 1000
        self.pieces.append(piece)
        return True


def exchange(case: Case, address: Address, payload: bytes) -> Outcome:
    """Run one case on a connection of its own. A server that cannot be reached is an outcome with a problem."""
    try:
        sock = socket.create_connection(address, timeout=10)
    except OSError as error:
        return Outcome([], problems=[f"cannot connect: {error}"])
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        outcome = _Talk(case, sock, payload).run()
        if case.usable:
            outcome.usable = _still_answers(sock)
    return outcome


def _still_answers(sock: socket.socket) -> bool:
    sock.settimeout(LATEST)
    try:
        sock.sendall(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n")
        return sock.recv(_PIECE).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False
