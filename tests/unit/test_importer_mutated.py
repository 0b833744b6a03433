"""Archives with arbitrary damage: refused or imported right, never half, never outside the store."""

from __future__ import annotations

import gzip
import io
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fastmirror.errors import ImportFailed
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import parse_manifest
from fastmirror.oci.reference import Reference
from fastmirror.store.archive import TarArchive
from fastmirror.store.importer import import_archive
from fastmirror.store.layout import open_layout
from fastmirror.store.memory import MemoryStore
from fastmirror.store.tar import read_index
from tests.kit import content

NAME = "registry.example/team/app:1"
MADE = content.index([content.image((1536,), seed=1), content.image((1536, 2048), seed=2)])
FILES = content.layout_files({NAME: MADE})
SAVED = content.docker_files({NAME: content.image((1536, 2048), seed=3)})
ARCHIVES = [content.tar_of(FILES.items()), content.tar_of(SAVED.items())]

edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "remove", "repeat", "zero"]),
        st.integers(0, 1 << 16),
        st.binary(min_size=1, max_size=24),
    ),
    min_size=1,
    max_size=4,
)


def damaged(whole: bytes, done: list[tuple[str, int, bytes]]) -> bytes:
    for action, place, piece in done:
        at = place % max(1, len(whole))
        if action == "flip":
            whole = (
                whole[:at] + bytes(a ^ b for a, b in zip(whole[at:], piece, strict=False)) + whole[at + len(piece) :]
            )
        elif action == "cut":
            whole = whole[:at]
        elif action == "insert":
            whole = whole[:at] + piece + whole[at:]
        elif action == "remove":
            whole = whole[:at] + whole[at + len(piece) :]
        elif action == "repeat":
            block = at // 512 * 512
            whole = whole[:block] + whole[block : block + 1024] + whole[block:]
        else:
            whole = whole[:at] + bytes(len(piece)) + whole[at + len(piece) :]
    return whole


def holds_only_whole_images(store: MemoryStore) -> None:
    """Every blob has its digest, and all that a name needs is there."""
    for digest in store.digests():
        blob = store.open(digest)
        assert blob is not None
        with blob:
            assert Digest.of(blob.read_span(0, blob.size), digest.algorithm) == digest
    for _, target in store.references():
        blob = store.open(target.digest)
        assert blob is not None
        with blob:
            manifest = parse_manifest(blob.read_span(0, blob.size))
        assert manifest is not None
        if not manifest.manifests:
            assert all(store.size(child.digest) == child.size for child in manifest.children)


@given(st.sampled_from(ARCHIVES), edits, st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_damaged_archive_is_refused_or_imported_right(
    whole: bytes, done: list[tuple[str, int, bytes]], compress: bool
) -> None:
    store = MemoryStore()
    with tempfile.NamedTemporaryFile() as file:
        file.write(gzip.compress(damaged(whole, done), 1) if compress else damaged(whole, done))
        file.flush()
        try:
            names = import_archive(store, file.name)
        except ImportFailed:
            assert list(store.digests()) == []
            assert list(store.references()) == []
        else:
            assert sorted(names) == sorted(reference for reference, _ in store.references())
    holds_only_whole_images(store)


@given(edits)
@settings(max_examples=100, deadline=None)
def test_damaged_gzip_is_refused_or_imported_right(done: list[tuple[str, int, bytes]]) -> None:
    store = MemoryStore()
    with tempfile.NamedTemporaryFile() as file:
        file.write(damaged(gzip.compress(ARCHIVES[0], 1), done))
        file.flush()
        try:
            import_archive(store, file.name)
        except ImportFailed:
            assert list(store.digests()) == []
    holds_only_whole_images(store)


names = st.one_of(
    st.sampled_from(list(FILES)),
    st.lists(
        st.sampled_from(["..", ".", "", "blobs", "sha256", "etc", "x", "\\", "a" * 120]), min_size=1, max_size=5
    ).map("/".join),
    st.text(max_size=20),
)
kinds = st.sampled_from([b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"x", b"g", b"L", b"K", b"?"])


@given(st.lists(st.tuples(names, kinds, names, st.binary(max_size=30)), max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_whatever_an_archive_calls_its_entries_nothing_is_written_outside_the_store(
    strange: list[tuple[str, bytes, str, bytes]], random: object
) -> None:
    entries: list[tuple[object, bytes]] = list(FILES.items())
    for name, kind, link, whole in strange:
        info = content.entry(name, kind, link)
        info.size = len(whole)
        entries.insert(random.randrange(len(entries) + 1), (info, whole))  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        archive = place / "a.tar"
        try:
            archive.write_bytes(content.tar_of(entries))  # type: ignore[arg-type]
        except (ValueError, UnicodeError):
            return  # no tar can say that
        store = open_layout(place / "in" / "store", create=True)
        try:
            import_archive(store, archive)
        except ImportFailed:
            assert list(store.digests()) == []
            assert list(store.references()) == []
        else:
            assert store.resolve(Reference.parse(NAME)) == MADE.target
        store.close()
        assert sorted(path.name for path in place.iterdir()) == ["a.tar", "in"]
        assert [path.name for path in (place / "in").iterdir()] == ["store"]
        inside = {path.relative_to(place / "in" / "store").parts[0] for path in (place / "in" / "store").iterdir()}
        assert inside == {".fastmirror", "blobs", "index.json", "oci-layout"}


class Bytes:
    """Goes through bytes in memory."""

    def __init__(self, whole: bytes) -> None:
        self._file = io.BytesIO(whole)
        self._size = len(whole)
        self.position = 0

    def take(self, count: int) -> bytes:
        block = self._file.read(count)
        self.position += len(block)
        return block

    def skip(self, count: int, entry: str) -> None:
        if count > self._size - self.position:
            raise ImportFailed("cut short")
        self.position += count
        self._file.seek(self.position)


@given(st.binary(max_size=2048))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_indexed_or_refused(whole: bytes) -> None:
    for content_bytes in (whole, ARCHIVES[0][:1024] + whole):
        try:
            index = read_index(Bytes(content_bytes))
        except ImportFailed:
            continue
        archive = TarArchive(io.BytesIO(content_bytes), index)
        assert archive.size("nowhere") is None
