"""One client's pipelined requests: how many are answered at once, who comes next, and what waiting ones cost."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import sys
import termios
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import pytest

from fastmirror._native.connection import Connection
from fastmirror._native.endpoint import Reply
from fastmirror._native.link import Link
from fastmirror._native.requests import Request
from fastmirror.http.message import head
from tests.kit.waiting import eventually
from tests.native.serving import File, Rig, file_reply

GET = b"GET /v2/x HTTP/1.1\r\nHost: m\r\n\r\n"
TURN = 16  # requests


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.end()
    for task in rig.tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def asked(rig: Rig, requests: bytes, receive_buffer: int = 0) -> tuple[socket.socket, Connection]:
    """A client whose requests have arrived but were not looked at."""
    client, connection = rig.connect(receive_buffer)
    sent = client.send(requests)
    assert sent == len(requests)
    eventually(lambda: received(rig.served[client]) == sent, "the requests have arrived", every=0.001)
    return client, connection


def received(fd: int) -> int:
    """Bytes that wait to be read: SIOCINQ, tcp(7)."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4), sys.byteorder)


def ok(request: Request) -> Reply:
    return Reply(head(200, "Content-Length: 2"), b"ok")


async def test_flood_of_pipelined_requests_gives_way_to_other_clients(rig: Rig) -> None:
    rig.answer = ok
    flooding, flooder = asked(rig, GET * 200)
    also_flooding, other_flooder = asked(rig, GET * 200)
    single, one = asked(rig, GET)
    flooder.on_readable()
    first = len(rig.requests)  # fewer than a turn if a busy machine took the processor away meanwhile
    assert 1 <= first <= TURN
    other_flooder.on_readable()
    assert len(rig.requests) == first + 1, "who comes while others stand in line has one answer, then lines up"
    one.on_readable()
    assert len(rig.requests) == first + 2, "who asks once never waits in the line"
    length = len(await rig.read_head(single) + await rig.read(single, 2))
    for client in (flooding, also_flooding):
        assert (await rig.read(client, 200 * length)).count(b"HTTP/1.1 200") == 200


async def test_answers_that_take_long_end_the_turn_earlier(rig: Rig) -> None:
    def slowly(request: Request) -> Reply:
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass
        return ok(request)

    rig.answer = slowly
    client, connection = asked(rig, GET * 5)
    connection.on_readable()
    assert len(rig.requests) == 1
    length = len(await rig.read_head(client) + await rig.read(client, 2))
    await rig.read(client, 4 * length)


async def test_connection_that_ends_while_it_stands_in_line_leaves_the_line(rig: Rig) -> None:
    rig.answer = ok
    _, connection = asked(rig, GET * 200)
    connection.on_readable()
    connection.close()
    before = len(rig.requests)
    client, _ = asked(rig, GET * 40)
    length = len(await rig.read_head(client) + await rig.read(client, 2))
    await rig.read(client, 39 * length)
    assert len(rig.requests) == before + 40


async def test_slow_readers_of_the_same_bytes_share_them(rig: Rig, traced: None) -> None:
    content = os.urandom(4 << 20)
    rig.answer = lambda request: Reply(head(200, f"Content-Length: {len(content)}"), content)
    before, _ = tracemalloc.get_traced_memory()
    readers = [asked(rig, GET, receive_buffer=4096) for _ in range(20)]
    for _, connection in readers:
        connection.on_readable()
    now, _ = tracemalloc.get_traced_memory()
    assert now - before < len(content)
    for client, _ in readers[:2]:
        await rig.read_head(client)
        assert await rig.read(client, len(content)) == content


@pytest.mark.parametrize("extra", [0, 7900], ids=["short", "long"])
async def test_requests_that_wait_for_an_answer_stay_in_the_kernel_but_for_a_few(
    rig: Rig, traced: None, extra: int
) -> None:
    size = 20_000
    one = GET.replace(b"x ", b"x" * extra + b"x ")
    batch = one * (60_000 // len(one))
    rig.answer = lambda request: file_reply(File(b"b" * size, ready=0))
    before, _ = tracemalloc.get_traced_memory()
    clients = [asked(rig, batch) for _ in range(32)]
    for _, connection in clients:
        for _ in range(20):
            connection.on_readable()
    now, _ = tracemalloc.get_traced_memory()
    assert now - before < 32 * 48_000


async def test_rate_of_a_reader_is_known_only_while_something_waits_for_it(rig: Rig) -> None:
    size = 16 << 20
    rig.answer = lambda request: file_reply(File(b"r" * size))
    client, connection = asked(rig, GET, receive_buffer=4096)
    link: Link = connection
    assert link.client == "127.0.0.1"
    connection.on_readable()
    for _ in range(20):
        connection.on_writable()
    assert connection.rate == -1
    now = rig.endpoint.now
    rig.endpoint.tick(now + 5, b"")
    connection.expire(10, 75)
    first = connection.rate
    rig.endpoint.tick(now + 10, b"")
    connection.expire(10, 75)
    assert first > 0 and connection.rate == 0, "what was taken since the last look counts"
    await rig.read_head(client)
    await rig.read(client, size)
    rig.endpoint.tick(now + 15, b"")
    connection.expire(10, 75)
    assert connection.rate == -1
