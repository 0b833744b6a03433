"""One endpoint with real sockets and bodies around it, for the tests of the connection."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable

from fastmirror._native.connection import Connection
from fastmirror._native.endpoint import Endpoint, Pace, Reply, Senders
from fastmirror._native.requests import Request
from fastmirror.http.message import head
from fastmirror.mirror.answers import refusal_reply


class File:
    """A FileBody over a temporary file whose frontier the test moves."""

    def __init__(self, content: bytes, ready: int | None = None) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self.file.write(content)
        self.file.flush()
        self.ready = len(content) if ready is None else ready
        self.ended = False
        self.waiter: Callable[[], None] | None = None
        self.waited = asyncio.Event()
        self.closed = asyncio.Event()

    def fileno(self) -> int:
        return self.file.fileno()

    def available(self, position: int) -> int:
        return -1 if self.ended and position >= self.ready else self.ready - position

    def wait(self, position: int, wake: Callable[[], None]) -> None:
        self.waiter = wake
        self.waited.set()

    def move(self, ready: int) -> None:
        self.ready = ready
        self.wake()

    def end(self) -> None:
        self.ended = True
        self.wake()

    def wake(self) -> None:
        waiter, self.waiter = self.waiter, None
        self.waited.clear()
        if waiter is not None:
            waiter()

    def close(self) -> None:
        assert not self.closed.is_set(), "a body is closed once"
        self.waiter = None
        self.file.close()
        self.closed.set()


class Rig:
    """One endpoint and client sockets connected to it; ``answer`` is set by the test."""

    def __init__(self, senders: str = "loop") -> None:
        self.loop = asyncio.get_running_loop()
        self.senders = None if senders == "loop" else Senders(self.loop, 3, senders == "cold")
        self.answer: Callable[[Request], Reply | Awaitable[Reply]] = lambda request: Reply(head(404))
        self.requests: list[Request] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.closed: list[Connection] = []
        self.gone = asyncio.Event()
        self.pace = Pace()
        self.endpoint = Endpoint(
            self.loop, self._answer, self._spawn, refusal_reply, self._closed, self.pace, self.senders
        )
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.clients: list[socket.socket] = []
        self.served: dict[socket.socket, int] = {}  # the other end of each client, owned by its connection

    def _answer(self, request: Request) -> Reply | Awaitable[Reply]:
        self.requests.append(request)
        return self.answer(request)

    def _spawn(self, answer: Awaitable[Reply], connection: Connection) -> asyncio.Task[None]:
        async def run() -> None:
            connection.deliver(await answer)

        task = self.loop.create_task(run())
        self.tasks.append(task)
        return task

    def _closed(self, connection: Connection) -> None:
        self.closed.append(connection)
        self.gone.set()

    def connect(self, receive_buffer: int = 0) -> tuple[socket.socket, Connection]:
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(self.listener.getsockname())
        client.setblocking(False)
        served, _ = self.listener.accept()
        served.setblocking(False)
        self.clients.append(client)
        fd = self.served[client] = served.detach()
        return client, Connection(self.endpoint, fd, "127.0.0.1")

    async def send(self, client: socket.socket, data: bytes) -> None:
        await self.loop.sock_sendall(client, data)

    async def read_to_end(self, client: socket.socket) -> bytes:
        received = bytearray()
        while piece := await self.loop.sock_recv(client, 1 << 20):
            received += piece
        return bytes(received)

    async def read(self, client: socket.socket, count: int) -> bytes:
        received = bytearray()
        while len(received) < count:
            piece = await self.loop.sock_recv(client, count - len(received))
            assert piece, f"the connection ended after {len(received)} of {count} bytes"
            received += piece
        return bytes(received)

    async def read_head(self, client: socket.socket) -> bytes:
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += await self.read(client, 1)
        return received

    def end(self) -> None:
        for connection in list(self.endpoint.connections):
            connection.close()
        if self.senders is not None:
            self.senders.close()
        for client in self.clients:
            client.close()
        self.listener.close()


def file_reply(body: File, start: int = 0, stop: int | None = None, **more: object) -> Reply:
    stop = os.fstat(body.fileno()).st_size if stop is None else stop
    return Reply(head(200, f"Content-Length: {stop - start}"), body=body, start=start, stop=stop, **more)  # type: ignore[arg-type]
