"""Requests to peers over kept connections. A peer's failure is a PeerOutcome, never an exception.

Nothing of a client's request is passed on: what goes out is written here. Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from fastmirror import __version__
from fastmirror.config import FetchSettings
from fastmirror.http.body import Body, Connected
from fastmirror.http.intake import Intake
from fastmirror.http.outcome import PeerOutcome
from fastmirror.http.resolve import Place, Resolver
from fastmirror.http.response import Ask, Head, HeadReader, part_of, refusal

IDLE_SECONDS: Final = 30.0  # shorter than a fastmirror's own idle timeout, so that it is us who end a connection
IDLE_PER_PEER: Final = 32
ASKING_PER_PEER: Final = 32  # HEADs at a time; with the bodies this stays below a peer's cap per address
_RECEIVE: Final = 16 * 1024

_TOLD: Final = frozenset({b"content-length", b"content-range", b"content-encoding", b"transfer-encoding"})

Address = tuple[str, int]

log = logging.getLogger(__name__)


class _Answer(NamedTuple):
    sock: socket.socket
    head: Head
    rest: bytes


class _Idle(NamedTuple):
    sock: socket.socket
    since: float


class PeerClient:
    """Asks peers. Owns its connections until :meth:`close`, except those that a Body has.

    ``token`` gives what a peer wants to see of us in Fastmirror-Token; empty: nothing.
    """

    def __init__(self, settings: FetchSettings, intake: Intake) -> None:
        self._settings = settings
        self._patient = msgspec.structs.replace(settings, min_rate=1)
        self._intake = intake
        self._loop = asyncio.get_running_loop()
        self._resolver = Resolver()
        self._idle: dict[Address, list[_Idle]] = {}
        self._turns: dict[Address, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(ASKING_PER_PEER))
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self.token: Callable[[Address], bytes] = lambda _: b""

    async def head(
        self, address: Address, target: str, seconds: float, *, any_status: bool = False
    ) -> Head | PeerOutcome:
        """HEAD ``target``: the head of a 200 (``any_status``: of every answer), or how the request ended, within
        ``seconds``.

        LEFT if our own requests to this peer took all the time. Cancel: the connection is closed.
        """
        deadline = self._loop.time() + seconds
        turn = self._turns[address]
        try:
            async with asyncio.timeout_at(deadline if turn.locked() else None):
                await turn.acquire()
        except TimeoutError:
            return PeerOutcome.LEFT
        try:
            if self._loop.time() >= deadline:
                return PeerOutcome.LEFT
            answer = await self._exchange(address, self._request("HEAD", address, target), deadline)
        finally:
            turn.release()
        if isinstance(answer, PeerOutcome):
            return answer
        outcome = None if answer.head.status == 200 else refusal(answer.head)
        self._leave(address, answer, answer.rest == b"" and outcome is not PeerOutcome.GARBLED)
        return answer.head if any_status else outcome or answer.head

    def _request(self, method: str, address: Address, target: str, *fields: str) -> bytes:
        host, port = address
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        ours = (f"Host: {where}", f"User-Agent: fastmirror/{__version__}", "Accept: */*")
        token = self.token(address)
        if token:
            fields = (*fields, f"Fastmirror-Token: {token.hex()}")
        head = (f"{method} {target} HTTP/1.1", *ours, *fields)
        return ("\r\n".join(head) + "\r\n\r\n").encode("ascii")

    async def resolve(self, address: Address) -> None:
        """Find out where a name leads, if that is not known. Cancel: the look-up goes on."""
        await self._resolver.places(*address)

    async def open(self, address: Address, ask: Ask, *, slow: bool = False) -> Body | PeerOutcome:
        """GET what ``ask`` says: a body that is exactly that, or how the request ended.

        Connecting takes at most ``connect_timeout``, the head then ``first_byte_timeout``. A body that may be ``slow``
        need not keep to ``min_rate``. The caller closes the body. Cancel: the connection is closed.
        """
        fields = () if ask.span is None else (f"Range: bytes={ask.span.start}-{ask.span.stop - 1}",)
        answer = await self._exchange(address, self._request("GET", address, ask.target, *fields), None)
        if isinstance(answer, PeerOutcome):
            return answer
        part = part_of(answer.head, ask)
        if isinstance(part, PeerOutcome):
            if part is PeerOutcome.GARBLED:
                log.debug("an answer is not what was asked for", extra=_described(address, ask, answer.head))
            whole = part is not PeerOutcome.GARBLED and len(answer.rest) == answer.head.length
            self._leave(address, answer, whole)
            return part
        keep: Callable[[socket.socket], None] | None = None
        if answer.head.keep_alive:
            keep = lambda sock: self._keep(address, sock)  # noqa: E731
        settings = self._patient if slow else self._settings
        return Body(part, Connected(answer.sock, answer.rest, keep), self._intake, settings)

    async def close(self) -> None:
        """End all kept connections; those in use end when they are given back. Idempotent."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for kept in self._idle.values():
            for idle in kept:
                self._end(idle)
        self._idle.clear()
        await self._resolver.close()

    # ---- one exchange

    async def _exchange(self, address: Address, request: bytes, deadline: float | None) -> _Answer | PeerOutcome:
        """Send a request on a kept connection or a new one and read the head of its answer."""
        while (kept := self._take(address)) is not None:
            answer = await self._talk(kept, request, self._answer_by(deadline))
            if answer is not None:
                return answer
            # The peer ended the connection as the request was under way: RFC 9112 section 9.3.1 lets us repeat it.
        sock = await self._connect(address, deadline)
        if isinstance(sock, PeerOutcome):
            return sock
        return await self._talk(sock, request, self._answer_by(deadline)) or PeerOutcome.UNREACHABLE

    def _answer_by(self, deadline: float | None) -> float:
        soonest = self._loop.time() + self._settings.first_byte_timeout
        return soonest if deadline is None else min(deadline, soonest)

    async def _talk(self, sock: socket.socket, request: bytes, deadline: float) -> _Answer | PeerOutcome | None:
        """The answer, or how it failed; None if the connection ended before a byte of it. Owns the socket if so."""
        reader = HeadReader()
        outcome: PeerOutcome | None = None
        late = False
        try:
            if sock.send(request) < len(request):
                outcome = PeerOutcome.STALLED  # not even a request fits: nothing has been read there for long
            while outcome is None:
                try:
                    data = sock.recv(_RECEIVE)
                except BlockingIOError:
                    if late:
                        outcome = PeerOutcome.STALLED
                        break
                    # Late, but look once more: it may be this process that was late.
                    late = not await self._ready(self._loop.add_reader, self._loop.remove_reader, sock, deadline)
                    continue
                if not data:
                    break
                head = reader.feed(data)
                if isinstance(head, Head):
                    return _Answer(sock, head, reader.rest)
                outcome = head
        except OSError:
            pass  # reset: the same as an early end
        except BaseException:
            sock.close()
            raise
        sock.close()
        return outcome or (PeerOutcome.TRUNCATED if reader.begun else None)

    async def _connect(self, address: Address, deadline: float | None) -> socket.socket | PeerOutcome:
        limit = self._loop.time() + self._settings.connect_timeout
        deadline = limit if deadline is None else min(deadline, limit)
        places: list[Place] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                places = await self._resolver.places(*address)
        for index, place in enumerate(places):
            now = self._loop.time()
            share = now + (deadline - now) / (len(places) - index)
            try:
                sock = await self._dial(place, share)
            except OSError:
                return PeerOutcome.LEFT  # no descriptors: not the peer's fault
            if sock is not None:
                return sock
        return PeerOutcome.UNREACHABLE

    async def _dial(self, place: Place, deadline: float) -> socket.socket | None:
        """A connected socket, or None. Raises OSError if this process has no socket left."""
        sock = socket.socket(place.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            failure = sock.connect_ex(place.address)
            if failure == errno.EINPROGRESS:
                await self._ready(self._loop.add_writer, self._loop.remove_writer, sock, deadline)
                failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or _unconnected(sock)
        except BaseException:
            sock.close()
            raise
        if failure:
            sock.close()
            return None
        return sock

    async def _ready(
        self, arm: Callable[..., Any], disarm: Callable[[int], Any], sock: socket.socket, deadline: float
    ) -> bool:
        """Wait until the socket is readable or writable; False if it is not by ``deadline``."""
        future: asyncio.Future[bool] = self._loop.create_future()
        arm(sock.fileno(), _settle, future, True)
        timer = self._loop.call_at(deadline, _settle, future, False)
        try:
            return await future
        finally:
            timer.cancel()
            disarm(sock.fileno())

    # ---- kept connections

    def _leave(self, address: Address, answer: _Answer, clean: bool) -> None:
        """Give back a connection whose answer is over; ``clean`` if nothing of it can still come."""
        if clean and answer.head.keep_alive:
            self._keep(address, answer.sock)
        else:
            answer.sock.close()

    def _keep(self, address: Address, sock: socket.socket) -> None:
        kept = self._idle.setdefault(address, [])
        if self._closed or len(kept) >= IDLE_PER_PEER:
            sock.close()
            return
        idle = _Idle(sock, self._loop.time())
        kept.append(idle)
        # A peer that ends the connection waits for our end: at once, so that its shutdown need not wait.
        self._loop.add_reader(sock.fileno(), self._spoke, address, idle)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(IDLE_SECONDS, self._sweep)

    def _take(self, address: Address) -> socket.socket | None:
        """The connection that was used last, if there is one that is still open and silent."""
        kept = self._idle.get(address)
        while kept:
            sock = kept.pop().sock
            self._loop.remove_reader(sock.fileno())
            try:
                sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return sock
            except OSError:
                pass
            sock.close()  # ended by the peer, or it says something that was not asked
        return None

    def _spoke(self, address: Address, idle: _Idle) -> None:
        """An idle connection ended, or says something that was not asked."""
        self._end(idle)
        self._idle[address].remove(idle)

    def _end(self, idle: _Idle) -> None:
        self._loop.remove_reader(idle.sock.fileno())
        idle.sock.close()

    def _sweep(self) -> None:
        oldest = self._loop.time() - IDLE_SECONDS
        for address, kept in list(self._idle.items()):
            for idle in kept:
                if idle.since <= oldest:
                    self._end(idle)
            kept[:] = [idle for idle in kept if idle.since > oldest]
            if not kept:
                del self._idle[address]
        self._sweeper = self._loop.call_later(IDLE_SECONDS / 2, self._sweep) if self._idle else None


def _described(address: Address, ask: Ask, head: Head) -> dict[str, object]:
    """What a log line says of an answer: of its fields only those that made it one to be refused."""
    fields = {name.decode("latin-1"): head.fields[name].decode("latin-1")[:80] for name in _TOLD & head.fields.keys()}
    peer = f"{address[0]}:{address[1]}"
    return {"event": "http.answer_refused", "peer": peer, "status": head.status, "span": ask.span, "fields": fields}


def _settle(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)


def _unconnected(sock: socket.socket) -> int:
    """0 if the socket is connected, else why we gave up on it."""
    try:
        sock.getpeername()
    except OSError:
        return errno.ETIMEDOUT
    return 0
