"""The OCI image layout as a store: what other processes change while it is open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import parse_manifest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, Gone, Tagged, Untagged
from fastmirror.store.layout import LayoutStore, open_layout
from tests.kit import content
from tests.kit.foreign import Foreign, Listener, running, warnings
from tests.kit.store_conformance import NAME

REFERENCE = Reference.parse(NAME)
QUEUE_LENGTH = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "layout"


@pytest.fixture
def store(root: Path) -> Iterator[LayoutStore]:
    store = open_layout(root, create=True)
    yield store
    store.close()


@pytest.fixture
def foreign(root: Path, store: LayoutStore) -> Foreign:
    return Foreign(root)


# Look-ups without run().


def test_what_another_process_does_is_seen_by_look_ups_without_run(store: LayoutStore, foreign: Foreign) -> None:
    made = content.image()
    foreign.add_image(made)
    listener = Listener(store)
    foreign.name({NAME: made})
    assert store.resolve(REFERENCE) == made.target
    assert store.size(made.layers[0].digest) == made.layers[0].size
    assert set(store.digests()) == set(made.blobs)
    assert listener.events[-1] == Tagged(REFERENCE, made.target)
    assert {event.digest for event in listener.events if isinstance(event, Arrived)} == set(made.blobs)
    foreign.name({})
    assert store.resolve(REFERENCE) is None
    foreign.place(made.layers[0].digest).unlink()
    assert store.open(made.layers[0].digest) is None
    assert listener.events[-2:] == [Untagged(REFERENCE), Gone(made.layers[0].digest)]


def test_an_index_that_is_damaged_meanwhile_changes_no_name_and_is_reported_once(
    store: LayoutStore, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = content.image()
    content.put(store, made, NAME)
    (root / "index.json").write_bytes(b"{")
    for _ in range(3):
        assert store.resolve(REFERENCE) == made.target
    assert warnings(caplog.records) == ["store.index_unreadable"]


def test_a_name_whose_manifest_is_not_here_means_nothing_until_it_comes(store: LayoutStore, foreign: Foreign) -> None:
    made = content.image()
    foreign.name({NAME: made})
    assert store.resolve(REFERENCE) is None
    foreign.add_image(made)
    store.digests()
    assert store.resolve(REFERENCE) == made.target


def test_a_layout_with_a_platform_missing_names_what_is_there(store: LayoutStore, foreign: Foreign) -> None:
    here, elsewhere = content.image(seed=1), content.image(seed=2)
    whole = content.index([here, elsewhere])
    for digest in [*here.blobs, whole.target.digest]:
        foreign.add(whole.blobs[digest])
    foreign.name({NAME: whole})
    assert store.resolve(REFERENCE) == whole.target
    assert store.names(here.layers[0].digest) == {REFERENCE.name}
    assert store.size(elsewhere.target.digest) is None
    assert store.names(elsewhere.layers[0].digest) == frozenset()


# Events while running.


async def test_an_image_that_another_process_adds_is_told_from_blobs_to_name(
    store: LayoutStore, foreign: Foreign
) -> None:
    whole = content.index([content.image(seed=1), content.image(seed=2)])
    async with running(store) as listener:
        foreign.add_image(whole)
        foreign.name({NAME: whole})
        await listener.until(Tagged(REFERENCE, whole.target))
        arrived = [event.digest for event in listener.events if isinstance(event, Arrived)]
        assert sorted(arrived) == sorted(whole.blobs)
        assert len(listener.events) == len(arrived) + 1
        place = {digest: number for number, digest in enumerate(arrived)}
        for parent, whole_bytes in whole.blobs.items():
            manifest = parse_manifest(whole_bytes)
            for child in manifest.children if manifest else ():
                assert place[child.digest] < place[parent]


async def test_an_image_that_another_process_takes_away_is_told_from_name_to_blobs(
    store: LayoutStore, foreign: Foreign
) -> None:
    made = content.image()
    content.put(store, made, NAME)
    async with running(store) as listener:
        foreign.name({})
        await listener.until(Untagged(REFERENCE))
        for digest in reversed(made.blobs):
            foreign.place(digest).unlink()
        await listener.until(Gone(made.layers[0].digest))
        assert listener.events == [Untagged(REFERENCE), *(Gone(digest) for digest in reversed(made.blobs))]


async def test_a_tag_that_another_process_moves_is_told_with_its_new_meaning(
    store: LayoutStore, foreign: Foreign
) -> None:
    old, new = content.image(seed=1), content.image(seed=2)
    content.put(store, old, NAME)
    async with running(store) as listener:
        foreign.add_image(new)
        foreign.name({NAME: new})
        await listener.until(Tagged(REFERENCE, new.target))
        assert not any(isinstance(event, Untagged | Gone) for event in listener.events)


async def test_a_blob_that_is_cut_while_running_is_told_gone(store: LayoutStore, foreign: Foreign) -> None:
    made = content.image((10240,))
    content.put(store, made, NAME)
    layer = made.layers[0].digest
    async with running(store) as listener:
        foreign.place(layer).chmod(0o644)
        fd = os.open(foreign.place(layer), os.O_WRONLY)
        os.truncate(fd, 7)
        os.close(fd)
        await listener.until(Gone(layer))
    assert store.open(layer) is None


async def test_sha512_content_in_a_directory_that_did_not_exist_arrives(store: LayoutStore, foreign: Foreign) -> None:
    (store.root / "blobs" / "sha512").rmdir()
    async with running(store) as listener:
        digest = foreign.add(b"long", "sha512")
        await listener.until(Arrived(digest))
        assert store.size(digest) == 4


@pytest.mark.parametrize("swap", ["remove", "rename"])
async def test_a_layout_that_is_replaced_while_running_is_followed(
    store: LayoutStore, foreign: Foreign, root: Path, tmp_path: Path, swap: str
) -> None:
    old, new = content.image(seed=1), content.image(seed=2)
    content.put(store, old, NAME)
    async with running(store) as listener:
        if swap == "remove":
            shutil.rmtree(root)
            await listener.until(Gone(old.target.digest))
            assert store.open(old.target.digest) is None
            content.write_files(root, content.layout_files({NAME: new}))
        else:
            content.write_files(tmp_path / "next", content.layout_files({NAME: new}))
            os.rename(root, tmp_path / "previous")
            os.rename(tmp_path / "next", root)
        await listener.until(Tagged(REFERENCE, new.target))
        for digest in old.blobs:
            await listener.until(Gone(digest))
        assert set(store.digests()) == set(new.blobs)
        opened = store.open(new.layers[0].digest)
        assert opened is not None
        opened.close()
        late = foreign.add(b"after")
        await listener.until(Arrived(late))


async def test_content_written_here_is_told_once_while_running(store: LayoutStore, foreign: Foreign) -> None:
    made = content.image()
    async with running(store) as listener:
        content.put(store, made, NAME)
        marker = foreign.add(b"marker")
        await listener.until(Arrived(marker))
        assert listener.events[-2] == Tagged(REFERENCE, made.target)
        assert len(listener.events) == len(made.blobs) + 2


async def test_no_content_is_lost_when_the_kernels_queue_of_events_overflows(
    store: LayoutStore, foreign: Foreign
) -> None:
    count = min(QUEUE_LENGTH + 2000, 30_000)
    async with running(store) as listener:
        first = foreign.add(b"many")
        expected = {first, *(Digest(f"sha256:{number:064x}") for number in range(count))}
        # Links are noticed by name only when the directory is listed again, which is what an overflow asks for.
        for number in range(count):
            os.link(foreign.place(first), foreign.place(Digest(f"sha256:{number:064x}")))
        await listener.until(Arrived(Digest(f"sha256:{count - 1:064x}")))
        assert set(store.digests()) == expected
        assert len(listener.events) == len(expected)
