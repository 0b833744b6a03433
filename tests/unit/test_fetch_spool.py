"""The file behind a fetch: what readers may see of it and when, and that it is gone when nobody holds it."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmirror.fetch.spool import Spool, SpoolRoom
from fastmirror.oci.span import Span
from tests.kit.fetching import until


@pytest.fixture
def room(tmp_path: Path) -> Iterator[SpoolRoom]:
    made = SpoolRoom(str(tmp_path / "spool"), 1 << 20)
    yield made
    assert made.used == 0
    assert os.listdir(made.directory) == []


async def test_a_spool_takes_its_place_until_the_last_hold_is_released(room: SpoolRoom):
    spool = await room.open(1000, 0)
    assert room.used == 1000
    assert os.fstat(spool.fileno()).st_size == 1000
    assert os.fstat(spool.fileno()).st_nlink == 0
    spool.hold()
    spool.release()
    assert room.used == 1000
    fd = spool.fileno()
    spool.release()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_a_directory_that_was_removed_is_made_again(room: SpoolRoom):
    os.rmdir(room.directory)
    spool = await room.open(1 << 19, 0)
    assert os.fstat(spool.fileno()).st_size == 1 << 19
    spool.release()


async def test_a_disk_that_is_full_is_told_before_anything_begins(room: SpoolRoom, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for size in (1000, 9 << 20):
        with pytest.raises(OSError, match="No space"):
            await room.open(size, 0)


async def test_one_who_does_not_wait_for_the_disk_leaves_nothing(room: SpoolRoom, monkeypatch: pytest.MonkeyPatch):
    loop = asyncio.get_running_loop()
    reached, go_on = asyncio.Event(), threading.Event()

    def slow(*_: object) -> None:
        loop.call_soon_threadsafe(reached.set)
        go_on.wait(10)

    monkeypatch.setattr(os, "posix_fallocate", slow)
    task = loop.create_task(room.open(9 << 20, 0))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert room.used == 9 << 20, "the thread still has the file"
    go_on.set()
    await until(lambda: room.used == 0, "the thread gave the file back")


async def test_without_o_tmpfile_the_file_has_no_name_either(room: SpoolRoom, monkeypatch: pytest.MonkeyPatch):
    real = os.open

    def no_tmpfile(path: str, flags: int, *more: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", no_tmpfile)
    spool = await room.open(10, 0)
    assert os.listdir(room.directory) == []
    assert os.fstat(spool.fileno()).st_size == 10
    spool.release()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(SpoolRoom(str(tmp_path), 1 << 20), os.open(tmp_path, os.O_TMPFILE | os.O_RDWR), 1000, 100)
    yield made
    made.release()


def test_readers_see_what_has_come_but_not_the_last_bytes(spool: Spool):
    assert spool.available(0) == 0
    spool.advance(500)
    assert spool.available(0) == 500
    assert spool.available(499) == 1
    assert spool.available(500) == 0
    spool.advance(1000)
    assert spool.available(0) == 900
    assert spool.available(900) == 0
    spool.verify()
    assert spool.available(0) == 1000
    assert spool.available(999) == 1


def test_after_the_last_byte_that_will_come_there_is_no_more(spool: Spool):
    spool.advance(500)
    spool.stop()
    assert spool.available(0) == 500
    assert spool.available(500) == -1
    assert spool.available(700) == -1


def test_of_wrong_content_nothing_more_goes_out(spool: Spool):
    spool.advance(500)
    spool.spoil()
    assert spool.available(0) == -1


def test_what_was_shown_is_never_written_again(spool: Spool):
    spool.advance(1)
    with pytest.raises(AssertionError):
        spool.rewind()


def test_a_waiting_reader_is_woken_once_when_there_is_something_for_it(spool: Spool):
    woken: list[str] = []
    spool.advance(100)
    spool.wait("near", 100, lambda: woken.append("near"))
    spool.wait("far", 800, lambda: woken.append("far"))
    spool.advance(200)
    assert woken == ["near"]
    spool.advance(850)
    assert woken == ["near", "far"]
    spool.wait("held back", 900, lambda: woken.append("held back"))
    spool.advance(1000)
    assert woken == ["near", "far"]
    spool.verify()
    assert woken == ["near", "far", "held back"]


def test_a_reader_that_left_is_not_woken_and_one_may_leave_while_another_is_woken(spool: Spool):
    woken: list[str] = []

    def wake() -> None:
        woken.append("first")
        spool.forget("second")

    spool.wait("first", 0, wake)
    spool.wait("second", 0, lambda: woken.append("second"))
    spool.stop()
    assert woken == ["first"]


def test_a_woken_reader_may_wait_again_at_once(spool: Spool):
    positions: list[int] = []

    def wake() -> None:
        positions.append(spool.frontier)
        spool.wait("reader", spool.limit, wake)

    spool.wait("reader", 0, wake)
    for frontier in (10, 20, 30):
        spool.advance(frontier)
    assert positions == [10, 20, 30]


@given(
    st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 1200), st.sampled_from(["verify", "stop", "spoil", None])
)
def test_no_reader_ever_sees_more_than_is_allowed(steps, withheld, end):
    room = SpoolRoom("/tmp", 1 << 20)
    spool = Spool(room, os.open("/tmp", os.O_TMPFILE | os.O_RDWR), 1000, withheld)
    try:
        for frontier in sorted(steps):
            spool.advance(frontier)
            assert spool.limit <= min(frontier, max(0, 1000 - withheld))
        if end:
            getattr(spool, end)()
        for position in (0, 1, 500, 999):
            most = 1000 if end == "verify" else 0 if end == "spoil" else min(spool.frontier, max(0, 1000 - withheld))
            expected = max(0, most - position)
            if end and not expected:
                expected = -1
            assert spool.available(position) == expected
    finally:
        spool.release()
    assert room.used == 0


async def test_bytes_beyond_the_frontier_may_be_read_where_they_are_shown(room: SpoolRoom):
    spool = await room.open(1000, 100)
    woken: list[int] = []
    for position in (0, 500, 600):
        spool.wait(position, position, lambda at=position: woken.append(at))
    assert sorted(spool.waited_for()) == [0, 500, 600]
    spool.show(Span(500, 600))
    assert spool.begun
    assert [spool.available(at) for at in (0, 499, 500, 599, 600)] == [0, 0, 100, 1, 0]
    assert (woken, spool.limit) == ([500], 0)
    spool.show(Span(850, 1000))
    assert spool.available(850) == 50, "the last ones are withheld here too"
    spool.advance(700)
    assert woken == [500, 0, 600]
    assert [spool.available(at) for at in (500, 700, 850)] == [200, 0, 50]
    spool.spoil()
    assert [spool.available(at) for at in (0, 500, 850)] == [-1, -1, -1]
    spool.release()


async def test_a_spool_of_which_something_was_shown_does_not_begin_again(room: SpoolRoom):
    spool = await room.open(1000, 0)
    spool.rewind()
    spool.show(Span(500, 501))
    with pytest.raises(AssertionError, match="never written again"):
        spool.rewind()
    spool.release()
