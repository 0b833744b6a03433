"""Importing with other processes about: killed at any moment, several at once, and with no room left."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastmirror
from fastmirror.errors import ImportFailed, StoreError
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store.importer import import_archive
from fastmirror.store.layout import LayoutStore, open_layout
from tests.kit import content

NAME = "registry.example/team/app:1"
REFERENCE = Reference.parse(NAME)
BEFORE = "registry.example/before:1"
_SOURCE = Path(fastmirror.__file__).parents[1]


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that can import fastmirror and the tests."""
    environment = {**os.environ, "PYTHONPATH": f"{_SOURCE}:{Path(__file__).parents[2]}"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def state(root: Path) -> tuple[dict[str, str], set[Digest]]:
    """The names and the content of a layout, all of it checked byte for byte."""
    store = open_layout(root)
    digests = set(store.digests())
    for digest in digests:
        blob = store.open(digest)
        assert blob is not None
        with blob:
            assert Digest.of(blob.read_span(0, blob.size), digest.algorithm) == digest
    tags = {str(reference): str(target.digest) for reference, target in store.references()}
    store.close()
    return tags, digests


def in_progress(root: Path) -> list[Path]:
    return list((root / ".fastmirror" / "ingest").rglob("*"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = open_layout(tmp_path / "store", create=True)
    content.put(store, content.image(seed=9), BEFORE)
    store.close()
    return tmp_path / "store"


# Killed.

PAUSE = """
import sys
from pathlib import Path
from fastmirror.store.importer import import_archive
from fastmirror.store.layout import open_layout

paused = False
def progress(done, total):
    global paused
    if not paused and done > int(sys.argv[3]):
        paused = True
        print("paused", flush=True)
        sys.stdin.readline()

store = open_layout(Path(sys.argv[1]))
import_archive(store, sys.argv[2], progress=progress)
store.close()
print("done", flush=True)
"""


@pytest.mark.parametrize("after", [0, 1 << 20, 5 << 20])
def test_an_import_that_is_killed_leaves_the_store_as_it_was(root: Path, tmp_path: Path, after: int) -> None:
    made = content.image((3 << 20, 3 << 20))
    archive = content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: made}))
    before = state(root)
    with start(PAUSE, root, archive, after) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "paused\n"
        assert in_progress(root)
        assert state(root) == before
        assert in_progress(root), "another process removed what a living import writes"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert state(root) == before
    assert in_progress(root) == []
    store = open_layout(root)
    assert import_archive(store, archive) == [REFERENCE]
    store.close()
    assert state(root)[1] == before[1] | set(made.blobs)


def test_an_import_is_not_disturbed_by_a_store_that_is_opened_beside_it(root: Path, tmp_path: Path) -> None:
    archive = content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: content.image((3 << 20,))}))
    with start(PAUSE, root, archive, 1 << 20) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "paused\n"
        open_layout(root, create=True).close()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
    assert set(state(root)[0]) == {BEFORE, NAME}


def crash_at_every_step(root: str, archive: str) -> None:
    """Import again and again in a forked process that is killed before its nth change to the file system.

    Prints a line of JSON for each: whether it was killed, the names then, and whether all that they need is there.
    """
    for step in itertools.count():
        pid = os.fork()
        if pid == 0:
            _kill_before(step)
            store = open_layout(Path(root))
            import_archive(store, archive)
            store.close()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        tags, digests = state(Path(root))
        killed = os.WIFSIGNALED(status)
        left = len(in_progress(Path(root)))
        print(
            json.dumps({"killed": killed, "tags": sorted(tags), "digests": sorted(digests), "left": left}), flush=True
        )
        if not killed:
            assert os.waitstatus_to_exitcode(status) == 0
            return


def _kill_before(step: int) -> None:
    count = itertools.count()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if next(count) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **more)

        return call

    for name in ("rename", "fsync", "fchmod", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


def test_a_crash_before_any_change_to_the_disk_leaves_whole_blobs_and_whole_images(root: Path, tmp_path: Path) -> None:
    made = content.image()
    archive = content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: made}))
    before = state(root)[1]
    code = f"from {__name__} import crash_at_every_step; import sys; crash_at_every_step(*sys.argv[1:])"
    with start(code, root, archive) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    steps = [json.loads(line) for line in output.splitlines()]
    assert len(steps) > 15
    for each in steps:
        assert each["left"] == 0
        assert set(each["digests"]) <= before | set(made.blobs)
        if NAME in each["tags"]:
            assert set(each["digests"]) == before | set(made.blobs)
        assert BEFORE in each["tags"]
    assert [each["killed"] for each in steps] == [True] * (len(steps) - 1) + [False]
    assert NAME not in steps[0]["tags"]
    assert NAME in steps[-1]["tags"]


# Several at once.


def test_several_imports_at_once_lose_no_name(root: Path, tmp_path: Path) -> None:
    shared = (1536, 40960)
    commands = []
    for number in range(4):
        names = {f"registry.example/team/app{number}{each}:1": content.image(shared, seed=number % 2) for each in "ab"}
        archive = content.write_tar(tmp_path / f"{number}.tar", content.layout_files(names))
        commands.append([sys.executable, "-m", "fastmirror", "import", str(archive), "--store", f"oci:{root}"])
    environment = {**os.environ, "PYTHONPATH": str(_SOURCE)}
    processes = [subprocess.Popen(each, env=environment, stdout=subprocess.DEVNULL) for each in commands]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    tags, digests = state(root)
    assert set(tags) == {
        BEFORE,
        *(f"registry.example/team/app{number}{each}:1" for number in range(4) for each in "ab"),
    }
    both = set(content.image(shared, seed=0).blobs) | set(content.image(shared, seed=1).blobs)
    assert digests == both | set(content.image(seed=9).blobs)
    assert in_progress(root) == []


TAG = """
import sys
from pathlib import Path
from fastmirror.oci.reference import Reference
from fastmirror.store.layout import open_layout

store = open_layout(Path(sys.argv[1]))
target = store.resolve(Reference.parse("registry.example/before:1"))
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    store.tag(Reference("registry.example", f"by{sys.argv[2]}", str(number)), target)
store.close()
"""


def test_names_that_several_processes_write_at_once_are_all_kept(root: Path) -> None:
    processes = [start(TAG, root, number) for number in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
    assert len(state(root)[0]) == 1 + 3 * 40


# No room, no right.


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LayoutStore]:
    """A store on a file system of its own with little room."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", place], check=True)
    try:
        store = open_layout(place, create=True)
        content.put(store, content.image(seed=9), BEFORE)
        yield store
        store.close()
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.needs("root", "mount")
@pytest.mark.parametrize(
    ("small", "layers"),
    [("size=2m", (4 << 20,)), ("size=2m", (1 << 20,) * 3), ("nr_inodes=24", (1536,) * 20)],
    indirect=["small"],
)
@pytest.mark.parametrize("compress", [False, True])
def test_an_import_without_room_says_so_and_leaves_the_store_as_it_was(
    small: LayoutStore, tmp_path: Path, layers: tuple[int, ...], compress: bool
) -> None:
    archive = content.write_tar(
        tmp_path / "a.tar", content.layout_files({NAME: content.image(layers)}), compress=compress
    )
    before = set(small.digests()), dict(small.references())
    with pytest.raises(ImportFailed) as refusal:
        import_archive(small, archive)
    assert "free some space" in str(refusal.value)
    assert str(small.root) in str(refusal.value) or "the store's file system" in str(refusal.value)
    assert (set(small.digests()), dict(small.references())) == before
    assert [path for path in in_progress(small.root) if path.is_file()] == []
    fits = content.write_tar(tmp_path / "b.tar", content.layout_files({NAME: content.image((1536,))}))
    assert import_archive(small, fits) == [REFERENCE]


def test_a_file_that_may_not_grow_is_an_error_that_leaves_nothing(root: Path, tmp_path: Path) -> None:
    archive = content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: content.image((1 << 20,))}))
    before = state(root)
    store = open_layout(root)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ImportFailed, match="cannot be written"):
            import_archive(store, archive)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store.close()
    assert state(root) == before
    assert in_progress(root) == []


def test_an_archive_that_unpacks_to_more_than_there_is_room_for_is_refused_before_it_is_unpacked(
    root: Path, tmp_path: Path
) -> None:
    room = os.statvfs(root)
    files = content.layout_files({NAME: content.image()})
    whole = content.tar_of(files.items())
    header = bytearray(whole[:512])
    header[124:136] = b"\x80" + (room.f_bavail * room.f_frsize + (1 << 40)).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
    archive = tmp_path / "bomb.tar.gz"
    archive.write_bytes(gzip.compress(bytes(header) + bytes(8 << 20)))
    before = state(root)
    store = open_layout(root)
    with pytest.raises(ImportFailed, match="free some space"):
        import_archive(store, archive)
    store.close()
    assert state(root) == before


@pytest.mark.needs("root")
def test_a_store_that_this_user_may_not_write_refuses_an_import(root: Path, tmp_path: Path) -> None:
    archive = content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: content.image()}))
    for directory in (tmp_path, *tmp_path.parents):
        if directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    before = state(root)
    os.seteuid(65534)
    try:
        store = open_layout(root)
        with pytest.raises(StoreError, match="give this user access"):
            import_archive(store, archive)
        store.close()
    finally:
        os.seteuid(0)
    assert state(root) == before
