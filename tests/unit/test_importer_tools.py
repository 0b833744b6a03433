"""What skopeo and umoci write is imported, and they read what fastmirror keeps."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmirror.oci.manifest import Manifest, parse_manifest
from fastmirror.oci.reference import Reference
from fastmirror.store.importer import import_archive
from fastmirror.store.layout import LayoutStore, open_layout
from tests.kit import content

NAME = "registry.example/team/app:1"
REFERENCE = Reference.parse(NAME)
MADE = content.image((10240, 40960, 10240), compress=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LayoutStore]:
    store = open_layout(tmp_path / "store", create=True)
    yield store
    store.close()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A directory: skopeo unpacks archives as root only."""
    return content.write_files(tmp_path / "made", content.layout_files({NAME: MADE}))


def skopeo(source: str, destination: str) -> None:
    subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", source, destination], check=True)


def manifest_of(store: LayoutStore, reference: Reference) -> Manifest:
    target = store.resolve(reference)
    assert target is not None
    blob = store.open(target.digest)
    assert blob is not None
    with blob:
        manifest = parse_manifest(blob.read_span(0, blob.size))
    assert manifest is not None
    assert all(store.size(child.digest) == child.size for child in manifest.children)
    return manifest


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("form", ["oci-archive:{}.tar:", "oci:{}:"])
def test_an_image_that_skopeo_wrote_as_a_layout_keeps_its_digest(
    store: LayoutStore, made: Path, tmp_path: Path, form: str
) -> None:
    destination = form.format(tmp_path / "copied")
    skopeo(f"oci:{made}:{NAME}", destination + NAME)
    assert import_archive(store, destination.split(":")[1]) == [REFERENCE]
    assert store.resolve(REFERENCE) == MADE.target


@pytest.mark.needs("skopeo")
def test_an_image_that_skopeo_wrote_as_docker_does_keeps_its_config_and_layers(
    store: LayoutStore, made: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.tar"
    skopeo(f"oci:{made}:{NAME}", f"docker-archive:{saved}:{NAME}")
    assert import_archive(store, saved) == [REFERENCE]
    children = manifest_of(store, REFERENCE).children
    assert MADE.config is not None
    assert children[0].digest == MADE.config.digest
    diffs = json.loads(MADE.blobs[MADE.config.digest])["rootfs"]["diff_ids"]
    assert [str(child.digest) for child in children[1:]] == diffs
    back = tmp_path / "back.tar"
    skopeo(f"oci:{store.root}:{NAME}", f"oci-archive:{back}:{NAME}")
    other = open_layout(tmp_path / "other", create=True)
    assert import_archive(other, back) == [REFERENCE]
    assert manifest_of(other, REFERENCE).children[0].digest == MADE.config.digest
    other.close()


@pytest.mark.needs("skopeo")
def test_skopeo_reads_and_writes_a_layout_that_fastmirror_keeps(store: LayoutStore, made: Path, tmp_path: Path) -> None:
    import_archive(store, made)
    skopeo(f"oci:{store.root}:{NAME}", f"dir:{tmp_path / 'out'}")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == MADE.manifest
    second = content.write_files(tmp_path / "b", content.layout_files({"x.example/b:2": content.image(seed=2)}))
    skopeo(f"oci:{second}:x.example/b:2", f"oci:{store.root}:x.example/b:2")
    assert [str(reference) for reference, _ in store.references()] == [NAME, "x.example/b:2"]
    import_archive(store, content.write_tar(tmp_path / "c.tar", content.layout_files({"x.example/c:3": MADE})))
    assert [str(reference) for reference, _ in store.references()] == [NAME, "x.example/b:2", "x.example/c:3"]


@pytest.mark.needs("umoci")
def test_an_image_that_umoci_made_is_imported_and_umoci_cleans_our_layout(store: LayoutStore, tmp_path: Path) -> None:
    source = tmp_path / "umoci"
    bundle = tmp_path / "bundle"
    image = f"{source}:{NAME}"
    rootless = ["--rootless"]
    subprocess.run(["umoci", "init", "--layout", source], check=True)
    subprocess.run(["umoci", "new", "--image", image], check=True)
    subprocess.run(["umoci", "unpack", *rootless, "--image", image, bundle], check=True, capture_output=True)
    (bundle / "rootfs" / "hello").write_text("hello")
    subprocess.run(["umoci", "repack", "--image", image, bundle], check=True, capture_output=True)
    assert import_archive(store, source) == [REFERENCE]
    manifest = manifest_of(store, REFERENCE)
    assert len(manifest.children) == 2
    stray = content.put_blob(store, b"stray")
    subprocess.run(["umoci", "gc", "--layout", store.root], check=True, capture_output=True)
    assert store.open(stray) is None
    assert manifest_of(store, REFERENCE) == manifest
