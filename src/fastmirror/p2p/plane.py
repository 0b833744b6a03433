"""The router's end of the socket to the data plane."""

from __future__ import annotations

import socket
from collections import deque
from typing import Self

import msgspec
import trio

from fastmirror.inventory import bridge


class Plane:
    """Messages from the data plane by iterating; :meth:`send` puts one to it. Ends when the data plane is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._splitter = bridge.Splitter()
        self._bodies: deque[bytes] = deque()
        self._queue: deque[bytes] = deque()
        self._news = trio.Event()

    def send(self, message: bridge.FromRouter) -> None:
        """Put a message into the queue that :meth:`write` sends."""
        self._queue.append(bridge.encode(message))
        self._news.set()

    async def write(self) -> None:
        """Send what is put until the data plane is gone or this is cancelled."""
        while True:
            while self._queue:
                data = b"".join(self._queue)
                self._queue.clear()
                await self._stream.send_all(data)
            self._news = trio.Event()
            await self._news.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bridge.ToRouter:
        while not self._bodies:
            try:
                data = await self._stream.receive_some(1 << 16)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise StopAsyncIteration
            self._bodies.extend(self._splitter.feed(bytes(data)))
        try:
            return bridge.to_router(self._bodies.popleft())
        except msgspec.DecodeError:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Close the socket."""
        self._stream.socket.close()
