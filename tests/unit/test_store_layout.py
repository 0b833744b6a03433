"""The OCI image layout as a store: the conformance suite, what can be opened, and names."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastmirror.errors import StoreError
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store.index import IMAGE_NAME, REF_NAME
from fastmirror.store.layout import LayoutStore, open_layout
from tests.kit import content
from tests.kit.foreign import Foreign, warnings
from tests.kit.store_conformance import NAME, StoreConformance

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
        Foreign(store.root).replace(store.root / "index.json", json.dumps({**index, "manifests": kept}).encode())


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


def _odd(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        open_layout(root, create=True).close()
        (root / name).unlink()
        make(root / name)

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
        (_odd("index.json", os.mkfifo), "is not a regular file"),
        (_odd("oci-layout", os.mkfifo), "is not a regular file"),
        (_odd("index.json", os.mkdir), "is not a regular file"),
        (_spoil("index.json", b" " * (17 << 20)), "larger than 16777216 bytes"),
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


def _gone(name: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        (root / name).rename(root.parent / "elsewhere")

    return spoil


def _links(root: Path) -> None:
    blobs = root / "blobs/sha256"
    blobs.rename(root / "blobs/moved")
    blobs.mkdir()
    for blob in (root / "blobs/moved").iterdir():
        (blobs / blob.name).symlink_to(blob)


def _no_directory(root: Path) -> None:
    (root / "blobs/sha256").rename(root.parent / "elsewhere")
    (root / "blobs/sha256").touch()


@pytest.mark.parametrize(
    ("spoil", "event", "said"),
    [
        (_gone("index.json"), "layout_damaged", "index.json is missing"),
        (_gone("oci-layout"), "layout_damaged", "oci-layout was missing"),
        (_gone("blobs"), "layout_damaged", f"blobs is missing; names without their manifest: 1, such as {NAME}"),
        (_no_directory, "layout_damaged", "blobs/sha256 is no directory"),
        (_links, "blob_no_file", "(4 such in all)"),
    ],
)
def test_a_damaged_layout_is_opened_with_one_warning_that_says_what_is_wrong_and_what_to_do(
    root: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], event: str, said: str
) -> None:
    store = open_layout(root, create=True)
    made = content.image()
    Foreign(root).add_image(made)
    Foreign(root).name({NAME: made})
    store.close()
    open_layout(root).close()
    assert warnings(caplog.records) == []
    spoil(root)
    open_layout(root, create=True).close()
    told = [record for record in caplog.records if getattr(record, "event", "") == f"store.{event}"]
    assert len(told) == 1
    assert str(root) in told[0].getMessage()
    assert said in told[0].getMessage()


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
