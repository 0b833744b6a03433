"""What an ingester does with bodies, peers and disks that behave in every way: the native one and its twin alike."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import resource
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmirror._native import hashing as native_hashing
from fastmirror._native import ingest as native
from tests.native.ingesting import MIB, Rig, content, read_back
from tests.twins import hashing as twin_hashing
from tests.twins import ingest as twin

PAIRS = {"native": (native, native_hashing), "twin": (twin, twin_hashing)}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return PAIRS[request.param]


@pytest.fixture
def rig(pair: tuple[Any, Any]) -> Iterator[Rig]:
    made = Rig(pair[0])
    yield made
    made.close()


@pytest.fixture
def hasher(pair: tuple[Any, Any]) -> Any:
    return pair[1].Hasher("sha256")


def test_a_body_is_written_where_it_belongs_and_hashed_on_the_way(rig: Rig, hasher: Any) -> None:
    body, (ours, peer), file = content(5 * MIB + 7), rig.connection(), rig.file()
    begin = time.monotonic()
    job = rig.ingester.start(ours.fileno(), file, 1000, len(body), hasher)
    assert (job.offset, job.length) == (1000, len(body))
    rig.send(peer, body)
    told = rig.finish(job)
    assert (job.outcome, job.errno, job.received, job.done) == ("complete", 0, len(body), True)
    assert read_back(file, 1000, 2 * len(body)) == body
    assert read_back(file, 0, 1000) == bytes(1000)
    assert hasher.hexdigest() == hashlib.sha256(body).hexdigest()
    assert begin <= job.last_progress <= time.monotonic()
    assert set(told) == {job}
    assert rig.ingester.running == 0
    assert rig.ingester.collect() == []


def test_bytes_that_came_with_the_head_are_the_first_of_the_body(rig: Rig, hasher: Any) -> None:
    body, (ours, peer), file = content(100_000), rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, len(body), hasher, prefix=body[:60_000])
    rig.until(job, 60_000)
    peer.sendall(body[60_000:])
    rig.finish(job)
    assert job.outcome == "complete"
    assert read_back(file, 0, MIB) == body
    assert hasher.digest() == hashlib.sha256(body).digest()


@pytest.mark.parametrize("body", [b"", b"all of it"])
def test_a_body_that_needs_no_more_from_the_socket_is_complete_at_once(rig: Rig, hasher: Any, body: bytes) -> None:
    (ours, _peer), file = rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, len(body), hasher, body)
    rig.finish(job)
    assert (job.outcome, job.received) == ("complete", len(body))
    assert read_back(file, 0, 100) == body


def test_not_one_byte_after_the_body_is_taken_so_the_connection_can_be_used_again(rig: Rig) -> None:
    body, (ours, peer), file = content(300_000), rig.connection(), rig.file()
    rig.send(peer, body + b"HTTP/1.1 200 OK")
    first = rig.ingester.start(ours.fileno(), file, 0, 200_000, None)
    rig.finish(first)
    second = rig.ingester.start(ours.fileno(), file, 200_000, 100_000, None)
    rig.finish(second)
    assert (first.outcome, second.outcome) == ("complete", "complete")
    assert read_back(file, 0, MIB) == body
    ours.settimeout(10)
    assert ours.recv(len(b"HTTP/1.1 200 OK"), socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"


def test_a_peer_that_ends_early_leaves_what_it_sent_and_another_goes_on(rig: Rig, hasher: Any) -> None:
    body, file = content(3 * MIB), rig.file()
    ours, peer = rig.connection()
    first = rig.ingester.start(ours.fileno(), file, 0, len(body), hasher)
    rig.send(peer, body[: 2 * MIB + 5], then_close=True)
    rig.finish(first)
    assert (first.outcome, first.errno, first.received) == ("closed", 0, 2 * MIB + 5)
    assert hasher.length == first.received
    ours, peer = rig.connection()
    second = rig.ingester.start(ours.fileno(), file, first.received, len(body) - first.received, hasher)
    rig.send(peer, body[first.received :])
    rig.finish(second)
    assert second.outcome == "complete"
    assert read_back(file, 0, 4 * MIB) == body
    assert hasher.digest() == hashlib.sha256(body).digest()


def test_a_reset_connection_is_told_apart_from_one_that_was_closed(rig: Rig, hasher: Any) -> None:
    body, (ours, peer), file = content(50_000), rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, MIB, hasher)
    peer.sendall(body)
    rig.until(job, len(body))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    rig.finish(job)
    assert (job.outcome, job.errno, job.received) == ("reset", errno.ECONNRESET, len(body))
    assert hasher.digest() == hashlib.sha256(body).digest()


def test_a_socket_that_is_not_connected_fails_with_its_errno(rig: Rig) -> None:
    with socket.socket() as ours:
        job = rig.ingester.start(ours.fileno(), rig.file(), 0, 10, None)
        rig.finish(job)
    assert (job.outcome, job.errno) == ("failed", errno.ENOTCONN)


def test_a_slow_peer_is_told_byte_by_byte(rig: Rig, hasher: Any) -> None:
    body, (ours, peer), file = content(20), rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, len(body), hasher)
    before = job.last_progress
    for n in range(1, len(body) + 1):
        peer.sendall(body[n - 1 : n])
        rig.until(job, n)
        assert job.received == n
        assert job.last_progress >= before
        before = job.last_progress
    rig.finish(job)
    assert read_back(file, 0, 100) == body


@pytest.mark.parametrize("times", [1, 3])
def test_a_cancelled_job_ends_and_its_peer_sees_the_end(rig: Rig, hasher: Any, times: int) -> None:
    (ours, peer), file = rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, 100, hasher)
    peer.sendall(b"x" * 40)
    rig.until(job, 40)
    for _ in range(times):
        job.cancel()
    rig.finish(job)
    assert (job.outcome, job.errno, job.received) == ("cancelled", 0, 40)
    assert hasher.digest() == hashlib.sha256(b"x" * 40).digest()
    peer.settimeout(10)
    assert peer.recv(10) == b""
    job.cancel()
    assert rig.ingester.collect() == []


def test_cancelling_an_ended_job_leaves_its_connection_alone(rig: Rig) -> None:
    (ours, peer), file = rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, 3, None)
    peer.sendall(b"abcdef")
    rig.finish(job)
    job.cancel()
    assert job.outcome == "complete"
    ours.settimeout(10)
    assert ours.recv(10) == b"def"


def test_a_hasher_belongs_to_its_job_until_that_is_done(rig: Rig, hasher: Any) -> None:
    (ours, peer), (other, _), file = rig.connection(), rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, 3, hasher)
    for use in (hasher.digest, hasher.copy, lambda: hasher.update(b"x"), lambda: hasher.length):
        with pytest.raises(RuntimeError, match="in use"):
            use()
    with pytest.raises(RuntimeError, match="in use"):
        rig.ingester.start(other.fileno(), file, 0, 3, hasher)
    assert rig.ingester.running == 1
    peer.sendall(b"abc")
    rig.finish(job)
    assert hasher.digest() == hashlib.sha256(b"abc").digest()


def test_descriptors_and_numbers_that_cannot_be_are_refused_and_nothing_begins(rig: Rig, hasher: Any) -> None:
    (ours, _peer), file = rig.connection(), rig.file()
    start = rig.ingester.start
    closed = 2**31 - 1
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for sock_fd, file_fd, number in [
            (closed, file, errno.EBADF),
            (-1, file, errno.EBADF),
            (file, file, errno.ENOTSOCK),
            (datagrams.fileno(), file, errno.EPROTOTYPE),
            (ours.fileno(), closed, errno.EBADF),
        ]:
            with pytest.raises(OSError, match=r"Errno|Bad|Socket|Protocol") as raised:
                start(sock_fd, file_fd, 0, 1, hasher)
            assert raised.value.errno == number
    for offset, length, prefix in [(-1, 1, b""), (0, -1, b""), (2**63 - 1, 1, b""), (0, 1, b"ab")]:
        with pytest.raises(ValueError, match=r"offset|head"):
            start(ours.fileno(), file, offset, length, hasher, prefix)
    assert rig.ingester.running == 0
    assert hasher.length == 0


def test_a_disk_that_takes_nothing_is_not_the_peers_fault(rig: Rig, hasher: Any) -> None:
    with open("/dev/full", "wb") as full, tempfile.NamedTemporaryFile() as named, open(named.name, "rb") as readable:
        for file, number in ((full.fileno(), errno.ENOSPC), (readable.fileno(), errno.EBADF)):
            ours, peer = rig.connection()
            job = rig.ingester.start(ours.fileno(), file, 0, 1000, hasher)
            peer.sendall(b"x" * 1000)
            rig.finish(job)
            assert (job.outcome, job.errno, job.received) == ("disk", number, 0)
    assert hasher.length == 0


def test_what_fitted_on_a_full_disk_counts_and_no_more(rig: Rig, hasher: Any) -> None:
    body, (ours, peer), file = content(2 * MIB), rig.connection(), rig.file()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB + 100, hard))
    try:
        job = rig.ingester.start(ours.fileno(), file, 0, len(body), hasher)
        rig.send(peer, body)
        rig.finish(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (job.outcome, job.errno, job.received) == ("disk", errno.EFBIG, MIB + 100)
    assert read_back(file, 0, 2 * MIB) == body[: MIB + 100]
    assert hasher.digest() == hashlib.sha256(body[: MIB + 100]).digest()


@pytest.mark.needs("root")
def test_a_file_system_that_fills_up_ends_the_job_with_enospc(rig: Rig, hasher: Any, tmp_path: Path) -> None:
    body, (ours, peer) = content(3 * MIB), rig.connection()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True)
    try:
        with open(tmp_path / "spool", "w+b") as file:
            job = rig.ingester.start(ours.fileno(), file.fileno(), 0, len(body), hasher)
            rig.send(peer, body)
            rig.finish(job)
            assert (job.outcome, job.errno) == ("disk", errno.ENOSPC)
            assert 0 < job.received <= MIB
            assert read_back(file.fileno(), 0, 3 * MIB)[: job.received] == body[: job.received]
            assert hasher.digest() == hashlib.sha256(body[: job.received]).digest()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_closing_cancels_what_runs_and_can_be_repeated(rig: Rig, hasher: Any) -> None:
    (ours, peer), file = rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, 100, hasher)
    peer.sendall(b"abc")
    rig.until(job, 3)
    rig.ingester.close()
    rig.ingester.close()
    assert (job.received, rig.ingester.running) == (3, 1)
    assert rig.ingester.collect() == [job]
    assert job.outcome == "cancelled"
    assert (rig.ingester.running, rig.ingester.threads) == (0, 0)
    assert hasher.digest() == hashlib.sha256(b"abc").digest()
    with pytest.raises(ValueError, match="closed"):
        rig.ingester.start(ours.fileno(), file, 0, 100, None)
    with pytest.raises(ValueError, match="closed"):
        rig.ingester.fileno()


@pytest.mark.parametrize("threads", [0, -1, 65])
def test_a_number_of_threads_that_makes_no_sense_is_refused(pair: tuple[Any, Any], threads: int) -> None:
    with pytest.raises(ValueError, match="threads must be 1 to 64"):
        pair[0].Ingester(threads)


def test_sixty_four_bodies_at_once_stay_apart(rig: Rig, pair: tuple[Any, Any]) -> None:
    jobs: list[tuple[Any, bytes, int, Any]] = []
    for n in range(64):
        body, (ours, peer), file = content(300_000 + n, seed=n), rig.connection(), rig.file()
        hasher = pair[1].Hasher("sha512" if n % 2 else "sha256")
        jobs.append((rig.ingester.start(ours.fileno(), file, n, len(body), hasher), body, file, hasher))
        rig.send(peer, body)
    told = rig.finish(*(job for job, *_ in jobs))
    assert sum(job.done for job in told) == 64
    for job, body, file, hasher in jobs:
        assert job.outcome == "complete"
        assert read_back(file, job.offset, MIB) == body
        assert hasher.digest() == hashlib.new(hasher.algorithm, body).digest()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", PAIRS)
def test_however_a_body_is_cut_its_bytes_are_right(name: str, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 3000), max_size=8), "pieces")
    prefix = data.draw(st.integers(0, 500), "prefix")
    sent = prefix + sum(sizes)
    length = data.draw(st.integers(prefix, sent + 10), "length")
    body = content(sent, seed=sent)
    rig, hasher = Rig(PAIRS[name][0], threads=2), PAIRS[name][1].Hasher("sha256")
    (ours, peer), file, at = rig.connection(), rig.file(), prefix
    job = rig.ingester.start(ours.fileno(), file, 5, length, hasher, body[:prefix])
    for size in sizes:
        peer.sendall(body[at : at + size])
        at += size
    peer.shutdown(socket.SHUT_WR)
    rig.finish(job)
    assert job.outcome == ("complete" if length <= sent else "closed")
    assert job.received == min(length, sent)
    assert read_back(file, 5, sent + 100) == body[: job.received]
    assert hasher.digest() == hashlib.sha256(body[: job.received]).digest()
    rig.close()


async def test_the_loop_hears_of_progress_through_the_descriptor(rig: Rig, hasher: Any) -> None:
    body, (ours, peer), file = content(4 * MIB), rig.connection(), rig.file()
    loop, ended, seen = asyncio.get_running_loop(), asyncio.Event(), []

    def note() -> None:
        for job in rig.ingester.collect():
            seen.append(job.received)
            if job.done:
                ended.set()

    loop.add_reader(rig.ingester.fileno(), note)
    try:
        job = rig.ingester.start(ours.fileno(), file, 0, len(body), hasher)
        rig.send(peer, body)
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        loop.remove_reader(rig.ingester.fileno())
    assert job.outcome == "complete"
    assert seen == sorted(seen)
    assert hasher.digest() == hashlib.sha256(body).digest()
