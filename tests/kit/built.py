"""The image of this tree, built by tools/image.sh, and what its manifest and configuration say."""

from __future__ import annotations

import json
import subprocess
import tarfile
from functools import cached_property
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


class Built:
    """An image as an OCI archive in ``directory``; its parts are unpacked beside it when they are looked at."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.archive = directory / "image.tar"
        self.digest = (directory / "digest").read_text().strip()
        self.manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text())

    @cached_property
    def name(self) -> str:
        """The name that containerd gives it when it imports the archive without another one."""
        with tarfile.open(self.archive) as archive:
            index = archive.extractfile("index.json")
            assert index is not None
            entry = json.load(index)["manifests"][0]
        return str(entry["annotations"]["org.opencontainers.image.ref.name"])

    def _blob(self, digest: str) -> Path:
        path = self.directory / "blobs" / digest.removeprefix("sha256:")
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(self.archive) as archive:
            content = archive.extractfile(f"blobs/sha256/{path.name}")
            assert content is not None
            path.write_bytes(content.read())
        return path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The image's configuration."""
        found: dict[str, Any] = json.loads(self._blob(self.manifest["config"]["digest"]).read_text())
        return found

    def layers(self) -> list[Path]:
        """The layers' archives, lowest first."""
        return [self._blob(layer["digest"]) for layer in self.manifest["layers"]]

    @property
    def compressed_bytes(self) -> int:
        """What a node downloads."""
        return sum(layer["size"] for layer in self.manifest["layers"])


def build_image(directory: Path) -> Built:
    """Build it into ``directory``; a few seconds where it is there already."""
    done = subprocess.run(
        [str(_ROOT / "tools" / "image.sh"), str(directory)], capture_output=True, text=True, cwd=_ROOT, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return Built(directory)
