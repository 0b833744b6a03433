"""What the servers serve: an OCI image layout, and the same files (hard links) under the paths of the pull API."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
REPOSITORY = "bench/image"
TAG = "1"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
BLOB_SIZES = {"8 MiB": 8 * MIB, "1 GiB": 1024 * MIB}
MANIFEST_SIZES = {"2 KiB manifest": 2048, "9.5 KiB manifest": 9728}
COLD = "cold 32 MiB"  # sixteen files of their own: they are taken out of the page cache again and again
COLD_FILES = 16
BLOB_SIZES |= {f"{COLD}, {number}": 32 * MIB for number in range(COLD_FILES)}


@dataclass(frozen=True)
class Item:
    """One object: its name on the page, its path in the pull API, its digest and its size in bytes."""

    name: str
    path: str
    digest: str
    size: int


@dataclass(frozen=True)
class Content:
    """``layout`` for fastmirror, ``root`` for servers of plain files. Both hold the same inodes."""

    layout: Path
    root: Path
    items: dict[str, Item]

    @property
    def cold(self) -> tuple[str, ...]:
        """Paths of the files that are read from the disk."""
        return tuple(item.path for name, item in self.items.items() if name.startswith(COLD))


def _pieces(name: str, size: int) -> Iterator[bytes]:
    """``size`` bytes (a multiple of 1 MiB), the same in every run, no two MiB alike."""
    base = random.Random(name).randbytes(MIB - 8)
    for number in range(size // MIB):
        yield number.to_bytes(8, "big") + base


def _write_blob(blobs: Path, name: str, size: int) -> str:
    partial = blobs / "partial"
    hasher = hashlib.sha256()
    with partial.open("wb") as file:
        for piece in _pieces(name, size):
            hasher.update(piece)
            file.write(piece)
    partial.rename(blobs / hasher.hexdigest())
    return hasher.hexdigest()


def _write_bytes(blobs: Path, content: bytes) -> str:
    name = hashlib.sha256(content).hexdigest()
    (blobs / name).write_bytes(content)
    return name


def _manifest(config: tuple[str, int], layers: list[tuple[str, int]], size: int) -> bytes:
    """An image manifest of exactly ``size`` bytes (an annotation fills it up)."""

    def render(fill: int) -> bytes:
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": f"sha256:{config[0]}",
                "size": config[1],
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": f"sha256:{name}",
                    "size": layer_size,
                }
                for name, layer_size in layers
            ],
            "annotations": {"org.fastmirror.bench.fill": "x" * fill},
        }
        return json.dumps(document).encode()

    return render(size - len(render(0)))


def _build(layout: Path) -> dict[str, str]:
    """Write the layout; returns the hex digests by item name."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    names = {name: _write_blob(blobs, name, size) for name, size in BLOB_SIZES.items()}
    config = b'{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}'
    config_name = _write_bytes(blobs, config)
    warm = [(names[name], size) for name, size in BLOB_SIZES.items() if not name.startswith(COLD)]
    all_of_them = [(names[name], size) for name, size in BLOB_SIZES.items()]
    descriptors = []
    for number, (name, size) in enumerate(MANIFEST_SIZES.items()):
        layers = all_of_them if number else warm  # in 2 KiB there is no room for all
        names[name] = _write_bytes(blobs, _manifest((config_name, len(config)), layers, size))
        descriptors.append(
            {
                "mediaType": MANIFEST_TYPE,
                "digest": f"sha256:{names[name]}",
                "size": size,
                "annotations": {
                    "org.opencontainers.image.ref.name": f"{TAG}.{number}",
                    "io.containerd.image.name": f"registry.bench.local/{REPOSITORY}:{TAG}.{number}",
                },
            }
        )
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": descriptors}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return names


def _item(name: str, hex_digest: str) -> Item:
    kind = "manifests" if name in MANIFEST_SIZES else "blobs"
    size = MANIFEST_SIZES[name] if name in MANIFEST_SIZES else BLOB_SIZES[name]
    digest = f"sha256:{hex_digest}"
    return Item(name, f"/v2/{REPOSITORY}/{kind}/{digest}", digest, size)


def prepare(work: Path) -> Content:
    """The content below ``work``, made once (about 1.6 GB) and kept for the next run."""
    root, layout, marker = work / "root", work / "layout", work / "content.json"
    if not marker.exists() or set(json.loads(marker.read_text())) != {*BLOB_SIZES, *MANIFEST_SIZES}:
        for old in (root, layout):
            shutil.rmtree(old, ignore_errors=True)
        names = _build(layout)
        for name, hex_digest in names.items():
            target = root / _item(name, hex_digest).path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(layout / "blobs" / "sha256" / hex_digest)
        marker.write_text(json.dumps(names))
    items = {name: _item(name, hex_digest) for name, hex_digest in json.loads(marker.read_text()).items()}
    for item in items.values():
        _warm(root / item.path.lstrip("/"))
    return Content(layout, root, items)


def _warm(path: Path) -> None:
    """Bring the file into the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(4 * MIB):
            pass
