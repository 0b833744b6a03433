"""Ends that the server decides on: the client sees FIN, never RST, and nobody is waited for longer than a while."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from fastmirror._native.endpoint import Pace, Reply, Senders
from fastmirror._native.requests import Request
from fastmirror.config import ServeSettings, check
from fastmirror.http import farewell as farewell_module
from fastmirror.http.farewell import Farewell
from fastmirror.http.limits import Admission
from fastmirror.http.message import head
from fastmirror.http.server import Server
from fastmirror.mirror.answers import refusal_reply
from tests.kit.fetching import until
from tests.native.serving import File, file_reply

GET = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"

Make = Callable[..., Server]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    servers: list[Server] = []

    def build(
        answer: Callable[[Request], Reply | Awaitable[Reply]], most: int = 100, senders: Senders | None = None
    ) -> Server:
        admission = Admission(most, most, frozenset())
        server = Server(ServeSettings(), answer, refusal_reply, pace=Pace(), admission=admission, senders=senders)
        server.listen("127.0.0.1:0", "registry_addr")
        servers.append(server)
        return server

    yield build
    for server in servers:
        await server.close()


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    yield clients
    for client in clients:
        client.close()


def connect(server: Server, clients: list[socket.socket], said: bytes, receive_buffer: int = 0) -> socket.socket:
    """A client that has connected and spoken before the server had a chance to look at it."""
    client = socket.socket()
    clients.append(client)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(check.address(server.addresses[0]))
    client.sendall(said)
    client.setblocking(False)
    return client


async def read_to_end(client: socket.socket) -> bytes:
    """All that comes until FIN; a RST is a ConnectionResetError."""
    received = bytearray()
    while piece := await asyncio.get_running_loop().sock_recv(client, 1 << 18):
        received += piece
    return bytes(received)


async def test_client_beyond_the_cap_that_has_asked_already_sees_fin(make: Make, clients: list[socket.socket]) -> None:
    asked = asyncio.Event()

    async def never() -> Reply:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    server = make(lambda request: never(), most=1)
    busy = connect(server, clients, GET)
    await asked.wait()
    assert await read_to_end(connect(server, clients, GET * 100)) == b""
    assert len(server.endpoint.connections) == 1
    busy.close()


async def test_clients_turned_away_for_want_of_descriptors_see_fin_though_they_have_asked(
    make: Make, clients: list[socket.socket]
) -> None:
    server = make(lambda request: Reply(head(200, "Content-Length: 0")))
    for _ in range(10):
        connect(server, clients, GET * 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[socket.socket] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(client.fileno() for client in clients) + 2, hard))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(socket.socket())
        for client in clients:
            assert await read_to_end(client) == b""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for sock in fillers:
            sock.close()


async def test_close_cuts_an_answer_by_fin_although_the_client_goes_on_sending(
    make: Make, clients: list[socket.socket]
) -> None:
    asked = asyncio.Event()

    def answer(request: Request) -> Reply:
        asked.set()
        return file_reply(File(b"x" * 1000, ready=0))

    server = make(answer)
    client = connect(server, clients, GET)
    await asked.wait()

    async def go_on() -> None:
        with contextlib.suppress(ConnectionError):  # at the end the server does not listen any more
            await asyncio.get_running_loop().sock_sendall(client, GET * 100_000)

    async with asyncio.TaskGroup() as group:
        sending = group.create_task(go_on())
        closing = group.create_task(server.close())
        assert (await read_to_end(client)).startswith(b"HTTP/1.1 200")
        sending.cancel()
        client.shutdown(socket.SHUT_WR)
        await closing


async def test_close_cuts_what_native_threads_send_by_fin_and_gets_it_back(
    make: Make, clients: list[socket.socket]
) -> None:
    size = 32 << 20
    senders = Senders(asyncio.get_running_loop(), 2, False)
    bodies: list[File] = []

    def answer(request: Request) -> Reply:
        bodies.append(File(b"s" * size))
        return file_reply(bodies[-1])

    server = make(answer, senders=senders)
    readers = [connect(server, clients, GET, receive_buffer=4096) for _ in range(5)]
    await until(lambda: senders.running == 5, "the threads have all bodies")
    async with asyncio.TaskGroup() as group:
        group.create_task(server.close())
        for reader in readers:
            assert 0 < len(await read_to_end(reader)) < size
            reader.shutdown(socket.SHUT_WR)
    await until(lambda: senders.running == 0, "the threads have given all back")
    senders.close()
    assert all(body.closed.is_set() for body in bodies) and not server.endpoint.connections


async def test_full_server_ends_its_slowest_reader_for_a_new_client(make: Make, clients: list[socket.socket]) -> None:
    size = 32 << 20
    started = asyncio.Event()

    def answer(request: Request) -> Reply:
        if request.target == "/small":
            return Reply(head(200, "Content-Length: 2"), b"ok", close=True)
        started.set()
        return file_reply(File(b"s" * size))

    server = make(answer, most=2)
    slow = connect(server, clients, GET, receive_buffer=4096)
    await started.wait()
    started.clear()
    fast = connect(server, clients, GET, receive_buffer=4096)
    await started.wait()
    loop = asyncio.get_running_loop()
    endpoint = server.endpoint
    rates: list[float] = []
    received = 0
    while sum(0 <= rate < 16 * 1024 for rate in rates) != 1:  # several turns, until the sockets are full
        before = received
        while received - before < 1 << 20:
            received += len(await loop.sock_recv(fast, 1 << 18))
        endpoint.tick(endpoint.now + 3, b"")
        for connection in endpoint.connections:
            connection.expire(10, 75)
        rates = [connection.rate for connection in endpoint.connections]
    assert (await read_to_end(connect(server, clients, GET.replace(b"/v2/", b"/small")))).endswith(b"ok")
    assert 0 < len(await read_to_end(slow)) < size
    assert endpoint.stats.hangups == 1
    while received < size:
        received += len(await loop.sock_recv(fast, 1 << 18))


async def test_farewell_waits_only_for_so_long_and_for_so_many(
    clients: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farewell_module, "MOST", 2)
    monkeypatch.setattr(farewell_module, "BYTES", 100_000)
    farewell = Farewell()

    def pair() -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        clients.append(theirs)
        farewell.dismiss(ours)
        return theirs

    first, second, third = pair(), pair(), pair()
    assert len(farewell) == 2, "the oldest had to go"
    assert [await read_to_end(theirs) for theirs in (first, second, third)] == [b""] * 3
    second.shutdown(socket.SHUT_WR)
    await until(lambda: len(farewell) == 1, "it closes after the client has")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await asyncio.get_running_loop().sock_sendall(third, b"x" * 1_000_000)
    assert len(farewell) == 0, "who sends without end is not listened to"
    fourth = pair()
    monkeypatch.setattr(farewell_module, "SECONDS", 0.0)
    await farewell.settled()
    assert len(farewell) == 1 and await read_to_end(fourth) == b""
    farewell.close()
    assert len(farewell) == 0
