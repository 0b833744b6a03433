"""Large manifests: read and parsed once, and sent from their file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fastmirror._native.endpoint import Reply
from fastmirror._native.requests import Request
from fastmirror.mirror.app import Mirror
from fastmirror.mirror.filters import Filters
from fastmirror.mirror.local import SMALL_BYTES, Local
from fastmirror.oci.descriptor import OCI_MANIFEST
from fastmirror.oci.digest import Digest
from fastmirror.store import Blob
from fastmirror.store.memory import MemoryStore

CONTENT = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/json", "digest": "sha256:" + "ab" * 32, "size": 2},
        "layers": [],
        "annotations": {"long": "x" * 2 * SMALL_BYTES},
    }
).encode()
DIGEST = Digest.of(CONTENT)


class Files(MemoryStore):
    """A memory store whose content is read from one file; ``reads`` counts how often."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.reads = 0
        path.write_bytes(CONTENT)
        self.put(CONTENT)

    def open(self, digest: Digest) -> Blob | None:
        store = self

        class Counted(Blob):
            def read_span(self, start: int, stop: int) -> bytes:
                store.reads += 1
                return super().read_span(start, stop)

        fd = os.open(self.path, os.O_RDONLY)
        return Counted(fd, os.fstat(fd).st_size, digest)


def ask(mirror: Mirror, method: str) -> tuple[bytes, bytes]:
    """The head of the answer and the bytes of its body's file."""
    reply = mirror(Request(method, f"/v2/a/manifests/{DIGEST}".encode(), None, None, True, "127.0.0.1"))
    assert isinstance(reply, Reply)
    if reply.body is None:
        return reply.head, reply.content
    content = os.pread(reply.body.fileno(), reply.stop - reply.start, reply.start)
    reply.body.close()
    return reply.head, content


@pytest.fixture
def store(tmp_path: Path) -> Files:
    return Files(tmp_path / "manifest")


def test_large_manifest_is_read_once_and_leaves_from_its_file(store: Files) -> None:
    mirror = Mirror(Local(store, Filters()))
    for method in ("HEAD", "GET", "HEAD", "GET"):
        head, content = ask(mirror, method)
        assert head.startswith(b"HTTP/1.1 200") and OCI_MANIFEST.encode() in head and content == CONTENT
    assert store.reads == 1


def test_large_manifest_whose_file_was_changed_is_read_again_and_not_served(store: Files) -> None:
    mirror = Mirror(Local(store, Filters()))
    ask(mirror, "GET")
    store.path.write_bytes(CONTENT[:-1] + b" ")
    os.utime(store.path, ns=(1, 1))
    head, _ = ask(mirror, "GET")
    assert head.startswith(b"HTTP/1.1 404") and store.reads == 2
