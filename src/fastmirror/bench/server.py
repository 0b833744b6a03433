"""A node of our own for the length of a measurement: ``fastmirror serve`` in a process, over a layout made for it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from fastmirror.bench.client import HOST, BenchFailed
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store.layout import LayoutStore, open_layout

MIB: Final = 1 << 20
REPOSITORY: Final = "bench/image"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
MANIFEST_SIZE: Final = 2048
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Item:
    """One object that is served: its path and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class Server:
    """A running node: its process and the ports of its registry and peer listeners."""

    pid: int
    registry: int
    peer: int

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far. Source: proc_pid_stat(5)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def pss_mib(self) -> float | None:
        """Its proportional set size in MiB; None where the kernel does not say (proc_pid_smaps(5))."""
        try:
            text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        except OSError:
            return None
        return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("Pss:")), None)


def make_layout(directory: Path, sizes: tuple[int, ...]) -> tuple[list[Item], Item]:
    """An image layout with a blob of each size (multiples of 1 MiB) and a manifest of 2 KiB. Raises StoreError."""
    with contextlib.closing(open_layout(directory, create=True)) as store:
        made = [_blob(store, size) for size in sizes]
        layers = [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(digest), "size": size}
            for digest, size in made
        ]
        document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": layers[0], "layers": layers}
        spare = MANIFEST_SIZE - len(json.dumps({**document, "annotations": {"fill": ""}}))
        content = json.dumps({**document, "annotations": {"fill": "x" * spare}}).encode()
        digest = Digest.of(content)
        ingest = store.ingest(digest, len(content))
        ingest.write(content)
        ingest.commit()
        store.tag(Reference.parse(f"bench.local/{REPOSITORY}:1"), Descriptor(MANIFEST_TYPE, digest, len(content)))
    blobs = [Item(f"/v2/{REPOSITORY}/blobs/{digest}", size) for digest, size in made]
    return blobs, Item(f"/v2/{REPOSITORY}/manifests/{digest}", len(content))


def _blob(store: LayoutStore, size: int) -> tuple[Digest, int]:
    """``size`` bytes, no two MiB alike."""
    import hashlib

    base = os.urandom(MIB - 8)
    hasher = hashlib.sha256()
    for number in range(size // MIB):
        hasher.update(number.to_bytes(8, "big") + base)
    digest = Digest.parse(f"sha256:{hasher.hexdigest()}")
    ingest = store.ingest(digest, size)
    for number in range(size // MIB):
        ingest.write(number.to_bytes(8, "big") + base)
    ingest.commit()
    return digest, size


@contextlib.contextmanager
def serving(layout: Path, *peers: str) -> Iterator[Server]:
    """A node over a layout, with default settings whatever the environment says; ended with the block.

    Raises BenchFailed with what it said when it does not start.
    """
    line = [sys.executable, "-m", "fastmirror", "serve", "--store", f"oci:{layout}"]
    line += [f"--{name}-addr={HOST}:0" for name in ("registry", "peer", "admin")]
    line += ["--peers", ",".join(peers)] if peers else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTMIRROR_")}
    with subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stderr is not None
        try:
            said = _serving(process.stderr)
            ports = [int(str(said[name]).rpartition(":")[2]) for name in ("registry", "peer")]
            yield Server(process.pid, *ports)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _serving(log: IO[bytes]) -> dict[str, object]:
    """What the node says when it serves; its log holds a few lines more, which fit into the pipe."""
    deadline = time.monotonic() + START_SECONDS
    text = b""
    while time.monotonic() < deadline:
        if not select.select([log], [], [], max(0.0, deadline - time.monotonic()))[0]:
            break
        piece = os.read(log.fileno(), 65536)
        if not piece:
            break
        text += piece
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event") == "daemon.serving":
                    return entry
    raise BenchFailed(
        f"bench: the node did not start: {text[-600:].decode(errors='replace').strip() or 'it said nothing'}"
    )
