"""Jobs that are made shorter while they run: the native ingester and its twin alike."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.ingesting import MIB, Rig, content, read_back
from tests.native.test_ingest import PAIRS


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return PAIRS[request.param]


@pytest.fixture
def rig(pair: tuple[Any, Any]) -> Iterator[Rig]:
    made = Rig(pair[0])
    yield made
    made.close()


def test_a_shortened_job_is_complete_where_it_was_cut(rig: Rig, pair: tuple[Any, Any]) -> None:
    body, (ours, peer), file, hasher = content(100_000), rig.connection(), rig.file(), pair[1].Hasher("sha256")
    job = rig.ingester.start(ours.fileno(), file, 10, MIB, hasher)
    peer.sendall(body[:40_000])
    rig.until(job, 40_000)
    assert job.shorten(70_000) == 70_000
    assert job.length == 70_000
    peer.sendall(body[40_000:])
    rig.finish(job)
    assert (job.outcome, job.received) == ("complete", 70_000)
    assert read_back(file, 10, MIB) == body[:70_000]
    assert hasher.digest() == hashlib.sha256(body[:70_000]).digest()


@pytest.mark.parametrize("length", [0, 39_999, 40_000])
def test_a_job_that_has_all_that_is_left_of_it_ends_without_one_more_byte(rig: Rig, length: int) -> None:
    body, (ours, peer), file = content(40_000), rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, MIB, None)
    peer.sendall(body)
    rig.until(job, len(body))
    assert job.shorten(length) == len(body), "what has arrived is not given back"
    rig.finish(job, seconds=5)
    assert (job.outcome, job.received, job.length) == ("complete", len(body), len(body))
    peer.settimeout(10)
    assert peer.recv(10) == b"", "and its peer sees the end"


def test_what_came_with_the_head_is_not_given_back(rig: Rig) -> None:
    (ours, _peer), file = rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, MIB, None, b"x" * 1000)
    assert job.shorten(10) == 1000
    rig.finish(job, seconds=5)
    assert (job.outcome, job.received) == ("complete", 1000)


def test_a_job_is_never_made_longer_and_an_ended_one_is_left_alone(rig: Rig) -> None:
    (ours, peer), file = rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, 6, None)
    assert [job.shorten(7), job.shorten(6), job.shorten(4), job.shorten(5)] == [6, 6, 4, 4]
    with pytest.raises(ValueError, match="length"):
        job.shorten(-1)
    peer.sendall(b"abcdefgh")
    rig.finish(job)
    assert (job.outcome, job.received) == ("complete", 4)
    assert job.shorten(0) == 4
    ours.settimeout(10)
    assert ours.recv(10, socket.MSG_PEEK)[:2] == b"ef", "not one byte more was taken"


def test_the_rest_of_a_shortened_job_comes_from_another_peer(rig: Rig) -> None:
    body, file = content(8 * MIB), rig.file()
    (slow, slow_peer), (fast, fast_peer) = rig.connection(), rig.connection()
    first = rig.ingester.start(slow.fileno(), file, 0, len(body), None)
    rig.send(slow_peer, body)
    rig.until(first, MIB)
    at = first.shorten(3 * MIB)
    second = rig.ingester.start(fast.fileno(), file, at, len(body) - at, None)
    rig.send(fast_peer, body[at:])
    rig.finish(first, second)
    assert (first.outcome, second.outcome) == ("complete", "complete")
    assert first.received == at
    assert read_back(file, 0, 9 * MIB) == body


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 4 * MIB), min_size=1, max_size=6))
@pytest.mark.parametrize("name", PAIRS)
def test_however_a_job_is_shortened_while_bytes_come_it_keeps_to_the_last_length_that_it_gave(
    name: str, cuts: list[int]
) -> None:
    body, before = content(4 * MIB), threading.active_count()
    rig = Rig(PAIRS[name][0], threads=2)
    (ours, peer), file = rig.connection(), rig.file()
    job = rig.ingester.start(ours.fileno(), file, 0, len(body), None)
    rig.send(peer, body)
    told = [len(body)]
    for cut in cuts:
        told.append(job.shorten(cut))
        assert min(cut, told[-2]) <= told[-1] <= told[-2]
        rig.collect()
    rig.finish(job)
    assert (job.outcome, job.received) == ("complete", told[-1])
    assert read_back(file, 0, 5 * MIB) == body[: told[-1]]
    rig.close()
    assert threading.active_count() == before + sum(sender.is_alive() for sender in rig.senders)
