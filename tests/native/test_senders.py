"""Native threads that send bodies: which ones they get, what is counted meanwhile, and how they give them back."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fastmirror._native.connection import Connection
from fastmirror._native.endpoint import Reply, Senders
from fastmirror._native.sender import Sender
from fastmirror.http.message import head
from tests.kit.fetching import until
from tests.kit.waiting import eventually
from tests.native.serving import File, Rig, file_reply

GET = b"GET /v2/x HTTP/1.1\r\nHost: m\r\n\r\n"
SIZE = 6 << 20  # more than the buffers of two sockets


@pytest.fixture
async def threads() -> AsyncIterator[Rig]:
    """Native threads send every body that is there whole."""
    rig = Rig("threads")
    yield rig
    rig.end()


@pytest.fixture
async def cold() -> AsyncIterator[Rig]:
    """Native threads send what is not in the page cache."""
    rig = Rig("cold")
    yield rig
    rig.end()


class DiskFile(File):
    """A body on a disk, in the page cache or taken out of it."""

    def __init__(self, path: Path, *, cached: bool) -> None:
        super().__init__(b"")
        self.file.close()
        self.file = path.open("r+b")
        self.ready = path.stat().st_size
        fd = self.file.fileno()
        if cached:
            os.pread(fd, self.ready, 0)
        else:
            os.fsync(fd)  # what is dirty cannot be taken out
            eventually(lambda: taken_out(fd), "the file is not in the page cache any more")


def taken_out(fd: int) -> bool:
    """Ask the kernel to drop the pages; whether the first one is gone (another process may use it still)."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    return False


@pytest.fixture
def on_disk() -> Iterator[tuple[Path, bytes]]:
    """A file of 4 MiB and its content, where temporary files are usually on a disk, not in memory."""
    path = Path("/var/tmp") / f"fastmirror-test-{os.getpid()}"
    content = os.urandom(4 << 20)
    path.write_bytes(content)
    yield path, content
    path.unlink()


async def waiting_reader(rig: Rig) -> tuple[socket.socket, Connection]:
    """A client that has its head, and reads no further: its body is with the threads, and the socket is full."""
    client, connection = rig.connect(receive_buffer=4096)
    assert issubclass(Connection, Sender)
    await rig.send(client, GET)
    await rig.read_head(client)
    assert rig.senders is not None and rig.senders.running > 0
    return client, connection


async def test_file_in_the_page_cache_is_sent_by_the_loop_and_another_by_the_threads(
    cold: Rig, on_disk: tuple[Path, bytes]
) -> None:
    path, content = on_disk
    for cached, offloaded in ((True, 0), (False, 1)):
        cold.answer = lambda request, cached=cached: file_reply(DiskFile(path, cached=cached))
        client, _ = cold.connect()
        await cold.send(client, GET)
        await cold.read_head(client)
        assert await cold.read(client, len(content)) == content
        assert cold.endpoint.stats.offloaded == offloaded
    await until(lambda: cold.endpoint.stats.body_bytes == 2 * len(content), "the threads' bytes are counted")


async def test_body_that_still_grows_is_sent_by_the_loop(threads: Rig) -> None:
    body = File(b"g" * 100_000, ready=50_000)
    threads.answer = lambda request: file_reply(body)
    client, _ = threads.connect()
    await threads.send(client, GET)
    await threads.read_head(client)
    await body.waited.wait()
    assert threads.endpoint.stats.offloaded == 0
    body.move(100_000)
    assert await threads.read(client, 100_000) == b"g" * 100_000


async def test_what_the_threads_send_is_counted_while_they_send_it(threads: Rig) -> None:
    threads.answer = lambda request: file_reply(File(b"c" * SIZE))
    client, connection = await waiting_reader(threads)
    now = threads.endpoint.now
    await until(lambda: sent(threads, connection, now) > 0, "bytes are counted before the end")
    assert threads.endpoint.stats.body_bytes < SIZE and threads.pace.sending == 0
    await threads.read(client, SIZE)
    await until(lambda: connection.idle, "the body is over")
    assert threads.endpoint.stats.body_bytes == SIZE


def sent(rig: Rig, connection: Connection, now: float) -> int:
    rig.endpoint.tick(now, b"")
    connection.expire(10, 75)
    return rig.endpoint.stats.body_bytes


async def test_reader_that_takes_nothing_from_the_threads_is_ended_in_time(threads: Rig) -> None:
    threads.answer = lambda request: file_reply(File(b"s" * SIZE))
    client, connection = await waiting_reader(threads)
    now = threads.endpoint.now
    await until(lambda: sent(threads, connection, now) > 0, "the socket has taken something")
    for later in (5, 700):
        threads.endpoint.tick(now + later, b"")
        connection.expire(10, 75)
    received = await threads.read_to_end(client)
    assert 0 < len(received) < SIZE
    await until(lambda: threads.senders is not None and threads.senders.running == 0, "it is given back")


async def test_descriptor_that_a_thread_has_is_closed_when_it_is_given_back(threads: Rig) -> None:
    body = File(b"d" * SIZE)
    threads.answer = lambda request: file_reply(body)
    client, connection = await waiting_reader(threads)
    fd = threads.served[client]
    connection.close()
    connection.close()
    assert os.fstat(fd) and not body.closed.is_set() and not threads.closed
    await threads.gone.wait()
    assert body.closed.is_set() and threads.closed == [connection]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_connection_that_is_detached_from_a_thread_goes_on_by_a_descriptor_of_its_own(threads: Rig) -> None:
    threads.answer = lambda request: file_reply(File(b"t" * SIZE))
    client, connection = await waiting_reader(threads)
    fd = connection.detach()
    with socket.socket(fileno=fd) as ours:
        assert fd != threads.served[client] and connection.detach() == -1
        await threads.gone.wait()
        received = await threads.read_to_end(client)
        assert 0 < len(received) < SIZE, "FIN, not RST: what was sent arrives"
        assert ours.fileno() == fd


async def test_one_that_fails_when_it_is_given_back_keeps_nothing_from_the_others(threads: Rig) -> None:
    failures: list[dict[str, object]] = []
    threads.loop.set_exception_handler(lambda loop, context: failures.append(context))

    def done(sent: int, complete: bool) -> None:
        raise ZeroDivisionError

    threads.answer = lambda request: file_reply(File(b"f" * 100_000), done=done)
    broken, _ = threads.connect()
    await threads.send(broken, GET)
    await threads.read_head(broken)
    await threads.read(broken, 100_000)
    threads.answer = lambda request: file_reply(File(b"h" * 100_000))
    client, _ = threads.connect()
    await threads.send(client, GET)
    await threads.read_head(client)
    assert await threads.read(client, 100_000) == b"h" * 100_000
    assert threads.senders is not None
    await until(lambda: threads.senders is not None and threads.senders.running == 0, "both are given back")
    assert [type(failure["exception"]) for failure in failures] == [ZeroDivisionError]


async def test_without_threads_the_loop_sends(threads: Rig) -> None:
    content = os.urandom(300_000)
    threads.answer = lambda request: file_reply(File(content))
    assert threads.senders is not None
    threads.senders.close()
    client, _ = threads.connect()
    await threads.send(client, GET)
    await threads.read_head(client)
    assert await threads.read(client, len(content)) == content
    assert threads.endpoint.stats.offloaded == 0


async def test_small_requests_are_answered_while_bodies_are_with_the_threads(threads: Rig) -> None:
    threads.answer = lambda request: file_reply(File(b"b" * SIZE))
    readers = [await waiting_reader(threads) for _ in range(8)]  # more than there are threads
    threads.answer = lambda request: Reply(head(200, "Content-Length: 2"), b"ok")
    client, _ = threads.connect()
    await threads.send(client, GET)
    await threads.read_head(client)
    assert await threads.read(client, 2) == b"ok"
    assert [len(await threads.read(reader, SIZE)) for reader, _ in readers[:2]] == [SIZE] * 2


async def test_only_so_many_threads_can_be_asked_for() -> None:
    for threads in (0, 65):
        with pytest.raises(ValueError, match="1 to 64"):
            Senders(asyncio.get_running_loop(), threads, False)
