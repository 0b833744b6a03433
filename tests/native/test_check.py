"""Hashes of what is in files: the native checker and its twin alike."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmirror._native import check as native
from fastmirror._native import hashing as native_hashing
from tests.native.checking import PIECE, SUMS, Rig, content, pieces
from tests.twins import check as twin
from tests.twins import hashing as twin_hashing

PAIRS = {"native": (native, native_hashing), "twin": (twin, twin_hashing)}


@pytest.fixture(params=PAIRS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(*PAIRS[request.param])
    yield made
    made.close()


@pytest.mark.parametrize("algorithm", SUMS)
def test_every_piece_has_its_hash_and_the_last_may_be_short(rig: Rig, algorithm: str) -> None:
    data = content(3 * PIECE + 12345)
    work = rig.checker.sum(rig.file(data), 0, len(data), algorithm)
    assert (work.outcome, work.done, work.hashes, work.algorithm) == ("running", False, b"", algorithm)
    assert rig.finish(work) == [work]
    assert (work.outcome, work.errno, work.done, work.position) == ("complete", 0, True, len(data))
    assert work.hashes == pieces(data, algorithm)
    assert rig.checker.running == 0
    assert rig.collect() == []


def test_pieces_in_the_middle_are_hashed_alone(rig: Rig) -> None:
    data = content(4 * PIECE)
    work = rig.checker.sum(rig.file(data), PIECE, 3 * PIECE, "blake3")
    rig.finish(work)
    assert (work.start, work.stop) == (PIECE, 3 * PIECE)
    assert work.hashes == pieces(data[PIECE : 3 * PIECE], "blake3")


def test_no_bytes_have_no_pieces(rig: Rig) -> None:
    file = rig.file()
    nothing = rig.checker.sum(file, 0, 0, "blake3")
    hasher = rig.hashing.Hasher("sha256")
    empty = rig.checker.follow(file, hasher, 0)
    rig.finish(nothing, empty)
    assert (nothing.outcome, nothing.hashes, empty.outcome) == ("complete", b"", "complete")
    assert hasher.hexdigest() == hashlib.sha256().hexdigest()


def test_many_works_go_on_at_once_and_each_is_told_once(rig: Rig) -> None:
    data = content(8 * PIECE)
    file = rig.file(data)
    hashers = [rig.hashing.Hasher("sha256") for _ in range(3)]
    follows = [rig.checker.follow(file, hasher, len(data)) for hasher in hashers]
    sums = [rig.checker.sum(file, at, at + PIECE, "blake3") for at in range(0, len(data), PIECE) for _ in range(3)]
    for follow in follows:
        follow.advance(len(data))
    told = rig.finish(*sums, *follows)
    assert sorted(map(id, told)) == sorted(map(id, [*sums, *follows]))
    assert b"".join(work.hashes for work in sums[::3]) == pieces(data, "blake3")
    assert {hasher.hexdigest() for hasher in hashers} == {hashlib.sha256(data).hexdigest()}


def test_a_follow_never_reads_beyond_its_limit(rig: Rig) -> None:
    data = content(3 * PIECE)
    file = rig.file(b"\xff" * len(data))  # what is beyond the limit is not right yet
    hasher = rig.hashing.Hasher("sha256")
    follow = rig.checker.follow(file, hasher, len(data))
    for limit in (1, 77, PIECE - 1, PIECE + 5, 5, len(data), len(data) + 99):
        os.pwrite(file, data[: min(limit, len(data))], 0)
        follow.advance(limit)
        rig.until(follow, min(limit, len(data)))
    rig.finish(follow)
    assert (follow.outcome, follow.position) == ("complete", len(data))
    assert hasher.hexdigest() == hashlib.sha256(data).hexdigest()


def test_a_hasher_goes_on_from_where_it_is_and_is_given_back_when_its_follow_is_cancelled(rig: Rig) -> None:
    data = content(2 * PIECE + 3)
    file = rig.file(data)
    hasher = rig.hashing.Hasher("sha256")
    hasher.update(data[:100])
    first = rig.checker.follow(file, hasher, len(data))
    first.advance(PIECE)
    rig.until(first, PIECE)
    with pytest.raises(RuntimeError):
        hasher.digest()
    first.cancel()
    rig.finish(first)
    assert (first.outcome, hasher.length) == ("cancelled", PIECE)
    other = hasher.copy()
    works = [rig.checker.follow(file, each, len(data)) for each in (hasher, other)]
    for work in works:
        work.advance(len(data))
    rig.finish(*works)
    assert hasher.hexdigest() == other.hexdigest() == hashlib.sha256(data).hexdigest()


def test_an_idle_follow_can_be_cancelled(rig: Rig) -> None:
    follow = rig.checker.follow(rig.file(b"abc"), rig.hashing.Hasher("sha256"), 3)
    rig.collect()
    follow.cancel()
    follow.cancel()
    rig.finish(follow)
    assert (follow.outcome, follow.position) == ("cancelled", 0)
    follow.advance(3)
    follow.cancel()
    assert follow.outcome == "cancelled"


def test_a_file_that_is_too_short_is_told_as_such(rig: Rig) -> None:
    file = rig.file(content(PIECE + 100))
    work = rig.checker.sum(file, 0, 2 * PIECE, "blake3")
    follow = rig.checker.follow(file, rig.hashing.Hasher("sha256"), 2 * PIECE)
    follow.advance(2 * PIECE)
    rig.finish(work, follow)
    assert (work.outcome, work.hashes) == ("short", b"")
    assert follow.outcome == "short"


def test_a_file_that_cannot_be_read_is_told_with_its_errno(rig: Rig) -> None:
    directory = os.open("/", os.O_RDONLY)
    rig.stack.callback(os.close, directory)
    work = rig.checker.sum(directory, 0, 10, "sha256")
    rig.finish(work)
    assert (work.outcome, work.errno, work.hashes) == ("failed", errno.EISDIR, b"")


def test_what_makes_no_sense_is_refused_and_nothing_has_begun(rig: Rig) -> None:
    file, hasher = rig.file(b"abc"), rig.hashing.Hasher("sha256")
    for start, stop in ((1, 2), (-PIECE, 0), (PIECE, 0), (0, 65537 * PIECE)):
        with pytest.raises(ValueError, match="pieces"):
            rig.checker.sum(file, start, stop, "blake3")
    with pytest.raises(ValueError, match="md5"):
        rig.checker.sum(file, 0, 3, "md5")
    with pytest.raises(OSError, match="Bad file descriptor"):
        rig.checker.sum(-1, 0, 3, "blake3")
    with pytest.raises(OSError, match="Bad file descriptor"):
        rig.checker.follow(-1, hasher, 3)
    hasher.update(b"abc")
    with pytest.raises(ValueError, match="more"):
        rig.checker.follow(file, hasher, 2)
    assert rig.checker.running == 0
    work = rig.checker.follow(file, hasher, 4)
    with pytest.raises(RuntimeError):
        rig.checker.follow(file, hasher, 4)
    work.cancel()
    rig.finish(work)
    assert hasher.length == 3


def test_closing_ends_all_works_which_are_still_told(rig: Rig) -> None:
    file, hasher = rig.file(content(PIECE)), rig.hashing.Hasher("sha256")
    follow = rig.checker.follow(file, hasher, PIECE)
    rig.checker.close()
    rig.checker.close()
    assert rig.checker.collect() == [follow]
    assert (follow.outcome, rig.checker.threads, rig.checker.running, hasher.length) == ("cancelled", 0, 0, 0)
    for call in (
        rig.checker.fileno,
        lambda: rig.checker.sum(file, 0, 1, "blake3"),
        lambda: rig.checker.follow(file, hasher, 3),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    follow.cancel()


@pytest.mark.parametrize("check", [native, twin])
def test_numbers_out_of_range_are_refused(check: Any) -> None:
    for arguments in ((0,), (65,), (1, -1), (1, 20)):
        with pytest.raises(ValueError, match="must be"):
            check.Checker(*arguments)


# ---- the algorithms

LENGTHS = st.one_of(
    st.integers(0, 300),
    st.integers(0, 6000),
    st.integers(0, 1024).map(lambda chunks: chunks << 10),
    st.integers(0, PIECE),
)


@pytest.mark.parametrize("implementation", native.implementations())
@settings(max_examples=60)
@given(size=LENGTHS, seed=st.integers(0, 3))
def test_blake3_is_what_others_say_it_is(implementation: str, size: int, seed: int) -> None:
    data = content(size, seed)
    assert native.piece_hash(data, "blake3", implementation) == SUMS["blake3"](data)


@pytest.mark.parametrize("implementation", native.implementations())
def test_blake3_of_every_length_up_to_some_chunks(implementation: str) -> None:
    data = content(5000)
    sizes = [*range(200), *range(960, 1100), *range(2000, 2100), *range(3060, 3080), *range(4090, 5000, 7)]
    assert [
        size
        for size in sizes
        if native.piece_hash(data[:size], "blake3", implementation) != blake3(data[:size]).digest()
    ] == []


@pytest.mark.parametrize("algorithm", ["sha256", "xxh3-128"])
def test_other_sums_of_every_length(algorithm: str) -> None:
    data = content(PIECE)
    sizes = [*range(2200), *range(3000, 5000, 13), PIECE - 1, PIECE]
    assert [size for size in sizes if native.piece_hash(data[:size], algorithm) != SUMS[algorithm](data[:size])] == []


@pytest.mark.parametrize("check", [native, twin])
def test_a_hash_of_what_is_no_piece_is_refused(check: Any) -> None:
    assert check.implementations()[-1] == "portable"
    for arguments in ((bytes(PIECE + 1), "blake3"), (b"", "md5"), (b"", "blake3", "abacus")):
        with pytest.raises(ValueError, match=r"\S"):
            check.piece_hash(*arguments)
