"""Listeners: accept, admit, time out and drain connections. The bytes are the business of ``_native.connection``."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from heapq import nsmallest
from typing import Final

from fastmirror._native.connection import Connection
from fastmirror._native.endpoint import Endpoint, Pace, Reply, Senders, Stats
from fastmirror._native.requests import Refusal
from fastmirror.config import ServeSettings, check
from fastmirror.errors import StartFailed
from fastmirror.http.farewell import Farewell
from fastmirror.http.limits import SLOW_RATE, Admission
from fastmirror.http.message import Answer

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
ACCEPTS_PER_TURN: Final = 64
TICK_SECONDS: Final = 0.5
RESERVE: Final = 4
_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE)
_NO_RESOURCES: Final = (*_OUT_OF_FILES, errno.ENOBUFS, errno.ENOMEM)


class Server:
    """One listener and its connections; close with :meth:`close`, which ``drain`` should precede.

    ``answer`` gets every request. ``refuse`` makes the reply for what never becomes one (a Refusal) and, with
    status 500, for an ``answer`` that raised: that is a bug in fastmirror and is logged as one.
    """

    def __init__(
        self,
        settings: ServeSettings,
        answer: Answer,
        refuse: Callable[[Refusal], Reply],
        *,
        pace: Pace,
        admission: Admission,
        senders: Senders | None = None,
    ) -> None:
        self._settings = settings
        self._answer = answer
        self._refuse = refuse
        self._admission = admission
        self._pace = pace
        self._sockets: list[socket.socket] = []
        self._deaf: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._draining = False
        self._leavers: list[Connection] = []  # chosen in this turn of accepting
        self._all_busy = False
        self._loop = asyncio.get_running_loop()
        self._farewell = Farewell()
        # Given up when descriptors run out, so that a waiting client can be accepted and turned away: left in the
        # queue it would make the listener readable for ever.
        self._reserve: list[int] = []
        self._refill()
        self.endpoint = Endpoint(self._loop, self._answer_safely, self._spawn, refuse, self._closed, pace, senders)
        self._ticker = self._loop.call_soon(self._tick)

    @property
    def stats(self) -> Stats:
        """The native counters of this listener."""
        return self.endpoint.stats

    @property
    def addresses(self) -> list[str]:
        """``HOST:PORT`` of each bound socket, with the real port."""
        return [_show(sock.getsockname()) for sock in self._sockets]

    def listen(self, address: str, setting: str, *, same_node: bool = False) -> None:
        """Bind and accept from now on; ``::`` takes IPv4 too. ``same_node`` says that the clients are on this node.

        Raises StartFailed (port taken, address not ours) that names ``setting``.
        """
        host, port = check.address(address)
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise StartFailed(f"{setting}: cannot resolve {host!r}: {error.strerror}") from None
        for family, kind, protocol, _, where in found:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            try:
                sock.bind(where)
                sock.listen(BACKLOG)
            except OSError as error:
                sock.close()
                raise StartFailed(f"{setting}: cannot listen on {address}: {_advice(error, setting, port)}") from None
            if same_node:
                _do_not_pace(sock)
            self._sockets.append(sock)
            self._loop.add_reader(sock, self._accept, sock)

    def stop_listening(self) -> None:
        """Accept no more; idempotent. Connections that wait in the kernel's queue are refused."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        self._deaf.clear()

    async def drain(self) -> None:
        """Stop listening, end idle connections, and return when the last busy one is over. Cancel: they go on."""
        self.stop_listening()
        self._draining = True
        for connection in list(self.endpoint.connections):
            connection.retire()
        await self._quiet.wait()

    async def close(self) -> None:
        """End everything: each connection by FIN; idempotent. Takes up to a second if clients were cut in their answer,
        because their input must not turn the FIN into a RST; cancel: they are closed at once.
        """
        self.stop_listening()
        self._ticker.cancel()
        for connection in list(self.endpoint.connections):
            self._dismiss(connection)
        for task in list(self._tasks):
            task.cancel()
        try:
            await self._farewell.settled()
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self._farewell.close()
            while self._reserve:
                os.close(self._reserve.pop())

    def _accept(self, sock: socket.socket) -> None:
        self._leavers.clear()
        self._all_busy = False
        for _ in range(ACCEPTS_PER_TURN):
            try:
                client, where = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_RESOURCES:
                    self._shed(sock)
                    return
                continue  # the client went away while it waited: accept(2)
            client.setblocking(False)
            self._admit(client, where[0].removeprefix("::ffff:"))

    def _admit(self, client: socket.socket, address: str) -> None:
        if not self._admission.admits(address) or (self._admission.full and not self._make_room()):
            self._farewell.dismiss(client)
            return
        self._admission.opened(address)
        self._quiet.clear()
        Connection(self.endpoint, client.detach(), address)

    def _make_room(self) -> bool:
        """End the connection that has been idle longest, else the slowest reader; False if all are busy and fast."""
        if not self._leavers and not self._all_busy:
            self._leavers = self._choose_leavers()
            self._all_busy = not self._leavers
        while self._leavers:
            leaver = self._leavers.pop()
            if leaver in self.endpoint.connections and (leaver.idle or 0 <= leaver.rate < SLOW_RATE):
                self._dismiss(leaver)
                return True
        self._admission.turned_away += 1
        return False

    def _choose_leavers(self) -> list[Connection]:
        """One look through all connections for many that come in one turn; the first to go is the last here."""
        connections = self.endpoint.connections
        idle = (connection for connection in connections if connection.idle)
        leavers = nsmallest(ACCEPTS_PER_TURN, idle, key=lambda connection: connection.since)
        if not leavers:
            slow = (connection for connection in connections if 0 <= connection.rate < SLOW_RATE)
            leavers = nsmallest(ACCEPTS_PER_TURN, slow, key=lambda connection: connection.rate)
        return leavers[::-1]

    def _dismiss(self, connection: Connection) -> None:
        """End the connection here; its client gets what it was sent so far, and FIN."""
        idle = connection.idle
        fd = connection.detach()
        if fd >= 0:
            self._farewell.dismiss(socket.socket(fileno=fd), idle=idle)

    def _shed(self, sock: socket.socket) -> None:
        """Out of descriptors: take one client with the reserve and turn it away, so that it asks elsewhere at once."""
        self._admission.turned_away += 1
        if self._reserve:
            os.close(self._reserve.pop())
        elif not self._farewell.close_oldest():
            self._loop.remove_reader(sock)  # nothing that could be given up: look again at the next tick
            self._deaf.append(sock)
            return
        with contextlib.suppress(OSError):
            self._farewell.dismiss(sock.accept()[0])

    def _refill(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._reserve) < RESERVE:
                self._reserve.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))

    def _closed(self, connection: Connection) -> None:
        self._admission.closed(connection.client)
        if not self.endpoint.connections:
            self._quiet.set()

    def _answer_safely(self, request: object) -> Reply | Awaitable[Reply]:
        try:
            return self._answer(request)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - one request's defect ends that request only
            return self._bug(error)

    def _bug(self, error: Exception) -> Reply:
        log.error("a request could not be answered", exc_info=error, extra={"event": "http.answer_failed"})
        return self._refuse(Refusal(500, "a defect in fastmirror; its log has the details", True))

    def _spawn(self, answer: Awaitable[Reply], connection: Connection) -> asyncio.Task[None]:
        task = self._loop.create_task(self._deliver(answer, connection), name="answer")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _deliver(self, answer: Awaitable[Reply], connection: Connection) -> None:
        try:
            reply = await answer
        except Exception as error:  # noqa: BLE001
            reply = self._bug(error)
        connection.deliver(reply)

    def _tick(self) -> None:
        settings = self._settings
        self.endpoint.tick(self._loop.time(), formatdate(usegmt=True).encode())
        for connection in list(self.endpoint.connections):
            connection.expire(settings.header_timeout, settings.idle_timeout)
        self._farewell.tick()
        self._refill()
        while self._deaf:
            sock = self._deaf.pop()
            self._loop.add_reader(sock, self._accept, sock)
        self._ticker = self._loop.call_later(TICK_SECONDS, self._tick)


def _advice(error: OSError, setting: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"another program has it (ss -ltnp 'sport = :{port}' shows which); stop it or set {setting}"
    if error.errno == errno.EACCES and port < 1024:
        return f"ports below 1024 need root or CAP_NET_BIND_SERVICE; set {setting} to a higher port"
    return f"{error.strerror}; set {setting} to an address of this machine"


def senders_of(settings: ServeSettings, closing: contextlib.AsyncExitStack) -> Senders | None:
    """The native threads that the settings ask for; ``closing`` ends them, after the listeners that come later."""
    if settings.send_with == "loop":
        return None
    senders = Senders(asyncio.get_running_loop(), settings.send_threads, settings.send_with == "cold")
    closing.callback(senders.close)
    return senders


def _do_not_pace(sock: socket.socket) -> None:
    """Ask for Linux's own congestion control, which accepted sockets inherit.

    BBR paces: between processes of one node that makes small segments and two to three times the CPU per byte
    (docs/decisions/0002).
    """
    with contextlib.suppress(OSError):  # not allowed here: net.ipv4.tcp_allowed_congestion_control
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")


def _show(where: tuple[str, int] | tuple[str, int, int, int]) -> str:
    return f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"
