"""Accepts connections, so many at a time and from one address, that strangers cannot lock others out."""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import trio

MOST_STRANGERS: Final = 64
MOST_OF_ONE: Final = 8
"""Connections that have not shown yet who they are, in all and from one address."""

MOST_GUESTS_OF_ONE: Final = 16
"""Connections from one address, loopback excepted: one machine cannot take all places."""

_BACKLOG: Final = 256
_USER_TIMEOUT_MS: Final = 5000

Attend = Callable[[trio.SocketStream, str, Callable[[], None]], Awaitable[None]]


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ``::`` takes IPv4 too. Raises OSError: also if another process has the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Not SO_REUSEPORT, which py-libp2p sets: with it an old and a new process would share the connections.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def hold(sock: trio.socket.SocketType) -> None:
    """Let the kernel end a connection whose other side does not acknowledge any more. Source: tcp(7)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)


class Door:
    """One listener. ``attend`` gets each connection, its address, and what to call once it is no stranger any more.

    It must close the stream. ``turned_away`` counts those closed at once.
    """

    def __init__(self, listener: socket.socket, attend: Attend) -> None:
        self.turned_away = 0
        self._listener = trio.socket.from_stdlib_socket(listener)
        self._attend = attend
        self._strangers: Counter[str] = Counter()
        self._all: Counter[str] = Counter()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    async def run(self) -> None:
        """Accept until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    connection, address = await self._listener.accept()
                except OSError:  # no descriptors left, or the connection ended before it was taken
                    await trio.sleep(0.05)
                    continue
                host = str(address[0]).removeprefix("::ffff:")
                if self._is_too_much(host):
                    self.turned_away += 1
                    connection.close()
                    continue
                hold(connection)
                self._strangers[host] += 1
                self._all[host] += 1
                nursery.start_soon(self._host, trio.SocketStream(connection), host)

    def _is_too_much(self, host: str) -> bool:
        many = self._all[host] >= MOST_GUESTS_OF_ONE and not ipaddress.ip_address(host).is_loopback
        return many or self._strangers.total() >= MOST_STRANGERS or self._strangers[host] >= MOST_OF_ONE

    async def _host(self, stream: trio.SocketStream, host: str) -> None:
        stranger = True

        def known() -> None:
            nonlocal stranger
            if stranger:
                stranger = False
                _leave(self._strangers, host)

        try:
            await self._attend(stream, host, known)
        finally:
            known()
            _leave(self._all, host)


def _leave(counter: Counter[str], host: str) -> None:
    counter[host] -= 1
    if counter[host] <= 0:
        del counter[host]
