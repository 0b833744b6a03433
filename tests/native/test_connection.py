"""The connection against real sockets: what it sends, when it stops, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable

import pytest

from fastmirror._native.endpoint import Reply
from fastmirror._native.requests import Refusal, Request
from fastmirror.http.message import head
from tests.native.serving import File, Rig, file_reply

GET = b"GET /v2/x HTTP/1.1\r\nHost: m\r\n\r\n"


@pytest.fixture(params=["loop", "cold", "threads"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """Everything here holds whoever sends the bodies."""
    rig = Rig(request.param)
    yield rig
    rig.end()
    for task in rig.tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_small_body_leaves_with_its_head_and_the_connection_is_kept(rig: Rig) -> None:
    rig.answer = lambda request: Reply(head(200, "Content-Length: 5"), b"hello")
    client, connection = rig.connect()
    for _ in range(2):
        await rig.send(client, GET)
        assert (await rig.read_head(client)).startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n")
        assert await rig.read(client, 5) == b"hello"
    assert connection.idle


async def test_head_request_gets_the_head_only_and_its_body_is_closed(rig: Rig) -> None:
    body = File(b"x" * 100_000)
    rig.answer = lambda request: file_reply(body)
    client, _ = rig.connect()
    await rig.send(client, b"HEAD /v2/x HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
    received = await rig.read_to_end(client)
    assert b"Content-Length: 100000\r\n" in received and received.endswith(b"\r\n\r\n")
    assert body.closed.is_set()


async def test_large_body_arrives_whole_after_its_head(rig: Rig) -> None:
    content = os.urandom(6 << 20)
    body = File(content)
    done: list[tuple[int, bool]] = []
    rig.answer = lambda request: file_reply(body, done=lambda sent, complete: done.append((sent, complete)))
    client, connection = rig.connect()
    await rig.send(client, GET)
    await rig.read_head(client)
    assert await rig.read(client, len(content)) == content
    await body.closed.wait()
    assert done == [(len(content), True)] and rig.pace.sending == 0 and connection.idle


async def test_span_of_a_file_is_what_is_sent(rig: Rig) -> None:
    content = bytes(range(256)) * 1024
    rig.answer = lambda request: file_reply(File(content), 1000, 200_000)
    client, _ = rig.connect()
    await rig.send(client, b"GET /v2/x HTTP/1.1\r\nHost: m\r\nRange: bytes=1000-199999\r\n\r\n")
    await rig.read_head(client)
    assert await rig.read(client, 199_000) == content[1000:200_000]
    assert rig.requests[0].range == b"bytes=1000-199999"


async def test_growing_body_is_sent_up_to_its_frontier_and_waits_there(rig: Rig) -> None:
    content = os.urandom(300_000)
    body = File(content, ready=0)
    rig.answer = lambda request: file_reply(body)
    client, _ = rig.connect()
    await rig.send(client, GET)
    await rig.read_head(client)  # not held back by MSG_MORE although no byte of the body is there
    for frontier in (1, 70_000, 300_000):
        await body.waited.wait()
        already = body.ready
        body.move(frontier)
        assert await rig.read(client, frontier - already) == content[already:frontier]
    await body.closed.wait()


async def test_body_that_ends_early_ends_the_connection_by_fin(rig: Rig) -> None:
    body = File(b"y" * 1000, ready=600)
    done: list[tuple[int, bool]] = []
    rig.answer = lambda request: file_reply(body, done=lambda sent, complete: done.append((sent, complete)))
    client, _ = rig.connect()
    await rig.send(client, GET + GET)  # the second request must not turn the end into a reset
    await body.waited.wait()
    body.end()
    received = await rig.read_to_end(client)
    assert received.endswith(b"\r\n\r\n" + b"y" * 600)
    assert done == [(600, False)] and rig.endpoint.stats.hangups == 1 and len(rig.requests) == 1


async def test_file_cut_while_it_is_sent_ends_by_fin(rig: Rig) -> None:
    body = File(b"z" * (4 << 20))
    rig.answer = lambda request: file_reply(body)
    client, _ = rig.connect(receive_buffer=8192)
    await rig.send(client, GET)
    await rig.read_head(client)
    os.ftruncate(body.fileno(), 1 << 20)
    received = await rig.read_to_end(client)
    assert len(received) < 4 << 20
    assert rig.endpoint.stats.truncated == 1 and body.closed.is_set()


async def test_client_that_resets_in_mid_body_is_counted_and_leaves_nothing(rig: Rig) -> None:
    body = File(b"q" * (8 << 20))
    rig.answer = lambda request: file_reply(body)
    client, _ = rig.connect(receive_buffer=8192)
    await rig.send(client, GET)
    await rig.read_head(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    await rig.gone.wait()
    assert rig.endpoint.stats.clients_left == 1 and body.closed.is_set() and rig.pace.sending == 0


async def test_half_closed_client_gets_its_whole_answer(rig: Rig) -> None:
    content = os.urandom(5 << 20)
    rig.answer = lambda request: file_reply(File(content))
    client, _ = rig.connect(receive_buffer=8192)
    await rig.send(client, GET)
    client.shutdown(socket.SHUT_WR)
    received = await rig.read_to_end(client)
    assert received.partition(b"\r\n\r\n")[2] == content
    await rig.gone.wait()


async def test_pipelined_requests_are_answered_in_order_whoever_is_ready_first(rig: Rig) -> None:
    gate = asyncio.Event()

    async def later(name: bytes) -> Reply:
        await gate.wait()
        return Reply(head(200, f"Content-Length: {len(name)}"), name)

    def answer(request: Request) -> Reply | Awaitable[Reply]:
        name = request.raw_target
        return later(name) if name == b"/slow" else Reply(head(200, f"Content-Length: {len(name)}"), name)

    rig.answer = answer
    client, _ = rig.connect()
    await rig.send(client, b"".join(b"GET %s HTTP/1.1\r\nHost: m\r\n\r\n" % t for t in (b"/a", b"/slow", b"/b")))
    await rig.read_head(client)
    assert await rig.read(client, 2) == b"/a"
    gate.set()
    for expected in (b"/slow", b"/b"):
        await rig.read_head(client)
        assert await rig.read(client, len(expected)) == expected


async def test_many_pipelined_requests_are_bounded_and_all_answered(rig: Rig) -> None:
    gate = asyncio.Event()

    async def later() -> Reply:
        await gate.wait()
        return Reply(head(200, "Content-Length: 1"), b"x")

    rig.answer = lambda request: later()
    client, _ = rig.connect()
    await rig.send(client, GET * 500)
    assert len(rig.requests) <= 1  # one at a time; the rest is queued or unread
    gate.set()
    for _ in range(500):
        await rig.read_head(client)
        assert await rig.read(client, 1) == b"x"


async def test_early_leaver_cancels_the_answer_that_is_being_made(rig: Rig) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def never() -> Reply:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    rig.answer = lambda request: never()
    client, _ = rig.connect()
    await rig.send(client, GET)
    await started.wait()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    await cancelled.wait()
    await rig.gone.wait()
    assert not rig.endpoint.connections


async def test_reply_for_a_client_that_left_closes_its_body(rig: Rig) -> None:
    body = File(b"r" * 100_000)
    _, connection = rig.connect()
    connection.close()
    connection.deliver(file_reply(body))
    assert body.closed.is_set()


async def test_kept_answer_is_used_until_the_answers_are_cleared(rig: Rig) -> None:
    rig.answer = lambda request: Reply(head(200, "Content-Length: 2"), b"ok", cacheable=True)
    client, _ = rig.connect()
    for method, rest in ((b"GET", b"ok"), (b"HEAD", b""), (b"GET", b"ok")):
        await rig.send(client, method + GET[3:])
        assert b"Content-Length: 2" in await rig.read_head(client)
        assert await rig.read(client, len(rest)) == rest
    assert len(rig.requests) == 1 and rig.endpoint.stats.cached == 2
    await rig.send(client, b"GET /v2/x HTTP/1.1\r\nHost: m\r\nRange: bytes=0-0\r\n\r\n")
    await rig.read_head(client)
    await rig.read(client, 2)
    assert len(rig.requests) == 2, "a range is never answered from the kept answers"
    rig.endpoint.answers.clear()
    await rig.send(client, GET)
    await rig.read_head(client)
    await rig.read(client, 2)
    assert len(rig.requests) == 3


async def test_retired_connection_finishes_its_answer_and_takes_no_other(rig: Rig) -> None:
    body = File(b"s" * 1000, ready=0)
    rig.answer = lambda request: file_reply(body)
    client, connection = rig.connect()
    await rig.send(client, GET + GET)
    await body.waited.wait()
    connection.retire()
    body.move(1000)
    received = await rig.read_to_end(client)
    assert received.endswith(b"s" * 1000)
    assert len(rig.requests) == 1


async def test_idle_connection_is_retired_by_fin(rig: Rig) -> None:
    client, connection = rig.connect()
    connection.retire()
    assert await rig.read_to_end(client) == b""


async def test_silent_and_idle_connections_are_ended_by_fin_in_time(rig: Rig) -> None:
    rig.answer = lambda request: Reply(head(200, "Content-Length: 0"))
    silent, never_spoke = rig.connect()
    slow, half_a_head = rig.connect()
    kept, answered = rig.connect()
    now = rig.endpoint.now
    await rig.send(slow, b"GET /v2/ HT")
    await rig.send(kept, GET)
    await rig.read_head(kept)
    for connection in (never_spoke, half_a_head, answered):
        connection.on_readable()
    rig.endpoint.tick(now + 9, b"")
    for connection in (never_spoke, half_a_head, answered):
        connection.expire(10, 75)
    assert len(rig.endpoint.connections) == 3
    rig.endpoint.tick(now + 11, b"")
    for connection in (never_spoke, half_a_head, answered):
        connection.expire(10, 75)
    assert await rig.read_to_end(silent) == b"" and await rig.read_to_end(slow) == b""
    assert answered in rig.endpoint.connections
    rig.endpoint.tick(now + 80, b"")
    answered.expire(10, 75)
    assert await rig.read_to_end(kept) == b""


async def test_refused_request_is_answered_after_those_before_it(rig: Rig) -> None:
    rig.answer = lambda request: Reply(head(200, "Content-Length: 2"), b"ok")
    client, _ = rig.connect()
    await rig.send(client, GET + b"GET /v2/ HTTP/1.1\r\nBad Header\r\n\r\n" + GET)
    received = await rig.read_to_end(client)
    assert received.startswith(b"HTTP/1.1 200") and b"\r\n\r\nokHTTP/1.1 400 Bad Request" in received
    assert received.count(b"HTTP/1.1 ") == 2
    assert len(rig.requests) == 1


async def test_unread_input_does_not_turn_the_end_into_a_reset(rig: Rig) -> None:
    client, _ = rig.connect()
    await rig.send(client, b"PUT /v2/x HTTP/1.1\r\nHost: m\r\nContent-Length: 10000000\r\n\r\n" + b"b" * 1_000_000)
    received = await rig.read_to_end(client)
    assert received.startswith(b"HTTP/1.1 405") and b"Connection: close" in received


async def test_several_senders_share_turns_and_one_alone_does_not(rig: Rig) -> None:
    contents = [os.urandom(12 << 20) for _ in range(3)]
    waiting = iter(contents)
    rig.answer = lambda request: file_reply(File(next(waiting)))
    clients = [rig.connect(receive_buffer=8192)[0] for _ in contents]
    for client in clients:
        await rig.send(client, GET)
        await rig.read_head(client)
    assert rig.pace.sending + (rig.senders.running if rig.senders else 0) == 3
    received = await asyncio.gather(*(rig.read(client, 12 << 20) for client in clients))
    assert received == contents
    assert rig.pace.sending == 0


async def test_a_reset_that_comes_with_half_a_request_ends_the_connection_at_once(rig: Rig) -> None:
    client, connection = rig.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.send(GET[:20])
    client.close()  # before the loop has looked: bytes and reset are there together
    async with asyncio.timeout(10):
        await rig.gone.wait()
    assert rig.closed == [connection]
    assert rig.endpoint.stats.clients_left == 0, "nothing was being answered"


def corked(rig: Rig, client: socket.socket) -> bool:
    with socket.fromfd(rig.served[client], socket.AF_INET, socket.SOCK_STREAM) as served:
        return bool(served.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK))


async def test_bodies_are_corked_while_many_are_sent_and_never_afterwards(rig: Rig) -> None:
    content = os.urandom(1 << 20)
    files: list[File] = []

    def answer(request: Request) -> Reply:
        files.append(File(content))
        return file_reply(files[-1])

    rig.answer = answer
    clients = [rig.connect(receive_buffer=16384)[0] for _ in range(30)]
    for client in clients:
        await rig.send(client, GET)
        await rig.read_head(client)
    assert not corked(rig, clients[0])
    assert corked(rig, clients[-1]) == (rig.pace.sending == 30), "what native threads send is not counted"
    received = await asyncio.gather(*(rig.read(client, len(content)) for client in clients))
    assert received == [content] * 30
    for file in files:
        await file.closed.wait()
    assert not any(corked(rig, client) for client in clients)


async def test_a_body_that_still_grows_is_not_corked(rig: Rig) -> None:
    content = os.urandom(1 << 20)
    rig.answer = lambda request: file_reply(File(content))
    clients = [rig.connect(receive_buffer=16384)[0] for _ in range(30)]
    for client in clients:
        await rig.send(client, GET)
        await rig.read_head(client)
    growing = File(content, ready=1000)
    rig.answer = lambda request: file_reply(growing)
    client, _ = rig.connect()
    await rig.send(client, GET)
    await rig.read_head(client)
    assert await rig.read(client, 1000) == content[:1000], "what is there does not wait for more"
    assert not corked(rig, client)
    growing.move(len(content))
    assert await rig.read(client, len(content) - 1000) == content[1000:]


def test_refusal_carries_what_it_was_made_of() -> None:
    refusal = Refusal(405, "only GET and HEAD", False)
    assert (refusal.status, refusal.message, refusal.close) == (405, "only GET and HEAD", False)
