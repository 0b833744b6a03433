"""The listener: who is let in, how it drains, and what it does when descriptors run out."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from fastmirror._native.endpoint import Pace, Reply
from fastmirror._native.requests import Request
from fastmirror.config import ServeSettings, check
from fastmirror.errors import StartFailed
from fastmirror.http.limits import Admission
from fastmirror.http.message import head
from fastmirror.http.server import Server
from fastmirror.mirror.answers import refusal_reply

GET = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"
OK = b"HTTP/1.1 200 OK"

Make = Callable[..., Server]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    servers: list[Server] = []

    def build(answer: Callable[[Request], Reply | Awaitable[Reply]], most: int = 100) -> Server:
        admission = Admission(most, most, frozenset())
        server = Server(ServeSettings(), answer, refusal_reply, pace=Pace(), admission=admission)
        server.listen("127.0.0.1:0", "registry_addr")
        servers.append(server)
        return server

    yield build
    for server in servers:
        await server.close()


def ok(request: Request) -> Reply:
    return Reply(head(200, "Content-Length: 2"), b"{}")


async def connect(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*check.address(server.addresses[0]))


async def ask(server: Server) -> bytes:
    reader, writer = await connect(server)
    writer.write(GET)
    status = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return status.rstrip()


async def test_server_answers_on_the_port_it_says(make: Make) -> None:
    assert await ask(make(ok)) == OK


async def test_port_that_only_root_may_have_is_told_so(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    server = make(lambda _: Reply(head(200), b""))
    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(
        StartFailed, match=r"registry_addr: cannot listen on 127.0.0.1:80: ports below 1024.*higher port"
    ):
        server.listen("127.0.0.1:80", "registry_addr")


async def test_answer_that_raises_is_a_500_and_the_server_goes_on(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    async def later() -> Reply:
        raise ZeroDivisionError

    def answer(request: Request) -> Reply | Awaitable[Reply]:
        if request.target == "/sync":
            raise ZeroDivisionError
        return later() if request.target == "/later" else ok(request)

    server = make(answer)
    for target in (b"/sync", b"/later"):
        reader, writer = await connect(server)
        writer.write(GET.replace(b"/v2/", target))
        assert b"500" in await reader.readline()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert await ask(server) == OK
    assert sum("could not be answered" in record.message for record in caplog.records) == 2


async def test_drain_ends_idle_connections_and_waits_for_busy_ones(make: Make) -> None:
    gate = asyncio.Event()

    async def later() -> Reply:
        await gate.wait()
        return Reply(head(200, "Content-Length: 2"), b"{}")

    asked = asyncio.Event()

    def answer(request: Request) -> Awaitable[Reply]:
        asked.set()
        return later()

    server = make(answer)
    where = check.address(server.addresses[0])
    idle_reader, idle_writer = await connect(server)
    busy_reader, busy_writer = await connect(server)
    busy_writer.write(GET)
    await asked.wait()
    async with asyncio.TaskGroup() as group:
        drained = group.create_task(server.drain())
        assert await idle_reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*where)
        assert not drained.done()
        gate.set()
        assert (await busy_reader.read()).endswith(b"{}")
    for writer in (idle_writer, busy_writer):
        writer.close()
        await writer.wait_closed()


async def test_flood_of_silent_connections_gives_way_to_a_client(make: Make) -> None:
    server = make(ok, most=20)
    silent = [await connect(server) for _ in range(60)]
    assert await ask(server) == OK
    assert len(server.endpoint.connections) <= 20
    for _, writer in silent:
        writer.close()


async def test_out_of_descriptors_turns_clients_away_and_recovers(make: Make) -> None:
    server = make(ok)
    reader, writer = await connect(server)
    clients = [socket.socket() for _ in range(4)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    loop = asyncio.get_running_loop()
    for client in clients:
        client.setblocking(False)
    highest = max(client.fileno() for client in clients)
    fillers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        while True:
            try:
                fillers.append(socket.socket())
            except OSError:
                break
        for client in clients:
            await loop.sock_connect(client, check.address(server.addresses[0]))
            assert await loop.sock_recv(client, 1) == b""
        writer.write(GET)
        assert (await reader.readline()).rstrip() == OK, "a connection that was there before goes on"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for sock in (*fillers, *clients):
            sock.close()
    assert await ask(server) == OK
    writer.close()


async def test_taken_port_is_told_with_its_setting(make: Make) -> None:
    first = make(ok)
    second = make(ok)
    with pytest.raises(StartFailed, match=r"peer_addr.*another program has it"):
        second.listen(first.addresses[0], "peer_addr")
    with pytest.raises(StartFailed, match=r"peer_addr.*192\.0\.2\.1"):
        second.listen("192.0.2.1:0", "peer_addr")
