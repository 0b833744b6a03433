"""Sockets whose connection is over, until their clients know it.

A close with unread input, or before input that is on its way, sends RST, and RST destroys what the client has not read
yet: for containerd that is an error, where a FIN is an answer. Source: RFC 1122 section 4.2.2.13, RFC 9112 section 9.6.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

SECONDS: Final = 1.0  # how long input is awaited and thrown away
BYTES: Final = 4 << 20  # and how much of it
MOST: Final = 64  # sockets at a time: more of them, and the oldest is closed

_trash = bytearray(64 * 1024)  # only the loop's thread writes it, nobody reads it


class Farewell:
    """Sends FIN, throws input away until the client's FIN, and closes; bounded in time, bytes and sockets.

    Owns the sockets given to :meth:`dismiss`; :meth:`close` ends all at once.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left: dict[socket.socket, tuple[float, int]] = {}  # until when, and how many bytes; the oldest first
        self._nobody = asyncio.Event()
        self._nobody.set()

    def __len__(self) -> int:
        return len(self._left)

    def dismiss(self, sock: socket.socket, *, idle: bool = False) -> None:
        """End this connection. An ``idle`` one, which asked for nothing, is closed at once unless input has come."""
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # the client is gone already
            sock.shutdown(socket.SHUT_WR)
        if len(self._left) >= MOST:
            self.close_oldest()
        self._left[sock] = (self._loop.time() + SECONDS, BYTES)
        self._nobody.clear()
        self._loop.add_reader(sock, self._discard, sock)
        self._discard(sock)
        if idle and self._left.get(sock, (0.0, 0))[1] == BYTES:
            self._close(sock)

    def tick(self) -> None:
        """Close what had its time; to be called now and then."""
        now = self._loop.time()
        for sock in [sock for sock, (until, _) in self._left.items() if until <= now]:
            self._close(sock)

    def close_oldest(self) -> bool:
        """Close the socket that was dismissed first; False if there is none."""
        for sock in self._left:
            self._close(sock)
            return True
        return False

    async def settled(self) -> None:
        """Wait until all are closed, by their clients or because their time is over. Cancel: they stay as they are."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                await self._nobody.wait()

    def close(self) -> None:
        """Close all at once; idempotent."""
        while self.close_oldest():
            pass

    def _discard(self, sock: socket.socket) -> None:
        until, budget = self._left[sock]
        try:
            count = sock.recv_into(_trash)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count == 0 or count > budget:
            self._close(sock)
        else:
            self._left[sock] = (until, budget - count)

    def _close(self, sock: socket.socket) -> None:
        del self._left[sock]
        self._loop.remove_reader(sock)
        sock.close()
        if not self._left:
            self._nobody.set()
