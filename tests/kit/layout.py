"""Writes OCI image layouts as another tool would, so that what is served does not depend on our own import.

Source: OCI image-spec, image-layout.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    """``algorithm:hex`` of some content."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def descriptor(media_type: str, content: bytes, algorithm: str = "sha256", **more: object) -> dict[str, object]:
    """A descriptor of some content; ``more`` are further members."""
    return {"mediaType": media_type, "digest": digest_of(content, algorithm), "size": len(content), **more}


def dump(document: object) -> bytes:
    """JSON as bytes, always the same for the same document."""
    return json.dumps(document, separators=(",", ":")).encode()


def image(layers: list[bytes], *, config: bytes = b"", **more: object) -> tuple[bytes, list[bytes]]:
    """A manifest over these layers, and the blobs it names (its config, then the layers)."""
    rootfs = {"type": "layers", "diff_ids": []}
    config = config or dump({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs})
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config),
        "layers": [descriptor(OCI_LAYER, layer) for layer in layers],
        **more,
    }
    return dump(document), [config, *layers]


class Layout:
    """An image layout directory. Blobs appear by rename, and index.json is replaced as a whole."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._images: list[dict[str, object]] = []
        (directory / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._write_index()

    def path(self, digest: str) -> Path:
        """Where the content with this digest is."""
        algorithm, _, name = digest.partition(":")
        return self.directory / "blobs" / algorithm / name

    def add(self, content: bytes, algorithm: str = "sha256") -> str:
        """Store one blob; its digest."""
        digest = digest_of(content, algorithm)
        self._place(digest, content)
        return digest

    def add_zeros(self, size: int) -> str:
        """Store a sparse blob of zeros; its digest."""
        hasher = hashlib.sha256()
        block = bytes(1 << 20)
        for position in range(0, size, len(block)):
            hasher.update(block[: size - position])
        digest = "sha256:" + hasher.hexdigest()
        self._place(digest, b"")
        os.truncate(self.path(digest), size)
        return digest

    def add_image(
        self, name: str, manifest: bytes, blobs: list[bytes], media_type: str = OCI_MANIFEST, algorithm: str = "sha256"
    ) -> str:
        """Store an image and give it the full name ``registry/repository:tag``; its manifest's digest.

        ``algorithm`` is that of the manifest and of every blob.
        """
        for blob in (*blobs, manifest):
            self.add(blob, algorithm)
        root = descriptor(media_type, manifest, algorithm, annotations={"org.opencontainers.image.ref.name": name})
        self._images.append(root)
        self._write_index()
        return digest_of(manifest, algorithm)

    def _place(self, digest: str, content: bytes) -> None:
        target = self.path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = self.directory / f".part-{os.getpid()}"
        part.write_bytes(content)
        part.chmod(0o644)
        part.rename(target)

    def _write_index(self) -> None:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._images}
        part = self.directory / ".index.part"
        part.write_bytes(dump(index))
        part.rename(self.directory / "index.json")
