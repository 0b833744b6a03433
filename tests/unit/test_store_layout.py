"""The OCI image layout as a store: what other processes may do to the directory, and what is refused."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fastmirror.errors import StoreError, StoreUnavailable
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import parse_manifest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, ContentEvent, Gone, Tagged, Untagged
from fastmirror.store.index import IMAGE_NAME, REF_NAME
from fastmirror.store.layout import LayoutStore, open_layout
from tests.kit import content
from tests.kit.content import Image
from tests.kit.store_conformance import NAME, StoreConformance

REFERENCE = Reference.parse(NAME)


class Foreign:
    """Another tool at work in the same layout: blobs and index.json appear by rename."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, digest: Digest) -> Path:
        return self.root / "blobs" / digest.algorithm / digest.hex

    def add(self, whole: bytes, algorithm: str = "sha256") -> Digest:
        digest = Digest.of(whole, algorithm)
        self.place(digest).parent.mkdir(parents=True, exist_ok=True)
        self._replace(self.place(digest), whole)
        return digest

    def add_image(self, made: Image) -> None:
        for whole in made.blobs.values():
            self.add(whole)

    def name(self, images: dict[str, Image], **annotation: str) -> None:
        """Say in index.json that these are all the images."""
        self._replace(self.root / "index.json", content.layout_files(images, **annotation)["index.json"])

    def _replace(self, path: Path, whole: bytes) -> None:
        part = self.root / ".part"
        part.write_bytes(whole)
        part.rename(path)


class Listener:
    """Hears a store's events and lets a test wait for one."""

    def __init__(self, store: LayoutStore) -> None:
        self.events: list[ContentEvent] = []
        self._told = asyncio.Event()
        store.subscribe(self._hear)

    def _hear(self, event: ContentEvent) -> None:
        self.events.append(event)
        self._told.set()

    async def until(self, event: ContentEvent) -> None:
        async with asyncio.timeout(10):
            while event not in self.events:
                self._told.clear()
                await self._told.wait()


@asynccontextmanager
async def running(store: LayoutStore) -> AsyncIterator[Listener]:
    listener = Listener(store)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(store.run())
        mark = Foreign(store.root).add(b"the watch is set")
        await listener.until(Arrived(mark))
        Foreign(store.root).place(mark).unlink()
        await listener.until(Gone(mark))
        listener.events.clear()
        yield listener
        task.cancel()


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


def events(records: list[logging.LogRecord]) -> list[str | None]:
    return [getattr(record, "event", None) for record in records if record.levelno >= logging.WARNING]


class TestLayoutStore(StoreConformance):
    @pytest.fixture
    def store(self, root: Path) -> Iterator[LayoutStore]:
        store = open_layout(root, create=True)
        yield store
        store.close()

    def remove(self, store: LayoutStore, digest: Digest) -> None:
        Foreign(store.root).place(digest).unlink()
        assert store.open(digest) is None

    def untag(self, store: LayoutStore, reference: Reference) -> None:
        index = json.loads((store.root / "index.json").read_bytes())
        kept = [each for each in index["manifests"] if each["annotations"][IMAGE_NAME] != str(reference)]
        Foreign(store.root)._replace(store.root / "index.json", json.dumps({**index, "manifests": kept}).encode())


# What can be opened.


def test_a_layout_that_is_made_is_one_by_the_specification(root: Path) -> None:
    open_layout(root, create=True).close()
    assert json.loads((root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((root / "index.json").read_bytes())["manifests"] == []
    assert (root / "blobs").is_dir()
    open_layout(root).close()


def test_an_empty_directory_becomes_a_layout_only_where_that_is_asked_for(root: Path) -> None:
    root.mkdir()
    with pytest.raises(StoreError, match="has no oci-layout file"):
        open_layout(root)
    open_layout(root, create=True).close()
    assert (root / "oci-layout").exists()


def test_a_layout_whose_making_was_interrupted_is_finished(root: Path) -> None:
    open_layout(root, create=True).close()
    (root / "oci-layout").unlink()
    (root / "index.json").unlink()
    open_layout(root, create=True).close()
    assert (root / "oci-layout").exists()
    assert (root / "index.json").exists()


def _file(root: Path) -> None:
    root.write_bytes(b"")


def _stranger(root: Path) -> None:
    (root / "precious").mkdir(parents=True)


def _spoil(name: str, whole: bytes) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        open_layout(root, create=True).close()
        (root / name).write_bytes(whole)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_file, "is not a directory"),
        (_stranger, "choose an empty directory or an image layout"),
        (_spoil("oci-layout", b"{"), "is not JSON"),
        (_spoil("oci-layout", b'{"imageLayoutVersion": "2.0.0"}'), "'2.0.0'"),
        (_spoil("oci-layout", b"\xff\xfe"), "is not JSON"),
        (_spoil("index.json", b'{"manifests": ['), "is damaged"),
        (_spoil("index.json", b'{"manifests": {}}'), "is damaged"),
        (_spoil("index.json", b'{"manifests": [{"digest": 1}]}'), "is damaged"),
        (_spoil("index.json", b"[" * 100_000), "is damaged"),
        (_spoil("index.json", b" " * (17 << 20)), "larger than 16 MiB"),
    ],
)
def test_what_is_no_layout_is_refused_in_one_line_with_its_path(
    root: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(root)
    before = sorted(str(path) for path in root.rglob("*"))
    with pytest.raises(StoreError) as refusal:
        open_layout(root, create=True)
    text = str(refusal.value)
    assert said in text
    assert str(root) in text
    assert "\n" not in text
    assert sorted(str(path) for path in root.rglob("*")) == before


def test_a_missing_directory_is_an_error_unless_it_may_be_made(root: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_layout(root)
    assert not root.exists()


def test_a_directory_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be opened"):
        open_layout(tmp_path / "file" / "layout", create=True)


# Names.


@pytest.mark.parametrize(
    ("ref_name", "image_name", "expected"),
    [
        ("registry.example/team/app:1", None, "registry.example/team/app:1"),
        ("1", "docker.io/library/app:1", "docker.io/library/app:1"),
        ("registry.example/a:1", "registry.example/b:1", "registry.example/b:1"),
        ("app:1", None, "docker.io/library/app:1"),
        ("registry.example/team/app", None, "registry.example/team/app:latest"),
        ("registry.example/team/app:1@sha256:" + "0" * 64, None, "registry.example/team/app:1"),
        ("latest", None, None),
        ("3.20", None, None),
        ("sha256:" + "0" * 64, None, None),
        ("Registry.Example/UPPER:1", None, None),
        ("", None, None),
    ],
)
def test_a_name_in_index_json_counts_when_it_is_a_full_one(
    store: LayoutStore, foreign: Foreign, ref_name: str, image_name: str | None, expected: str | None
) -> None:
    made = content.image()
    foreign.add_image(made)
    more = {IMAGE_NAME: image_name} if image_name is not None else {}
    foreign.name({ref_name: made}, **more)
    assert [str(reference) for reference, _ in store.references()] == ([expected] if expected else [])
    assert store.names(made.layers[0].digest) == ({expected.rpartition(":")[0]} if expected else set())


def test_a_name_by_digest_names_the_content_but_is_no_tag(store: LayoutStore, foreign: Foreign) -> None:
    made = content.image()
    foreign.add_image(made)
    foreign.name({f"registry.example/team/app@{made.target.digest}": made})
    assert list(store.references()) == []
    assert store.names(made.layers[0].digest) == {"registry.example/team/app"}


def test_of_two_images_with_one_name_the_later_counts(store: LayoutStore, foreign: Foreign, root: Path) -> None:
    first, second = content.image(seed=1), content.image(seed=2)
    foreign.add_image(first)
    foreign.add_image(second)
    roots = [content.as_json(each.target, annotations={REF_NAME: NAME}) for each in (first, second)]
    (root / "index.json").write_bytes(content.dump({"schemaVersion": 2, "manifests": roots}))
    assert store.resolve(REFERENCE) == second.target


def test_tagging_leaves_everything_else_in_index_json_as_it_was(store: LayoutStore, root: Path) -> None:
    strange = {"mediaType": "x/y", "digest": "sha384:00", "size": 3, "extra": [1], "annotations": {REF_NAME: "latest"}}
    document = {"schemaVersion": 2, "annotations": {"keep": "me"}, "manifests": [strange]}
    (root / "index.json").write_bytes(json.dumps(document).encode())
    made = content.image()
    content.put(store, made, NAME)
    content.put(store, made, NAME, "registry.example/second:1")
    after = json.loads((root / "index.json").read_bytes())
    assert after["annotations"] == {"keep": "me"}
    assert after["manifests"][0] == strange
    assert [each["annotations"][REF_NAME] for each in after["manifests"][1:]] == [NAME, "registry.example/second:1"]


def test_a_tag_is_not_written_into_a_damaged_index(store: LayoutStore, root: Path) -> None:
    made = content.image()
    content.put(store, made)
    (root / "index.json").write_bytes(b"{")
    with pytest.raises(StoreError, match="is damaged"):
        store.tag(REFERENCE, made.target)
    assert (root / "index.json").read_bytes() == b"{"


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
    assert events(caplog.records) == ["store.index_unreadable"]


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
    assert events(caplog.records) == ["store.blob_unreadable"]
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
    assert events(caplog.records) == ["store.blob_cut"]
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
    assert events(caplog.records) == ["store.blob_cut"]
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
    assert set(events(caplog.records)) == {"store.blob_damaged"}


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


# Size.


def test_a_layout_of_200_images_and_2000_blobs_opens_fast(root: Path) -> None:
    images = {f"registry.example/team/app{number}:1": content.image((1536,) * 8, seed=number) for number in range(200)}
    content.write_files(root, content.layout_files(images))
    began = time.perf_counter()
    store = open_layout(root)
    seconds = time.perf_counter() - began
    assert len(store.digests()) == 2000
    assert len(store.references()) == 200
    store.close()
    assert seconds < 3, "0.3 s is the promise on a quiet machine"
