"""Makes real images: layers are tar files that unpack, and everything has the digest it says. No network, no tools."""

from __future__ import annotations

import gzip
import hashlib
import io
import platform
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kit.layout import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Layout, descriptor, digest_of, dump

OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class Image:
    """An image for this machine's platform: an index over one manifest, its config and layers, all as bytes."""

    name: str
    index: bytes
    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        """The index's digest, which the tag means."""
        return digest_of(self.index)

    @property
    def blobs(self) -> dict[str, bytes]:
        """Everything, by digest."""
        return {digest_of(content): content for content in (self.index, self.manifest, self.config, *self.layers)}

    def write(self, layout: Layout) -> None:
        """Add it to an image layout under its full name."""
        layout.add_image(self.name, self.index, [self.manifest, self.config, *self.layers], OCI_INDEX)

    def write_archive(self, path: Path) -> Path:
        """Write it as an OCI archive, as ``ctr images import`` takes it."""
        root = {
            "schemaVersion": 2,
            "manifests": [descriptor(OCI_INDEX, self.index, annotations={"io.containerd.image.name": self.name})],
        }
        files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": dump(root)}
        files |= {f"blobs/sha256/{digest[7:]}": content for digest, content in self.blobs.items()}
        with tarfile.open(path, "w") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return path


def make_image(
    name: str,
    sizes: Sequence[int] = (20_000, 300_000),
    *,
    seed: int | str = 0,
    annotations: dict[str, str] | None = None,
) -> Image:
    """An image whose layers hold random files of these sizes in bytes, the same for the same arguments.

    Layers up to 1 MB are compressed; random bytes do not shrink, and compressing the large ones takes its time.
    """
    layers: list[tuple[str, bytes]] = []
    unpacked = []
    for number, size in enumerate(sizes):
        plain = _layer(f"data/{number}", random.Random(f"{seed}/{number}/{size}").randbytes(size))
        unpacked.append(digest_of(plain))
        packed = gzip.compress(plain, 1, mtime=0) if size <= 1_000_000 else plain
        layers.append((OCI_LAYER if packed is plain else OCI_LAYER_GZIP, packed))
    config = dump(
        {
            "architecture": _ARCHITECTURE,
            "os": "linux",
            "config": {"Cmd": ["/none"], "Labels": {"of": f"{name}/{seed}"}},
            "rootfs": {"type": "layers", "diff_ids": unpacked},
        }
    )
    manifest = dump(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, config),
            "layers": [descriptor(media_type, layer) for media_type, layer in layers],
            **({"annotations": annotations} if annotations else {}),
        }
    )
    here = descriptor(OCI_MANIFEST, manifest, platform={"architecture": _ARCHITECTURE, "os": "linux"})
    index = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [here]})
    return Image(name, index, manifest, config, tuple(layer for _, layer in layers))


def _layer(path: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(path)
        entry.size = len(content)
        entry.mode = 0o644
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def sha256_file(path: Path) -> str:
    """The digest of a file's content."""
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
