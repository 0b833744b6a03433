"""The OCI image layout as a store: what lies where a blob should be, and writing."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastmirror.errors import StoreError, StoreUnavailable
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, Gone
from fastmirror.store.index import locked
from fastmirror.store.layout import LayoutStore, open_layout
from tests.kit import content
from tests.kit.foreign import Foreign, Listener, warnings
from tests.kit.store_conformance import NAME

REFERENCE = Reference.parse(NAME)


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


# What lies where a blob should be.


def _link(place: Path) -> None:
    target = place.parent.parent / "target"
    target.write_bytes(b"secret")
    place.symlink_to(target)


def _dangling(place: Path) -> None:
    place.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_link, _dangling, Path.mkdir, os.mkfifo])
def test_only_regular_files_are_blobs_and_nothing_waits(
    store: LayoutStore, foreign: Foreign, make: Callable[[Path], None]
) -> None:
    digest = Digest.of(b"secret")
    make(foreign.place(digest))
    assert store.open(digest) is None
    assert store.size(digest) is None
    assert store.media_type(digest) is None
    assert list(store.digests()) == []


def test_files_with_other_names_are_no_blobs(store: LayoutStore, root: Path) -> None:
    directory = root / "blobs" / "sha256"
    for name in ("A" * 64, "0" * 63, "0" * 65, "0" * 128, "zz", "0" * 64 + ".part"):
        (directory / name).write_bytes(b"x")
    (root / "blobs" / "md5").mkdir()
    (root / "blobs" / "md5" / ("0" * 32)).write_bytes(b"x")
    assert list(store.digests()) == []


@pytest.mark.needs("root")
def test_a_blob_that_may_not_be_read_is_absent_and_reported_once(
    store: LayoutStore, foreign: Foreign, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = foreign.add(b"private")
    foreign.place(digest).chmod(0)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        assert store.open(digest) is None
        assert store.open(digest) is None
    finally:
        os.seteuid(0)
    assert warnings(caplog.records) == ["store.blob_unreadable"]
    opened = store.open(digest)
    assert opened is not None
    opened.close()


def test_a_blob_that_was_cut_short_is_gone_and_reported_once(
    store: LayoutStore, foreign: Foreign, caplog: pytest.LogCaptureFixture
) -> None:
    made = content.image((10240,))
    content.put(store, made, NAME)
    listener = Listener(store)
    layer = made.layers[0].digest
    foreign.place(layer).chmod(0o644)
    os.truncate(foreign.place(layer), 5000)
    assert store.open(layer) is None
    assert store.size(layer) is None
    assert layer not in store.digests()
    assert listener.events == [Gone(layer)]
    assert warnings(caplog.records) == ["store.blob_cut"]
    content.put_blob(store, made.blobs[layer])
    assert store.size(layer) == 10240
    assert listener.events == [Gone(layer), Arrived(layer)]


def test_a_layer_cut_before_the_start_is_never_announced(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = content.image((10240,))
    content.write_files(root, content.layout_files({NAME: made}))
    os.truncate(Foreign(root).place(made.layers[0].digest), 100)
    store = open_layout(root)
    assert set(store.digests()) == set(made.blobs) - {made.layers[0].digest}
    assert store.open(made.layers[0].digest) is None
    assert warnings(caplog.records) == ["store.blob_cut"]
    store.close()


def test_a_lying_manifest_does_not_take_a_shared_layer_from_an_honest_one(store: LayoutStore, foreign: Foreign) -> None:
    made = content.image((10240,))
    content.put(store, made, NAME)
    document = json.loads(made.manifest)
    document["layers"][0]["size"] = 5
    lie = content.dump(document)
    foreign.add(lie)
    target = content.describe(made.target.media_type, lie)
    store.tag(Reference.parse("registry.example/liar:1"), target)
    assert store.size(made.layers[0].digest) == 10240


def test_a_manifest_with_other_bytes_is_not_believed(
    store: LayoutStore, foreign: Foreign, caplog: pytest.LogCaptureFixture
) -> None:
    made, other = content.image(seed=1), content.image(seed=2)
    assert len(made.manifest) == len(other.manifest)
    foreign.add_image(made)
    foreign.place(made.target.digest).write_bytes(other.manifest)
    foreign.name({NAME: made})
    assert store.resolve(REFERENCE) is None
    assert store.media_type(made.target.digest) is None
    assert set(warnings(caplog.records)) == {"store.blob_damaged"}


def test_without_descriptors_the_store_is_unavailable_rather_than_empty(store: LayoutStore) -> None:
    digest = content.put_blob(store, b"here")
    assert store.size(digest) == 4
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(StoreUnavailable):
            store.open(digest)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    opened = store.open(digest)
    assert opened is not None
    opened.close()


# Writing.


def test_blobs_are_read_only_files_and_nothing_else_is_left(store: LayoutStore, root: Path) -> None:
    digest = content.put_blob(store, b"content")
    assert (root / "blobs" / "sha256" / digest.hex).stat().st_mode & 0o7777 == 0o444
    store.close()
    assert [path.name for path in (root / ".fastmirror").rglob("*") if path.is_file()] == ["lock"]
    assert list((root / ".fastmirror" / "ingest").iterdir()) == []


def test_what_a_dead_writer_left_is_removed_and_what_a_living_one_writes_is_kept(root: Path) -> None:
    living = open_layout(root, create=True)
    ingest = living.ingest(Digest.of(b"slow"), 4)
    ingest.write(b"sl")
    dead = root / ".fastmirror" / "ingest" / "dead"
    dead.mkdir()
    (dead / "half").write_bytes(b"x" * 100)
    open_layout(root).close()
    assert not dead.exists()
    ingest.write(b"ow")
    ingest.commit()
    assert living.size(Digest.of(b"slow")) == 4
    living.close()


def test_writing_goes_on_when_the_directory_for_it_was_removed(store: LayoutStore, root: Path) -> None:
    content.put_blob(store, b"one")
    shutil.rmtree(root / ".fastmirror")
    digest = content.put_blob(store, b"two")
    assert store.size(digest) == 3


def test_a_store_opens_and_is_read_while_another_process_holds_its_lock(
    root: Path, store: LayoutStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = content.image()
    content.put(store, made, NAME)
    with locked(root):
        second = open_layout(root)
        assert second.resolve(REFERENCE) == made.target
        second.close()
        monkeypatch.setattr(locked.__wrapped__, "__defaults__", (0.01,))  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match="is held by another process"):
            store.tag(REFERENCE, made.target)


def test_a_blob_goes_when_its_name_cannot_be_written(store: LayoutStore, root: Path) -> None:
    (root / "index.json").unlink()
    (root / "index.json").mkdir()
    made = content.image()
    with store.batch() as batch:
        for digest, whole in made.blobs.items():
            ingest = batch.ingest(digest, len(whole))
            ingest.write(whole)
            ingest.commit()
        batch.tag(REFERENCE, made.target)
        with pytest.raises(StoreError, match="cannot be written"):
            batch.commit()
    assert list(store.digests()) == []
    assert list((root / "blobs" / "sha256").iterdir()) == []


@pytest.mark.needs("root")
def test_a_layout_that_may_only_be_read_is_served_and_refuses_writes(root: Path, tmp_path: Path) -> None:
    made = content.image()
    content.write_files(root, content.layout_files({NAME: made}))
    for directory in (tmp_path, *tmp_path.parents):
        if directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        store = open_layout(root, create=True)
        assert store.resolve(REFERENCE) == made.target
        with pytest.raises(StoreError, match="give this user access"):
            store.ingest(Digest.of(b"x"))
        with pytest.raises(StoreError, match="give this user access"):
            store.tag(Reference.parse("registry.example/x:1"), made.target)
        store.close()
    finally:
        os.seteuid(0)
    assert not (root / ".fastmirror").exists()
