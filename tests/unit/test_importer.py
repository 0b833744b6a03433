"""Importing: every form that tools write, names, repetition, and what is read and written on the way."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastmirror.errors import ImportFailed
from fastmirror.oci.descriptor import OCI_MANIFEST
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import parse_manifest
from fastmirror.oci.reference import Reference
from fastmirror.store import ImportTarget
from fastmirror.store.importer import import_archive
from fastmirror.store.layout import LayoutStore, open_layout
from fastmirror.store.memory import MemoryStore
from tests.kit import content
from tests.kit.content import Image

NAME = "registry.example/team/app:1"
REFERENCE = Reference.parse(NAME)
OTHER = "registry.example/team/other:1"


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[LayoutStore]:
    store = open_layout(tmp_path / "store", create=True)
    yield store
    store.close()


@pytest.fixture(params=["layout", "memory"])
def store(request: pytest.FixtureRequest, layout: LayoutStore) -> ImportTarget:
    return layout if request.param == "layout" else MemoryStore()


def assert_holds(store: ImportTarget, made: Image, name: str = NAME) -> None:
    assert store.resolve(Reference.parse(name)) == made.target
    for digest, whole in made.blobs.items():
        blob = store.open(digest)
        assert blob is not None, f"{digest} is missing"
        with blob:
            assert blob.read_span(0, blob.size) == whole


def assert_holds_saved(store: ImportTarget, made: Image, name: str = NAME) -> None:
    """A docker-save image keeps its config and layers and gets a manifest of its own."""
    target = store.resolve(Reference.parse(name))
    assert target is not None
    assert target.media_type == OCI_MANIFEST
    blob = store.open(target.digest)
    assert blob is not None
    with blob:
        manifest = parse_manifest(blob.read_span(0, blob.size))
    assert manifest is not None
    assert made.config is not None
    assert [child.digest for child in manifest.children] == [made.config.digest, *(each.digest for each in made.layers)]
    assert [child.size for child in manifest.children[1:]] == [each.size for each in made.layers]
    assert all(store.size(child.digest) == child.size for child in manifest.children)


# Forms.


def _tar(path: Path, files: dict[str, bytes]) -> Path:
    return content.write_tar(path, files)


def _gzip(path: Path, files: dict[str, bytes]) -> Path:
    return content.write_tar(path, files, compress=True)


def _gzip_members(path: Path, files: dict[str, bytes]) -> Path:
    whole = content.tar_of(files.items())
    path.write_bytes(gzip.compress(whole[:3000]) + gzip.compress(whole[3000:]))
    return path


def _dotted(path: Path, files: dict[str, bytes]) -> Path:
    return content.write_tar(path, {f"./{name}": whole for name, whole in files.items()})


def _gnu(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(content.tar_of(files.items(), tarfile.GNU_FORMAT))
    return path


def _by_tar(path: Path, files: dict[str, bytes]) -> Path:
    directory = content.write_files(path.with_suffix(".d"), files)
    subprocess.run(["tar", "-C", directory, "-cf", path, "."], check=True)
    return path


def _directory(path: Path, files: dict[str, bytes]) -> Path:
    return content.write_files(path, files)


@pytest.mark.parametrize("write", [_tar, _gzip, _gzip_members, _dotted, _gnu, _by_tar, _directory])
@pytest.mark.parametrize("kind", ["image", "index", "sha512", "compressed", "large", "no layers"])
def test_a_layout_is_imported_whole_in_every_form(
    store: ImportTarget, tmp_path: Path, write: Callable[[Path, dict[str, bytes]], Path], kind: str
) -> None:
    made = {
        "image": lambda: content.image(),
        "index": lambda: content.index([content.image(seed=1), content.image(seed=2)]),
        "sha512": lambda: content.image(algorithm="sha512"),
        "compressed": lambda: content.image(compress=True),
        "large": content.large_image,
        "no layers": lambda: content.image(()),
    }[kind]()
    path = write(tmp_path / "archive.tar", content.layout_files({NAME: made}))
    assert import_archive(store, path) == [REFERENCE]
    assert set(store.digests()) == set(made.blobs)
    assert_holds(store, made)


@pytest.mark.parametrize("write", [_tar, _gzip, _dotted, _gnu, _by_tar, _directory])
def test_what_docker_saved_is_imported_in_every_form(
    store: ImportTarget, tmp_path: Path, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    made = content.image((10240, 4096, 1536))
    path = write(tmp_path / "archive.tar", content.docker_files({NAME: made}))
    assert import_archive(store, path) == [REFERENCE]
    assert_holds_saved(store, made)


def test_what_docker_25_saved_is_imported_as_the_layout_that_it_is(store: ImportTarget, tmp_path: Path) -> None:
    made = content.image()
    assert made.config is not None
    files = content.layout_files({"1": made}, **{"io.containerd.image.name": NAME})
    saved = {
        "Config": f"blobs/sha256/{made.config.digest.hex}",
        "RepoTags": [NAME],
        "Layers": [f"blobs/sha256/{layer.digest.hex}" for layer in made.layers],
    }
    files["manifest.json"] = content.dump([saved])
    assert import_archive(store, content.write_tar(tmp_path / "a.tar", files)) == [REFERENCE]
    assert_holds(store, made)


def test_layers_that_are_links_or_used_twice_are_imported(store: ImportTarget, tmp_path: Path) -> None:
    made = content.image((10240,))
    assert made.config is not None
    layer = made.layers[0]
    config = json.loads(made.blobs[made.config.digest])
    config["rootfs"]["diff_ids"] *= 3
    config_bytes = content.dump(config)
    symbolic, hard = tarfile.TarInfo("a/layer.tar"), tarfile.TarInfo("b/layer.tar")
    symbolic.type, symbolic.linkname = tarfile.SYMTYPE, f"../{layer.digest.hex}.tar"
    hard.type, hard.linkname = tarfile.LNKTYPE, f"{layer.digest.hex}.tar"
    layers = [f"{layer.digest.hex}.tar", "a/layer.tar", "b/layer.tar"]
    saved = content.dump([{"Config": "config.json", "RepoTags": [NAME], "Layers": layers}])
    path = tmp_path / "a.tar"
    path.write_bytes(
        content.tar_of(
            [
                (f"{layer.digest.hex}.tar", made.blobs[layer.digest]),
                (symbolic, b""),
                (hard, b""),
                ("config.json", config_bytes),
                ("manifest.json", saved),
            ]
        )
    )
    assert import_archive(store, path) == [REFERENCE]
    target = store.resolve(REFERENCE)
    assert target is not None
    blob = store.open(target.digest)
    assert blob is not None
    with blob:
        manifest = parse_manifest(blob.read_span(0, blob.size))
    assert manifest is not None
    assert [child.digest for child in manifest.children] == [Digest.of(config_bytes), *[layer.digest] * 3]


@pytest.mark.parametrize("members", [1, 2])
def test_layers_that_a_tool_compressed_keep_their_bytes_and_are_checked_inside(
    store: ImportTarget, tmp_path: Path, members: int
) -> None:
    made = content.image((10240,))
    files = content.docker_files({NAME: made})
    (entry,) = (name for name in files if name.endswith("layer.tar"))
    plain = files[entry]
    half = len(plain) // members
    files[entry] = b"".join(gzip.compress(plain[start : start + half]) for start in range(0, len(plain), half))
    import_archive(store, content.write_tar(tmp_path / "a.tar", files))
    target = store.resolve(REFERENCE)
    assert target is not None
    blob = store.open(target.digest)
    assert blob is not None
    with blob:
        layer = json.loads(blob.read_span(0, blob.size))["layers"][0]
    assert layer["mediaType"].endswith("+gzip")
    assert store.size(Digest.parse(layer["digest"])) == len(files[entry])
    files[entry] = gzip.compress(plain[:-1] + b"\1")
    with pytest.raises(ImportFailed, match="its content is not that of"):
        import_archive(store, content.write_tar(tmp_path / "a.tar", files))


@pytest.mark.parametrize("compress", [False, True])
def test_a_pipe_is_read_to_its_end(layout: LayoutStore, tmp_path: Path, compress: bool) -> None:
    made = content.image((1 << 20,))
    whole = content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: made}), compress=compress).read_bytes()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    written = []
    writer = threading.Thread(target=lambda: written.append(fifo.write_bytes(whole)))
    writer.start()
    assert import_archive(layout, fifo) == [REFERENCE]
    writer.join()
    assert written == [len(whole)]
    assert_holds(layout, made)


def test_standard_input_is_read_for_a_dash(
    layout: LayoutStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = content.image()
    path = content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: made}))
    with path.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert import_archive(layout, "-") == [REFERENCE]
    assert_holds(layout, made)


# Names.


def test_several_images_of_one_archive_are_imported_with_their_names(store: ImportTarget, tmp_path: Path) -> None:
    one, two = content.image(seed=1), content.image(seed=2)
    path = content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: one, OTHER: two}))
    assert import_archive(store, path) == [REFERENCE, Reference.parse(OTHER)]
    assert_holds(store, one, NAME)
    assert_holds(store, two, OTHER)
    path = content.write_tar(tmp_path / "b.tar", content.docker_files({"a/b:1": one, "c:2": two}))
    assert [str(each) for each in import_archive(store, path)] == ["docker.io/a/b:1", "docker.io/library/c:2"]


@pytest.mark.parametrize("write", [content.layout_files, content.docker_files])
@pytest.mark.parametrize("own", ["", "registry.example/own:1"])
def test_a_name_that_is_given_replaces_the_archives_own(
    store: ImportTarget, tmp_path: Path, write: Callable[[dict[str, Image]], dict[str, bytes]], own: str
) -> None:
    path = content.write_tar(tmp_path / "a.tar", write({own: content.image()}))
    assert import_archive(store, path, REFERENCE) == [REFERENCE]
    assert [str(reference) for reference, _ in store.references()] == [NAME]


@pytest.mark.parametrize("write", [content.layout_files, content.docker_files])
def test_an_archive_without_a_full_name_needs_one(
    store: ImportTarget, tmp_path: Path, write: Callable[[dict[str, Image]], dict[str, bytes]]
) -> None:
    path = content.write_tar(tmp_path / "a.tar", write({"": content.image()}))
    with pytest.raises(ImportFailed, match="--name REGISTRY/REPOSITORY:TAG"):
        import_archive(store, path)
    assert list(store.digests()) == []


@pytest.mark.parametrize("write", [content.layout_files, content.docker_files])
def test_one_name_does_not_fit_two_images(
    store: ImportTarget, tmp_path: Path, write: Callable[[dict[str, Image]], dict[str, bytes]]
) -> None:
    files = write({NAME: content.image(seed=1), OTHER: content.image(seed=2)})
    with pytest.raises(ImportFailed, match="holds 2 images"):
        import_archive(store, content.write_tar(tmp_path / "a.tar", files), REFERENCE)


def test_an_image_without_a_name_beside_named_ones_is_left_out_and_said(
    store: ImportTarget, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = content.layout_files({NAME: content.image(seed=1), "latest": content.image(seed=2)})
    assert import_archive(store, content.write_tar(tmp_path / "a.tar", files)) == [REFERENCE]
    warned = [getattr(record, "event", "") for record in caplog.records if record.levelno >= logging.WARNING]
    assert warned == ["import.image_unnamed"]


# What may be missing.


def test_platforms_that_were_not_exported_may_be_missing(store: ImportTarget, tmp_path: Path) -> None:
    here, elsewhere = content.image(seed=1), content.image(seed=2)
    whole = content.index([elsewhere, here])
    for digest in elsewhere.blobs:
        whole = whole.without(digest)
    import_archive(store, content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: whole})))
    assert store.resolve(REFERENCE) == whole.target
    assert set(store.digests()) == set(whole.blobs)


def test_content_that_the_store_has_already_may_be_missing(store: ImportTarget, tmp_path: Path) -> None:
    made = content.image()
    content.put_blob(store, made.blobs[made.layers[0].digest])
    files = content.layout_files({NAME: made.without(made.layers[0].digest)})
    import_archive(store, content.write_tar(tmp_path / "a.tar", files))
    assert_holds(store, made)


def test_layers_that_may_not_be_distributed_may_be_missing(store: ImportTarget, tmp_path: Path) -> None:
    made = content.image()
    document = json.loads(made.manifest)
    document["layers"][0]["mediaType"] = content.FOREIGN_LAYER
    manifest = content.dump(document)
    blobs = {**made.without(made.layers[0].digest).without(made.target.digest).blobs, Digest.of(manifest): manifest}
    made = Image(content.describe(OCI_MANIFEST, manifest), manifest, made.layers, made.config, blobs)
    import_archive(store, content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: made})))
    assert_holds(store, made)


# Again.


@pytest.mark.parametrize("write", [content.layout_files, content.docker_files])
def test_an_import_repeated_changes_nothing(
    layout: LayoutStore, tmp_path: Path, write: Callable[[dict[str, Image]], dict[str, bytes]]
) -> None:
    path = content.write_tar(tmp_path / "a.tar", write({NAME: content.image()}))
    import_archive(layout, path)
    heard: list[object] = []
    layout.subscribe(heard.append)
    before = {each: each.stat().st_ino for each in (layout.root / "blobs").rglob("*")}
    target = layout.resolve(REFERENCE)
    assert import_archive(layout, path) == [REFERENCE]
    assert layout.resolve(REFERENCE) == target
    assert {each: each.stat().st_ino for each in (layout.root / "blobs").rglob("*")} == before
    assert len(json.loads((layout.root / "index.json").read_bytes())["manifests"]) == 1
    assert heard == []


@pytest.mark.parametrize("spoil", ["flip", "cut"])
def test_an_import_repeated_mends_a_damaged_blob(layout: LayoutStore, tmp_path: Path, spoil: str) -> None:
    made = content.image()
    path = content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: made}))
    import_archive(layout, path)
    for digest in (made.layers[0].digest, made.target.digest):
        place = layout.root / "blobs" / "sha256" / digest.hex
        place.chmod(0o644)
        place.write_bytes(bytes(len(made.blobs[digest])) if spoil == "flip" else b"")
    import_archive(layout, path)
    assert_holds(layout, made)


def test_a_layout_imported_into_itself_is_as_it_was(layout: LayoutStore, tmp_path: Path) -> None:
    made = content.image()
    import_archive(layout, content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: made})))
    assert import_archive(layout, layout.root) == [REFERENCE]
    assert_holds(layout, made)


# On the way.


def test_progress_counts_every_byte_once_up_to_the_total(store: ImportTarget, tmp_path: Path) -> None:
    made = content.image((3 << 20, 1536))
    path = content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: made}))
    for _ in range(2):
        told: list[tuple[int, int]] = []
        import_archive(store, path, progress=lambda done, total, told=told: told.append((done, total)))
        total = sum(map(len, made.blobs.values()))
        assert told[0] == (0, total)
        assert told[-1] == (total, total)
        assert told == sorted(told)


@pytest.mark.parametrize("compress", [False, True])
def test_a_large_layer_never_lies_in_memory_whole(layout: LayoutStore, tmp_path: Path, compress: bool) -> None:
    made = content.image((64 << 20,))
    digest, size = made.layers[0].digest, made.layers[0].size
    path = content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: made}), compress=compress)
    del made
    tracemalloc.start()
    try:
        import_archive(layout, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert layout.size(digest) == size
    assert peak < 8 << 20
    blob = layout.open(digest)
    assert blob is not None
    with blob, os.fdopen(os.dup(blob.fd), "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest.hex
