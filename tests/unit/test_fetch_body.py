"""Bodies from peers on their way: patience, and ends before their end."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastmirror.config import FetchSettings
from fastmirror.http import body as body_module
from fastmirror.http.body import Body, Connected, Landing, Received
from fastmirror.http.intake import Intake, Order
from fastmirror.http.outcome import PeerOutcome
from fastmirror.http.response import Part
from fastmirror.oci.span import Span
from tests.kit.content import blob
from tests.kit.fetching import until
from tests.kit.waiting import NOISE

CONTENT = blob(300_000, 1)


# ---- patience: is it the peer that is late, or are we?


class StuckIntake:
    """An intake whose threads do nothing: a job begins, and ends only when it is cancelled."""

    def __init__(self) -> None:
        self.job = StuckJob()

    def begin(self, order: object, watcher: Any) -> StuckJob:
        self.job.watcher = watcher
        return self.job


class StuckJob:
    received = 0
    errno = 0
    done = False
    outcome = "running"
    watcher: Any = None

    def __init__(self) -> None:
        self.last_progress = time.monotonic()

    def cancel(self) -> None:
        if not self.done:
            self.done, self.outcome = True, "cancelled"
            asyncio.get_running_loop().call_soon(self.watcher.ended, self)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair()
    for sock in pair:
        sock.setblocking(False)
    yield pair
    for sock in pair:
        sock.close()


def stuck(sock: socket.socket) -> Body:
    settings = FetchSettings(stall_timeout=0.05)
    return Body(Part(Span(0, 100), 100), Connected(sock, b"", None), StuckIntake(), settings)  # type: ignore[arg-type]


def nowhere() -> Landing:
    return Landing(-1, None, lambda _: None, lambda: None)


async def test_a_peer_without_a_byte_to_read_has_stalled(ends: tuple[socket.socket, socket.socket]) -> None:
    began = time.monotonic()
    assert await stuck(ends[0]).receive(nowhere()) == Received(PeerOutcome.STALLED, 0)
    assert 0.04 < time.monotonic() - began < 0.05 * 2 * NOISE


async def test_a_peer_whose_bytes_we_do_not_take_has_not_stalled(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "DISK_SECONDS", 0.3)
    ends[1].send(b"bytes that wait")
    began = time.monotonic()
    received = await stuck(ends[0]).receive(nowhere())
    assert received == Received(PeerOutcome.LEFT, 0, errno.ETIMEDOUT), "our disk is to blame, and nobody else"
    assert time.monotonic() - began > 0.25


@pytest.mark.parametrize("waits", [False, True])
async def test_a_body_is_not_given_up_while_it_is_us_who_do_not_take_its_bytes(
    ends: tuple[socket.socket, socket.socket], waits: bool
) -> None:
    body = stuck(ends[0])
    if waits:
        ends[1].send(b"bytes that wait")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(body.receive(nowhere()))
        await asyncio.sleep(0)
        assert body.give_up(PeerOutcome.STALLED) is not waits
        if waits:
            body.end(PeerOutcome.LEFT)
    assert task.result().outcome is (PeerOutcome.LEFT if waits else PeerOutcome.STALLED)


# ---- shorter than was asked for


class Receiving:
    """A body of CONTENT[100:] from a socket, into a file."""

    def __init__(self, directory: Path, sock: socket.socket) -> None:
        self.intake = Intake(2)
        self.fd = os.open(directory, os.O_TMPFILE | os.O_RDWR)
        self.kept: list[socket.socket] = []
        self.frontier = 0
        part = Part(Span(100, len(CONTENT)), len(CONTENT))
        self.body = Body(part, Connected(sock, b"", self.kept.append), self.intake, FetchSettings())
        landing = Landing(self.fd, None, self._moved, lambda: None)
        self.task = asyncio.get_running_loop().create_task(self.body.receive(landing))

    def _moved(self, frontier: int) -> None:
        self.frontier = frontier

    def close(self) -> None:
        self.intake.close()
        os.close(self.fd)


@pytest.fixture
async def receiving(tmp_path: Path, ends: tuple[socket.socket, socket.socket]) -> AsyncIterator[Receiving]:
    made = Receiving(tmp_path, ends[0])
    await asyncio.sleep(0)
    yield made
    made.close()


async def test_a_body_that_was_cut_ends_there_and_its_connection_with_it(
    receiving: Receiving, ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[1].send(CONTENT[100:50_100])
    await until(lambda: receiving.frontier == 50_100, "bytes have come")
    assert receiving.body.shorten(60_000) == 60_000
    ends[1].send(CONTENT[50_100:70_000])
    assert await receiving.task == Received(PeerOutcome.GOT, 59_900)
    assert receiving.frontier == 60_000
    assert receiving.kept == []
    assert os.pread(receiving.fd, len(CONTENT), 100) == CONTENT[100:60_000]


async def test_a_body_cannot_be_cut_before_what_has_come(
    receiving: Receiving, ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[1].send(CONTENT[100:50_100])
    await until(lambda: receiving.frontier == 50_100, "bytes have come")
    assert receiving.body.shorten(0) == 50_100
    assert await receiving.task == Received(PeerOutcome.GOT, 50_000)
    assert receiving.body.shorten(0) == 50_100, "nor is it cut again"


async def test_a_cut_behind_the_end_changes_nothing(
    receiving: Receiving, ends: tuple[socket.socket, socket.socket]
) -> None:
    assert receiving.body.shorten(len(CONTENT) + 5) == len(CONTENT)
    sender = asyncio.to_thread(ends[1].sendall, CONTENT[100:])
    ends[1].setblocking(True)
    await sender
    assert await receiving.task == Received(PeerOutcome.GOT, len(CONTENT) - 100)
    assert receiving.kept == [ends[0]]


# ---- watchers


async def test_a_watcher_that_raises_keeps_nothing_from_the_others_and_is_told_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Four jobs that end in one batch: the watchers of two are broken."""
    intake = Intake(1)
    told: list[str] = []
    over = asyncio.Event()

    class Watching:
        def __init__(self, name: str) -> None:
            self.name = name

        def moved(self, job: object) -> None:
            raise ZeroDivisionError

        def ended(self, job: object) -> None:
            told.append(self.name)
            if len(told) == 4:
                over.set()
            if self.name.startswith("broken"):
                raise ZeroDivisionError

    with (tmp_path / "body").open("w+b") as file:
        pairs = [socket.socketpair() for _ in range(4)]
        try:
            for (ours, _), name in zip(pairs, ("broken 1", "whole 1", "broken 2", "whole 2"), strict=True):
                ours.setblocking(False)
                intake.begin(Order(ours.fileno(), file.fileno(), Span(0, 3), None, b""), Watching(name))
            for _, theirs in pairs:
                theirs.send(b"abc")
            async with asyncio.timeout(10):
                await over.wait()
        finally:
            intake.close()
            for pair in pairs:
                for sock in pair:
                    sock.close()
    assert sorted(told) == ["broken 1", "broken 2", "whole 1", "whole 2"]
    assert sum("watcher failed" in record.message for record in caplog.records) == 1
