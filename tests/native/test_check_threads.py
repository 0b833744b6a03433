"""The threads of the native checker: what they leave alone, what they leave behind, and that nothing can stop them."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fastmirror._native import check, hashing
from fastmirror._native.check import Checker, Follow, Sum
from fastmirror._native.hashing import Hasher
from tests.kit.waiting import eventually
from tests.native.checking import PIECE, Rig, content, pieces


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(check, hashing)
    yield made
    made.close()


def tasks() -> list[Path]:
    found = [task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text().startswith("fm-check-")]
    return sorted(found, key=lambda task: (task / "comm").read_text())


def has_nice(task: Path, value: int) -> bool:
    return os.getpriority(os.PRIO_PROCESS, int(task.name)) == value


def held() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def test_its_threads_have_names_and_step_back_behind_the_loop() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    checker = Checker(2, 7)
    assert [(task / "comm").read_text() for task in tasks()] == ["fm-check-0\n", "fm-check-1\n"]
    for task in tasks():
        eventually(partial(has_nice, task, min(19, own + 7)), "the thread has its nice value")
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
    checker.close()
    assert tasks() == []


def test_works_that_ended_before_the_loop_looks_are_one_wake_up(rig: Rig) -> None:
    file = rig.file(content(PIECE))
    works = [rig.checker.sum(file, 0, PIECE, "blake3") for _ in range(5)]
    eventually(lambda: all(work.position == PIECE for work in works), "all are hashed")
    last = rig.checker.sum(file, 0, 1, "blake3")  # it is begun after those, and there are two threads
    eventually(lambda: last.position == 1, "the last one is hashed")
    assert all(work in rig.collect() or work in rig.ended for work in works)
    rig.finish(last)
    assert not select.select([rig.checker.fileno()], [], [], 0.02)[0]


def test_bytes_are_hashed_while_python_never_gives_up_the_gil(rig: Rig) -> None:
    data = content(16 * PIECE)
    file, hasher = rig.file(data), Hasher("sha256")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        works = [rig.checker.sum(file, 0, len(data), "blake3"), rig.checker.follow(file, hasher, len(data))]
        works[1].advance(len(data))
        deadline = time.monotonic() + 30
        while not all(work.done for work in works) and time.monotonic() < deadline:
            rig.collect()
    finally:
        sys.setswitchinterval(interval)
    assert [work.outcome for work in works] == ["complete", "complete"]
    assert works[0].hashes == pieces(data, "blake3")
    assert hasher.digest() == hashlib.sha256(data).digest()


def test_a_long_work_does_not_keep_short_ones_from_the_only_thread() -> None:
    rig = Rig(check, hashing)
    rig.checker.close()
    rig.checker = Checker(1)
    file = rig.file()
    os.ftruncate(file, 2048 * PIECE)
    long = rig.checker.sum(file, 0, 2048 * PIECE, "sha256")
    short = rig.checker.sum(file, 0, PIECE, "blake3")
    rig.finish(short)
    assert not long.done
    long.cancel()
    rig.finish(long)
    assert (long.outcome, long.hashes) == ("cancelled", b"")
    rig.close()


def test_a_storm_of_cancels_tells_every_work_once_and_every_hash_is_right(rig: Rig) -> None:
    dice = random.Random(7)
    data = content(6 * PIECE)
    file = rig.file(data)
    expected = pieces(data, "blake3")
    told: list[Sum | Follow] = []
    works: list[Sum | Follow] = []
    for _ in range(300):
        if dice.random() < 0.5:
            first = dice.randrange(6)
            works.append(rig.checker.sum(file, first * PIECE, dice.randint(first + 1, 6) * PIECE, "blake3"))
        else:
            works.append(rig.checker.follow(file, Hasher("sha256"), dice.randrange(len(data))))
        for work in dice.choices(works, k=4):
            if isinstance(work, Follow):
                work.advance(dice.randrange(len(data)))
            if dice.random() < 0.1:
                work.cancel()
        told += rig.collect()
    for work in works:
        if isinstance(work, Follow):
            work.advance(len(data))
    told += rig.finish(*works)
    assert sorted(map(id, told)) == sorted(map(id, works))
    assert {work.outcome for work in works} == {"complete", "cancelled"}
    for work in works:
        if isinstance(work, Sum) and work.outcome == "complete":
            assert work.hashes == expected[work.start // PIECE * 32 : work.stop // PIECE * 32]


@pytest.mark.memory
def test_thousands_of_works_leave_no_descriptor_thread_memory_or_object(rig: Rig) -> None:
    file, hasher = rig.file(content(70_000)), Hasher("sha256")

    def one(number: int) -> None:
        start = hasher.length
        works = [rig.checker.sum(file, 0, 1 + number * 7 % 70_000, "blake3"), rig.checker.follow(file, hasher, start)]
        rig.finish(*works)
        rig.ended.clear()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    for number in range(500):
        one(number)
    gc.collect()
    before = *held(), sys.getrefcount(hasher), sys.getrefcount(rig.checker)
    memory = resident()
    for number in range(5000):
        one(number)
    gc.collect()
    assert (*held(), sys.getrefcount(hasher), sys.getrefcount(rig.checker)) == before
    assert resident() - memory < PIECE


def test_making_and_dropping_checkers_leaves_nothing(rig: Rig) -> None:
    file, hasher = rig.file(content(PIECE)), Hasher("sha256")
    before = *held(), sys.getrefcount(hasher)
    for _ in range(50):
        checker = Checker(3)
        checker.follow(file, hasher, PIECE)
        checker.close()
        checker.collect()
        del checker
        del (unused := [Checker(1)])[0]
        assert unused == []
    assert (*held(), sys.getrefcount(hasher)) == before
    hasher.update(b"free again")


def test_works_cannot_be_made_by_hand() -> None:
    for kind in (Sum, Follow):
        with pytest.raises(TypeError, match=r"Checker\."):
            kind()


def test_a_forked_child_cannot_use_the_checker_and_does_not_disturb_it(rig: Rig) -> None:
    data = content(PIECE)
    file, hasher = rig.file(data), Hasher("sha256")
    work = rig.checker.follow(file, hasher, PIECE)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            refused = 0
            for use in (rig.checker.collect, rig.checker.fileno, partial(rig.checker.sum, file, 0, 1, "blake3")):
                try:
                    use()
                except RuntimeError:
                    refused += 1
            work.advance(1)
            work.cancel()
            rig.checker.close()
            rig.checker.close()
            os.write(write, b"refused %d" % refused)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"refused 3"
    os.close(read)
    os.close(write)
    work.advance(PIECE)
    rig.finish(work)
    assert (work.outcome, hasher.digest()) == ("complete", hashlib.sha256(data).digest())


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "del checker, work", "checker.close()", "work.cancel()"])
def test_the_interpreter_ends_cleanly_with_running_works(ending: str) -> None:
    program = """
        import os, sys, tempfile
        from fastmirror._native.check import Checker, PIECE
        from fastmirror._native.hashing import Hasher

        checker, file, hasher = Checker(4), tempfile.TemporaryFile(), Hasher("sha256")
        os.ftruncate(file.fileno(), 1 << 35)
        work = checker.follow(file.fileno(), hasher, 1 << 35)
        work.advance(1 << 35)
        checker.sum(file.fileno(), 0, 1 << 35, "blake3")
        while work.position < 10 << 20:
            checker.collect()
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program) + ending], env=env, timeout=30, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
