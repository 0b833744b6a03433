"""The threads of the native ingester: what they leave alone, what they leave behind, and that nothing can stop them."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fastmirror._native.hashing import Hasher
from fastmirror._native.ingest import Ingester, Job
from tests.kit.waiting import eventually
from tests.native.ingesting import MIB, Rig, content, read_back


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(sys.modules[Ingester.__module__])
    yield made
    made.close()


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def threads_named(prefix: str) -> list[Path]:
    return [task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text().startswith(prefix)]


def send_from_a_child(peer: socket.socket, size: int) -> int:
    """The pid of a process that sends that many zeros and ends; the socket is closed here."""
    pid = os.fork()
    if pid == 0:
        try:
            piece = bytes(MIB)
            while size > 0:
                size -= peer.send(piece[:size])
        finally:
            os._exit(0)
    peer.close()
    return pid


def blocks(task: Path, signals: set[int]) -> bool:
    """It blocks these and no others; glibc keeps 32 and 33 for itself."""
    status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
    blocked = {number for number in range(1, 65) if int(status["SigBlk"], 16) >> (number - 1) & 1}
    return blocked - {32, 33} == signals - {32, 33}


def test_its_threads_have_names_and_leave_signals_to_others() -> None:
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP}
    expected = set(range(1, 65)) - faults - {signal.SIGKILL, signal.SIGSTOP}
    ingester = Ingester(3)
    tasks = threads_named("fm-ingest-")
    assert sorted((task / "comm").read_text() for task in tasks) == [f"fm-ingest-{n}\n" for n in range(3)]
    for task in tasks:  # a thread that has just begun still blocks all of them, pthread_create(3) of glibc
        eventually(partial(blocks, task, expected), "only these signals are blocked")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    ingester.close()
    assert not threads_named("fm-ingest-")


def test_all_that_happened_before_the_loop_looks_is_one_wake_up(rig: Rig) -> None:
    (ours, peer), file = rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, 3 * MIB, None)
    rig.send(peer, bytes(2 * MIB))
    eventually(lambda: job.received == 2 * MIB, "all bytes that were sent")
    assert rig.news() == [job]
    assert not select.select([rig.ingester.fileno()], [], [], 0.05)[0]
    assert rig.ingester.collect() == []


def test_small_steps_wake_the_loop_every_two_milliseconds_at_most(rig: Rig) -> None:
    (ours, peer), file = rig.connection(), rig.file()
    begin, wakes = time.monotonic(), 0
    job = rig.ingester.start(ours.fileno(), file, 0, 5000, None)
    while not job.done:
        if job.received < 5000:
            peer.send(b"x")
        if select.select([rig.ingester.fileno()], [], [], 0)[0]:
            rig.ingester.collect()
            wakes += 1
    assert job.outcome == "complete"
    # its end, its first progress, and a timer that one thread set while another did
    assert wakes <= 3 + (time.monotonic() - begin) / 0.002 * 1.2


def test_bodies_arrive_while_python_never_gives_up_the_gil(rig: Rig) -> None:
    hasher, (ours, peer), file = Hasher("sha256"), rig.connection(), rig.file()
    interval = sys.getswitchinterval()
    child = send_from_a_child(peer, 16 * MIB)
    sys.setswitchinterval(1000)
    try:
        job = rig.ingester.start(ours.fileno(), file, 0, 16 * MIB, hasher)
        deadline = time.monotonic() + 30
        while not job.done and time.monotonic() < deadline:
            rig.ingester.collect()
    finally:
        sys.setswitchinterval(interval)
    assert job.outcome == "complete"
    assert hasher.digest() == hashlib.sha256(bytes(16 * MIB)).digest()
    os.waitpid(child, 0)


def test_an_endless_sender_does_not_keep_the_only_thread() -> None:
    rig = Rig(sys.modules[Ingester.__module__], threads=1)
    (greedy, source), (modest, peer) = rig.connection(), rig.connection()
    child = send_from_a_child(source, 1 << 40)
    null = os.open("/dev/null", os.O_WRONLY)
    try:
        endless = rig.ingester.start(greedy.fileno(), null, 0, 1 << 40, None)
        rig.until(endless, 8 * MIB)
        job = rig.ingester.start(modest.fileno(), rig.file(), 0, 3, None)
        peer.sendall(b"abc")
        rig.finish(job)
        assert (job.outcome, endless.outcome) == ("complete", "running")
        endless.cancel()
        rig.finish(endless)
        assert endless.outcome == "cancelled"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rig.close()
        os.close(null)


def test_a_storm_of_cancels_ends_every_job_once_and_every_byte_told_is_right(rig: Rig) -> None:
    body, dice, ends = content(2 * MIB), random.Random(2), 0
    for _ in range(40):
        jobs = []
        for _ in range(8):
            (ours, peer), file, hasher = rig.connection(), rig.file(), Hasher("sha256")
            jobs.append((rig.ingester.start(ours.fileno(), file, 0, len(body), hasher), hasher, file, ours, peer))
            rig.send(peer, body)
        dice.shuffle(jobs)
        for job, *_ in jobs:
            if dice.random() < 0.5:
                ends += sum(job.done for job in rig.collect())
            if dice.random() < 0.8:
                job.cancel()
        while rig.ingester.running:
            ends += sum(job.done for job in rig.news())
        for job, hasher, file, ours, peer in jobs:
            assert job.outcome in ("cancelled", "complete")
            assert read_back(file, 0, len(body)) == body[: job.received]
            assert hasher.digest() == hashlib.sha256(body[: job.received]).digest()
            ours.close()
            peer.close()
    assert ends == 40 * 8


@pytest.mark.memory
def test_thousands_of_jobs_leave_no_descriptor_thread_memory_or_object(rig: Rig) -> None:
    hasher, (ours, peer), file, body = Hasher("sha256"), rig.connection(), rig.file(), content(70_000)

    def one(number: int) -> None:
        length = 1 + number * 7 % len(body)
        job = rig.ingester.start(ours.fileno(), file, 0, length, hasher, body[: length // 2])
        peer.sendall(body[length // 2 : length])
        rig.finish(job)
        rig.ended.clear()
        assert job.outcome == "complete"

    for number in range(500):
        one(number)
    gc.collect()
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), sys.getrefcount(hasher)
    memory = resident()
    for number in range(5000):
        one(number)
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), sys.getrefcount(hasher)) == before
    assert resident() - memory < MIB  # 200 bytes a job would be as much


def test_making_and_dropping_ingesters_with_running_jobs_leaves_nothing(rig: Rig) -> None:
    hasher, (ours, _peer), file = Hasher("sha256"), rig.connection(), rig.file()
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), sys.getrefcount(hasher)
    for _ in range(50):
        ingester = Ingester(4)
        job = ingester.start(ours.fileno(), file, 0, 100, hasher, b"prefix")
        del ingester  # here it collects for the last time
        assert job.outcome == "cancelled"
        del job
    assert (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), sys.getrefcount(hasher)) == before
    hasher.update(b"free again")


def test_jobs_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError, match=r"Ingester\.start"):
        Job()


def test_a_forked_child_cannot_use_the_ingester_and_does_not_disturb_it(rig: Rig) -> None:
    body, (ours, peer), file = content(MIB), rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, len(body), None)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            refused = 0
            for use in (
                rig.ingester.collect,
                rig.ingester.fileno,
                lambda: rig.ingester.start(ours.fileno(), file, 0, 1, None),
            ):
                try:
                    use()
                except RuntimeError:
                    refused += 1
            rig.ingester.close()
            rig.ingester.close()
            os.write(write, b"refused %d" % refused)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"refused 3"
    os.close(read)
    os.close(write)
    rig.send(peer, body)
    rig.finish(job)
    assert job.outcome == "complete"
    assert read_back(file, 0, 2 * MIB) == body


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "del ingester", "ingester.close()", "job.cancel()", "cycle()"])
def test_the_interpreter_ends_cleanly_with_running_jobs(ending: str) -> None:
    program = """
        import os, socket, sys, tempfile, threading
        from fastmirror._native.hashing import Hasher
        from fastmirror._native.ingest import Ingester

        ingester, file, hasher = Ingester(4), tempfile.TemporaryFile(), Hasher("sha256")
        ours, peer = socket.socketpair()
        job = ingester.start(ours.fileno(), file.fileno(), 0, 1 << 40, hasher, b"x" * 1000)

        class Holder:
            pass

        def cycle():
            global ingester, job
            holder = Holder()
            holder.itself, holder.ingester, holder.job = holder, ingester, job
            del ingester, job

        def feed():
            try:
                while True:
                    peer.send(bytes(65536))
            except OSError:
                pass

        threading.Thread(target=feed, daemon=True).start()
        while job.received < 10 << 20:
            ingester.collect()
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program) + ending], env=env, timeout=30, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
