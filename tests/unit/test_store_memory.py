"""The store in memory."""

from __future__ import annotations

import pytest

from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.store.memory import MemoryStore
from tests.kit.store_conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    def remove(self, store: MemoryStore, digest: Digest) -> None:
        store.remove(digest)

    def untag(self, store: MemoryStore, reference: Reference) -> None:
        store.untag(reference)

    def test_put_gives_the_digest(self, store: MemoryStore) -> None:
        assert store.put(b"x", "sha512") == Digest.of(b"x", "sha512")
