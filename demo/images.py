"""A real image to pull: Debian's packages or files of this machine, as an OCI image layout that is kept."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sysconfig
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastmirror.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference

MIB = 1 << 20
EPOCH = 1700000000  # every file's time, so that the same files make the same digests
REGISTRY = "registry.demo.test"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
DEBIAN_PACKAGES = "base-files,libc6,libstdc++6,ca-certificates,perl,python3"
DEBIAN_SECONDS = 40.0
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LIBRARY_MIB = 16  # the second layer
SKIPPED = {"__pycache__", "site-packages", "dist-packages", "test", "tests"}


@dataclass(frozen=True)
class Image:
    """An image in an OCI layout: its name, its manifest, and everything the manifest names."""

    reference: Reference
    layout: Path
    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        """All its content."""
        return (self.manifest, self.config, *self.layers)

    @property
    def size(self) -> int:
        """Bytes of all its content."""
        return sum(descriptor.size for descriptor in self.descriptors)

    @property
    def largest(self) -> Descriptor:
        """The layer that takes longest to pull."""
        return max(self.layers, key=lambda layer: layer.size)

    def file(self, digest: Digest) -> Path:
        """Where some content is in the layout."""
        return blob_file(self.layout, digest)


def blob_file(layout: Path, digest: Digest) -> Path:
    """The path of content in an image layout, whether or not it is there."""
    return layout / "blobs" / digest.algorithm / digest.hex


class _Layout:
    """An OCI image layout that is being written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs" / "sha256").mkdir(parents=True)

    def add_bytes(self, content: bytes, media_type: str) -> Descriptor:
        digest = Digest.of(content)
        blob_file(self.root, digest).write_bytes(content)
        return Descriptor(media_type, digest, len(content))

    def add_file(self, file: Path, media_type: str) -> Descriptor:
        digest = file_digest(file)
        file.rename(blob_file(self.root, digest))
        return Descriptor(media_type, digest, blob_file(self.root, digest).stat().st_size)

    def finish(self, manifest: Descriptor, reference: Reference) -> None:
        names = {"org.opencontainers.image.ref.name": reference.tag, "io.containerd.image.name": str(reference)}
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{**_entry(manifest), "annotations": names}]}
        (self.root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (self.root / "index.json").write_text(json.dumps(index))


def file_digest(file: Path) -> Digest:
    """The sha256 digest of a file's bytes. Raises OSError."""
    with file.open("rb") as stream:
        return Digest.parse("sha256:" + hashlib.file_digest(stream, "sha256").hexdigest())


def _entry(descriptor: Descriptor) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _debian_tar(target: Path) -> bool:
    """Write a Debian root filesystem as a tar; False where mmdebstrap is absent or does not work as this user."""
    tool = shutil.which("mmdebstrap")
    if tool is None:
        return False
    line = [tool, "--quiet", "--variant=extract", f"--include={DEBIAN_PACKAGES}", _debian_suite(), str(target)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    try:
        done = subprocess.run(line, env=environment, capture_output=True, timeout=DEBIAN_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and target.stat().st_size > MIB


def _debian_suite() -> str:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        lines = []
    facts = dict(line.split("=", 1) for line in lines if "=" in line)
    return facts.get("VERSION_CODENAME", "stable") if facts.get("ID") == "debian" else "stable"


def _machine_files(roots: Sequence[Path]) -> Iterator[Path]:
    """Regular files below ``roots``, in order of their names; what cannot be read is left out."""
    for root in roots:
        for directory, names, files in os.walk(root):
            names[:] = sorted(name for name in names if name not in SKIPPED)
            for name in sorted(files):
                file = Path(directory, name)
                if file.is_file() and not file.is_symlink() and os.access(file, os.R_OK):
                    yield file


def _files_tar(target: Path, roots: Sequence[Path], size: int) -> None:
    """Write a tar of about ``size`` bytes of this machine's files; always the same bytes for the same files."""
    written = 0
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for file in _machine_files(roots):
            try:
                content = file.read_bytes()
            except OSError:
                continue  # it went away meanwhile
            if written + len(content) > size:
                continue
            entry = tarfile.TarInfo(str(file).lstrip("/"))
            entry.size, entry.mtime, entry.mode = len(content), EPOCH, 0o644
            archive.addfile(entry, io.BytesIO(content))
            written += len(content)
            if written > size - 64 * 1024:
                return


def _compress(file: Path) -> Path:
    packed = file.with_suffix(".gz")
    with (
        file.open("rb") as stream,
        packed.open("wb") as target,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=target, mtime=0) as archive,
    ):
        shutil.copyfileobj(stream, archive, MIB)
    file.unlink()
    return packed


def _build(root: Path, source: str, mebibytes: int) -> Image:
    layout = _Layout(root)
    base, library = root / "base.tar", root / "library.tar"
    python = Path(sysconfig.get_path("stdlib"))
    name = "debian"
    if source == "files" or not _debian_tar(base):
        name = "machine"
        _files_tar(base, [Path("/usr/lib"), Path("/usr/share"), python], mebibytes * MIB)
    _files_tar(library, [python], min(LIBRARY_MIB, mebibytes) * MIB)
    diff_ids = [file_digest(base), file_digest(library)]
    layers = (
        layout.add_file(base, LAYER_TYPE),
        layout.add_file(_compress(library), f"{LAYER_TYPE}+gzip"),
    )
    document = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": ["/usr/bin/python3"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    config = layout.add_bytes(json.dumps(document).encode(), CONFIG_TYPE)
    entries = [_entry(layer) for layer in layers]
    manifest_document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _entry(config),
        "layers": entries,
    }
    manifest = layout.add_bytes(json.dumps(manifest_document).encode(), OCI_MANIFEST)
    reference = Reference(REGISTRY, f"demo/{name}", "1")
    layout.finish(manifest, reference)
    return Image(reference, root, manifest, config, layers)


def _described(image: Image) -> str:
    entries = {"config": _entry(image.config), "layers": [_entry(layer) for layer in image.layers]}
    return json.dumps({"reference": str(image.reference), "manifest": _entry(image.manifest), **entries})


def _known(root: Path, text: str) -> Image:
    def descriptor(entry: dict[str, object]) -> Descriptor:
        return Descriptor(str(entry["mediaType"]), Digest.parse(str(entry["digest"])), int(str(entry["size"])))

    facts = json.loads(text)
    layers = tuple(descriptor(entry) for entry in facts["layers"])
    reference = Reference.parse(facts["reference"])
    return Image(reference, root, descriptor(facts["manifest"]), descriptor(facts["config"]), layers)


def prepare(work: Path, source: str, mebibytes: int) -> Image:
    """The image below ``work``, made if it is not there yet.

    ``source`` "debian": a Debian root filesystem, or files of this machine where mmdebstrap does not work; "files":
    always those. ``mebibytes``: about how large the layer of this machine's files is.
    """
    root = work / "images" / (source if source == "debian" else f"{source}-{mebibytes}")
    marker = root / "image.json"
    if not marker.exists():
        shutil.rmtree(root, ignore_errors=True)
        image = _build(root, source, mebibytes)
        marker.write_text(_described(image))
    return _known(root, marker.read_text())
