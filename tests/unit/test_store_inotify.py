"""DirectoryWatcher against the real kernel."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fastmirror.store import inotify
from fastmirror.store.inotify import Appeared, DirectoryEvent, DirectoryWatcher, Rescan, Vanished


class Heard:
    """Collects events and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[DirectoryEvent] = []
        self._changed = asyncio.Event()

    def __call__(self, events: list[DirectoryEvent]) -> None:
        self.events.extend(events)
        self._changed.set()

    async def until(self, condition: Callable[[list[DirectoryEvent]], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition(self.events):
                self._changed.clear()
                await self._changed.wait()

    async def until_heard(self, event: DirectoryEvent, times: int = 1) -> None:
        await self.until(lambda events: events.count(event) >= times)


async def run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0


@asynccontextmanager
async def watching(*directories: Path, recheck: float = 0.05, rescan: float = 60.0) -> AsyncIterator[Heard]:
    heard = Heard()
    descriptors = len(os.listdir("/proc/self/fd"))
    async with asyncio.TaskGroup() as group:
        watcher = DirectoryWatcher(directories, heard, recheck, rescan)
        task = group.create_task(watcher.run())
        await heard.until(lambda events: len(events) >= len(directories))
        yield heard
        assert not task.done()
        task.cancel()
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_begins_with_a_rescan_of_each_directory_in_the_order_given(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    async with watching(one, two) as heard:
        assert heard.events[:2] == [Rescan(one), Rescan(two)]


async def test_files_moved_in_written_and_removed_are_heard_in_order(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (tmp_path / "a").write_bytes(b"a")
    async with watching(watched) as heard:
        start = len(heard.events)
        (tmp_path / "a").rename(watched / "a")
        (watched / "b").write_bytes(b"b")
        (watched / "a").unlink()
        (watched / "b").rename(tmp_path / "b")
        await heard.until_heard(Vanished(watched, "b"))
        assert [event for event in heard.events[start:] if not isinstance(event, Rescan)] == [
            Appeared(watched, "a"),
            Appeared(watched, "b"),
            Vanished(watched, "a"),
            Vanished(watched, "b"),
        ]


async def test_a_file_is_not_heard_before_it_is_closed(tmp_path: Path) -> None:
    async with watching(tmp_path) as heard:
        with (tmp_path / "growing").open("wb") as growing:
            growing.write(b"x")
            growing.flush()
            (tmp_path / "later").write_bytes(b"y")
            await heard.until_heard(Appeared(tmp_path, "later"))
            assert Appeared(tmp_path, "growing") not in heard.events
        await heard.until_heard(Appeared(tmp_path, "growing"))


async def test_files_that_get_other_rights_are_heard_and_directories_are_rescanned(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "closed").touch(0)
    async with watching(watched, recheck=60) as heard:
        (watched / "closed").chmod(0o644)
        await heard.until_heard(Appeared(watched, "closed"))
        watched.chmod(0o700)
        await heard.until_heard(Rescan(watched), 2)


async def test_a_directory_made_in_a_watched_parent_is_rescanned_at_once(tmp_path: Path) -> None:
    child = tmp_path / "child"
    async with watching(tmp_path, child, recheck=60) as heard:
        child.mkdir()
        await heard.until_heard(Rescan(child), times=2)
        (child / "file").write_bytes(b"x")
        await heard.until_heard(Appeared(child, "file"))


async def test_a_directory_without_a_watched_parent_is_found_when_it_comes(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    async with watching(deep) as heard:
        deep.mkdir(parents=True)
        await heard.until_heard(Rescan(deep), times=2)
        (deep / "file").write_bytes(b"x")
        await heard.until_heard(Appeared(deep, "file"))


async def test_a_directory_that_is_removed_and_made_again_is_watched_again(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    async with watching(watched) as heard:
        shutil.rmtree(watched)
        await heard.until_heard(Rescan(watched), times=2)
        watched.mkdir()
        await heard.until_heard(Rescan(watched), times=3)
        (watched / "file").write_bytes(b"x")
        await heard.until_heard(Appeared(watched, "file"))


async def test_a_directory_swapped_for_a_link_to_another_is_watched_there(tmp_path: Path) -> None:
    watched, other = tmp_path / "watched", tmp_path / "other"
    watched.mkdir()
    other.mkdir()
    async with watching(watched) as heard:
        watched.rename(tmp_path / "old")
        watched.symlink_to(other)
        rescans = heard.events.count(Rescan(watched))
        await heard.until_heard(Rescan(watched), times=rescans + 1)
        (tmp_path / "old" / "stale").write_bytes(b"x")
        (other / "fresh").write_bytes(b"x")
        await heard.until_heard(Appeared(watched, "fresh"))
        assert Appeared(watched, "stale") not in heard.events


@pytest.mark.needs("root", "mount")
async def test_a_file_system_that_is_mounted_over_and_unmounted_again_is_noticed(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "below").write_bytes(b"x")
    async with watching(watched) as heard:
        await run("mount", "-t", "tmpfs", "tmpfs", str(watched))
        try:
            await heard.until_heard(Rescan(watched), times=2)
            (watched / "above").write_bytes(b"x")
            await heard.until_heard(Appeared(watched, "above"))
        finally:
            rescans = heard.events.count(Rescan(watched))
            await run("umount", str(watched))
        await heard.until_heard(Rescan(watched), times=rescans + 1)
        (watched / "again").write_bytes(b"x")
        await heard.until_heard(Appeared(watched, "again"))


async def test_two_paths_to_one_directory_both_hear(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    async with watching(real, link) as heard:
        (real / "file").write_bytes(b"x")
        await heard.until_heard(Appeared(link, "file"))
        assert Appeared(real, "file") in heard.events
        link.unlink()
        await heard.until(lambda events: events.count(Rescan(link)) >= 2)
        (real / "second").write_bytes(b"x")
        await heard.until_heard(Appeared(real, "second"))


async def test_an_overflow_of_the_queue_means_a_rescan_of_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    overflow = inotify._HEADER.pack(-1, inotify._OVERFLOW, 0, 0)
    read = os.read
    queued = [overflow]

    def overflowing(fd: int, count: int) -> bytes:
        target = os.readlink(f"/proc/self/fd/{fd}")
        return queued.pop() if queued and target == "anon_inode:inotify" else read(fd, count)

    async with watching(tmp_path, other, recheck=60) as heard:
        monkeypatch.setattr(os, "read", overflowing)
        (tmp_path / "wakes").write_bytes(b"x")
        await heard.until_heard(Rescan(other), times=2)
        assert heard.events.count(Rescan(tmp_path)) >= 2
        assert Appeared(tmp_path, "wakes") in heard.events


async def test_every_directory_is_rescanned_periodically(tmp_path: Path) -> None:
    async with watching(tmp_path, recheck=0.02, rescan=0.05) as heard:
        await heard.until(lambda events: len(events) >= 4)
        assert set(heard.events) == {Rescan(tmp_path)}


async def test_without_inotify_directories_are_listed_again_and_the_user_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class NoInotify:
        def inotify_init1(self, flags: int) -> int:
            ctypes.set_errno(24)
            return -1

    monkeypatch.setattr(inotify, "_libc", NoInotify())
    with caplog.at_level(logging.WARNING):
        async with watching(tmp_path, recheck=0.02) as heard:
            await heard.until_heard(Rescan(tmp_path), times=4)
            monkeypatch.undo()
            await heard.until(lambda _: bool(_inotify_descriptors()))
            (tmp_path / "file").write_bytes(b"x")
            await heard.until_heard(Appeared(tmp_path, "file"))
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [getattr(record, "event", None) for record in warnings] == ["store.watch_degraded"]
    assert "fs.inotify.max_user_instances" in warnings[0].getMessage()


def _inotify_descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:inotify":
                found.append(fd)
        except OSError:
            continue
    return found
