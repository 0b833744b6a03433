"""Deterministic content: blobs and images of exact sizes, and the files that tools write them to.

Nouns: Content, Image. The same arguments give the same bytes, on every machine.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastmirror.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store import ImportTarget

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def blob(size: int, seed: int = 0) -> bytes:
    """``size`` bytes that do not compress."""
    source = random.Random(seed)
    return b"".join(source.randbytes(min(1 << 20, size - start)) for start in range(0, size, 1 << 20))


def tar_layer(size: int, seed: int = 0) -> bytes:
    """A layer that can be unpacked, of exactly ``size`` bytes: a multiple of 512, at least 1536."""
    assert size % 512 == 0, "a tar has whole blocks"
    assert size >= 1536, "a tar has a header and an end"
    info = tarfile.TarInfo(f"data/{seed}")
    info.size = size - 1536
    return info.tobuf(tarfile.USTAR_FORMAT) + blob(info.size, seed) + bytes(1024)


def dump(document: object) -> bytes:
    """JSON as bytes, always the same."""
    return json.dumps(document, separators=(",", ":")).encode()


def describe(media_type: str, content: bytes, algorithm: str = "sha256") -> Descriptor:
    """The descriptor of some content."""
    return Descriptor(media_type, Digest.of(content, algorithm), len(content))


def as_json(target: Descriptor, **more: object) -> dict[str, Any]:
    """A descriptor as it is written into manifests."""
    return {"mediaType": target.media_type, "digest": str(target.digest), "size": target.size, **more}


@dataclass
class Image:
    """A manifest or index with everything below it. ``blobs`` has it all, what is named before what names it."""

    target: Descriptor
    manifest: bytes
    layers: list[Descriptor]
    config: Descriptor | None
    blobs: dict[Digest, bytes] = field(default_factory=dict)

    def without(self, digest: Digest) -> Image:
        """The same image with one of its blobs missing."""
        blobs = {key: value for key, value in self.blobs.items() if key != digest}
        return Image(self.target, self.manifest, self.layers, self.config, blobs)


def image(
    layers: Sequence[int] = (10240, 4096),
    *,
    seed: int = 0,
    compress: bool = False,
    algorithm: str = "sha256",
    architecture: str = "amd64",
    annotations: dict[str, str] | None = None,
) -> Image:
    """An image whose layers are tars of exactly these sizes before compression."""
    blobs: dict[Digest, bytes] = {}
    diffs, described = [], []
    for number, size in enumerate(layers):
        plain = tar_layer(size, seed * 1000 + number)
        diffs.append("sha256:" + hashlib.sha256(plain).hexdigest())
        stored = gzip.compress(plain, 1, mtime=0) if compress else plain
        layer = describe(LAYER + ("+gzip" if compress else ""), stored, algorithm)
        blobs[layer.digest] = stored
        described.append(layer)
    config_bytes = dump(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Labels": {"seed": str(seed)}},
            "rootfs": {"type": "layers", "diff_ids": diffs},
            "history": [{"created_by": "test"} for _ in layers],
        }
    )
    config = describe(CONFIG, config_bytes, algorithm)
    blobs[config.digest] = config_bytes
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": as_json(config),
        "layers": [as_json(layer) for layer in described],
    }
    if annotations is not None:
        document["annotations"] = annotations
    manifest = dump(document)
    target = describe(OCI_MANIFEST, manifest, algorithm)
    blobs[target.digest] = manifest
    return Image(target, manifest, described, config, blobs)


def large_image() -> Image:
    """The largest manifest that the distribution-spec's conformance suite pushes: 390 annotations of 10,000 bytes."""
    return image((1536,), annotations={f"annotation-{number}": "x" * 10_000 for number in range(390)})


def index(images: Sequence[Image], *, algorithm: str = "sha256") -> Image:
    """A multi-platform index over these images."""
    architectures = ("amd64", "arm64", "riscv64", "s390x", "ppc64le")
    manifest = dump(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                as_json(each.target, platform={"architecture": architectures[number % 5], "os": "linux"})
                for number, each in enumerate(images)
            ],
        }
    )
    blobs: dict[Digest, bytes] = {}
    for each in images:
        blobs.update(each.blobs)
    target = describe(OCI_INDEX, manifest, algorithm)
    blobs[target.digest] = manifest
    return Image(target, manifest, [], None, blobs)


def put(store: ImportTarget, made: Image, *names: str) -> list[Reference]:
    """Write an image into a store, blob by blob, and name it."""
    for digest, content in made.blobs.items():
        put_blob(store, content, digest)
    references = [Reference.parse(name) for name in names]
    for reference in references:
        store.tag(reference, made.target)
    return references


def put_blob(store: ImportTarget, content: bytes, digest: Digest | None = None) -> Digest:
    """Write one blob into a store; its digest."""
    digest = digest or Digest.of(content)
    ingest = store.ingest(digest, len(content))
    ingest.write(content)
    ingest.commit()
    return digest


# Files that tools write.


def layout_files(images: dict[str, Image], **annotation: str) -> dict[str, bytes]:
    """The files of an image layout; the images' names go to ``org.opencontainers.image.ref.name``."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    roots = []
    for name, made in images.items():
        annotations = {"org.opencontainers.image.ref.name": name, **annotation} if name else {}
        roots.append(as_json(made.target, **({"annotations": annotations} if annotations else {})))
        for digest, content in made.blobs.items():
            files[f"blobs/{digest.algorithm}/{digest.hex}"] = content
    files["index.json"] = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": roots})
    return files


def docker_files(images: dict[str, Image]) -> dict[str, bytes]:
    """The files of ``docker save`` before version 25: a directory for each layer. For uncompressed images."""
    files: dict[str, bytes] = {}
    saved = []
    for name, made in images.items():
        assert made.config is not None
        config = f"{made.config.digest.hex}.json"
        files[config] = made.blobs[made.config.digest]
        entries = []
        for layer in made.layers:
            directory = hashlib.sha256(layer.digest.encode()).hexdigest()
            files[f"{directory}/VERSION"] = b"1.0"
            files[f"{directory}/json"] = b"{}"
            files[f"{directory}/layer.tar"] = made.blobs[layer.digest]
            entries.append(f"{directory}/layer.tar")
        saved.append({"Config": config, "RepoTags": [name] if name else None, "Layers": entries})
    files["manifest.json"] = dump(saved)
    files["repositories"] = b"{}"
    return files


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    """Write files below a directory."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """An entry of any kind, without content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def tar_of(files: Iterable[tuple[str | tarfile.TarInfo, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of these files in this order; a TarInfo is taken as it is, with its own kind and link name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if isinstance(name, str):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes], *, compress: bool = False) -> Path:
    """Write files to a tar."""
    content = tar_of(files.items())
    path.write_bytes(gzip.compress(content, 1, mtime=0) if compress else content)
    return path
