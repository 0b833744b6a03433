"""What an import refuses, naming the entry, and that it then leaves the store exactly as it was."""

from __future__ import annotations

import gzip
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastmirror.errors import ImportFailed
from fastmirror.oci.descriptor import OCI_MANIFEST, Descriptor
from fastmirror.oci.reference import Reference
from fastmirror.store import tar
from fastmirror.store.importer import import_archive
from fastmirror.store.layout import LayoutStore, open_layout
from tests.kit import content
from tests.kit.content import entry

NAME = "registry.example/team/app:1"
MADE = content.image((10240, 4096))
FILES = content.layout_files({NAME: MADE})
SAVED = content.docker_files({NAME: MADE})
LAYER = f"blobs/sha256/{MADE.layers[0].digest.hex}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LayoutStore]:
    store = open_layout(tmp_path / "store", create=True)
    content.put(store, content.image(seed=9), "registry.example/before:1")
    yield store
    store.close()


def snapshot(root: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


def refused(store: LayoutStore, path: Path, *said: str) -> None:
    """The archive is refused with these words in one line, and store and surroundings are as before."""
    before = snapshot(path.parent)
    with pytest.raises(ImportFailed) as refusal:
        import_archive(store, path)
    text = str(refusal.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    for words in said:
        assert words in text
    assert snapshot(path.parent) == before


def sealed(header: bytes) -> bytes:
    """A header with its checksum made right."""
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


# Tricks in the tar.


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (entry("/etc/passwd"), "absolute"),
        (entry("../outside"), "leads out of the archive"),
        (entry("blobs/../../outside"), "leads out of the archive"),
        (entry("blobs/sha256/.."), "leads out of the archive"),
        (entry("/", tarfile.DIRTYPE), "absolute"),
        (entry("../d", tarfile.DIRTYPE), "leads out of the archive"),
        (entry("a", tarfile.SYMTYPE, "/etc/passwd"), "absolute"),
        (entry("a", tarfile.SYMTYPE, "../etc/passwd"), "leads out of the archive"),
        (entry("a/b", tarfile.SYMTYPE, "../../etc/passwd"), "leads out of the archive"),
        (entry("a", tarfile.LNKTYPE, "/etc/passwd"), "absolute"),
        (entry("a", tarfile.LNKTYPE, "../etc/passwd"), "leads out of the archive"),
        (entry("a", tarfile.CHRTYPE), "a character device"),
        (entry("a", tarfile.BLKTYPE), "a block device"),
        (entry("a", tarfile.FIFOTYPE), "a fifo"),
        (entry("a", tarfile.GNUTYPE_SPARSE), "a sparse file"),
        (entry("a", b"?"), "unknown kind"),
        (entry("index.json"), "twice"),
        (entry("./index.json"), "twice"),
        (entry("blobs//sha256/../x"), "leads out of the archive"),
        (entry("index.json", tarfile.SYMTYPE, "oci-layout"), "twice"),
        (entry("index.json", tarfile.DIRTYPE), "twice"),
        (entry("."), "no name"),
        (entry("a\x1b[2Jb"), "control characters"),
        (entry("a\nb"), "control characters"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else None,
)
@pytest.mark.parametrize("compress", [False, True])
def test_an_entry_that_no_image_archive_has_is_refused(
    store: LayoutStore, tmp_path: Path, info: tarfile.TarInfo, said: str, compress: bool
) -> None:
    path = tmp_path / "a.tar"
    whole = content.tar_of([*FILES.items(), (info, b"")])
    path.write_bytes(gzip.compress(whole) if compress else whole)
    refused(store, path, said, f"entry {info.name.rstrip('/')!r}"[:-1])


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, "a sparse file"),
        ({"path": "../outside"}, "leads out of the archive"),
        ({"size": "-5"}, "its size is not a number"),
        ({"size": "9" * 30}, "its size is not a number"),
        ({"path": "x" * 70_000}, "larger than 64 KiB"),
    ],
)
def test_a_pax_header_with_tricks_is_refused(
    store: LayoutStore, tmp_path: Path, records: dict[str, str], said: str
) -> None:
    info = entry("plain")
    info.pax_headers = records
    path = tmp_path / "a.tar"
    path.write_bytes(content.tar_of([*FILES.items(), (info, b"")]))
    refused(store, path, said)


@pytest.mark.parametrize(
    "damage", [b"5 a=b\n", b"99999 path=x\n", b"x path=x\n", b"0 path=x\n", b"12 path=xyz_", b"11 path:xyz\n"]
)
def test_a_pax_header_that_is_damaged_is_refused(store: LayoutStore, tmp_path: Path, damage: bytes) -> None:
    info = entry("header", tarfile.XHDTYPE)
    info.size = len(damage)
    path = tmp_path / "a.tar"
    path.write_bytes(content.tar_of([(info, damage), *FILES.items()]))
    refused(store, path, "extended header is damaged")


def test_a_pax_header_that_renames_all_that_follows_is_refused(store: LayoutStore, tmp_path: Path) -> None:
    info = entry("header", tarfile.XGLTYPE)
    record = b"19 path=index.json\n"
    info.size = len(record)
    path = tmp_path / "a.tar"
    path.write_bytes(content.tar_of([(info, record), *FILES.items()]))
    refused(store, path, "to all entries that follow")


@pytest.mark.parametrize(
    "size",
    [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0", b"notanumber\0\0", b"\x80" + struct.pack(">3xQ", 1 << 61)],
)
@pytest.mark.parametrize("compress", [False, True])
def test_an_entry_with_an_impossible_size_is_refused_without_reading_it(
    store: LayoutStore, tmp_path: Path, size: bytes, compress: bool
) -> None:
    header = tarfile.TarInfo("huge").tobuf(tarfile.USTAR_FORMAT)
    whole = sealed(header[:124] + size + header[136:]) + bytes(10240)
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(whole) if compress else whole)
    refused(store, path)


def test_an_archive_with_too_many_entries_is_refused(
    store: LayoutStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar, "MAX_ENTRIES", 50)
    path = tmp_path / "a.tar"
    path.write_bytes(content.tar_of([(f"{number}", b"") for number in range(50)]))
    refused(store, path, "neither oci-layout nor manifest.json")
    path.write_bytes(content.tar_of([(f"{number}", b"") for number in range(51)]))
    refused(store, path, "more than 50 entries")


def test_links_in_a_circle_lead_nowhere(store: LayoutStore, tmp_path: Path) -> None:
    files = {name: whole for name, whole in FILES.items() if name != LAYER}
    there, back = (
        entry(LAYER, tarfile.SYMTYPE, "back"),
        entry("blobs/sha256/back", tarfile.SYMTYPE, MADE.layers[0].digest.hex),
    )
    path = tmp_path / "a.tar"
    path.write_bytes(content.tar_of([*files.items(), (there, b""), (back, b"")]))
    refused(store, path, LAYER, "missing")


# Damage.


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.95])
def test_an_archive_cut_short_is_refused(store: LayoutStore, tmp_path: Path, compress: bool, part: float) -> None:
    path = content.write_tar(tmp_path / "a.tar", FILES, compress=compress)
    useful = len(gzip.compress(b"".join(FILES.values()), 1)) if compress else sum(map(len, FILES.values()))
    os.truncate(path, int(useful * part))
    refused(store, path, "cut short")


def test_an_archive_that_ends_between_two_entries_is_refused(store: LayoutStore, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT) for name in ("a", "b")))
    refused(store, path, "its end is missing")


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("blobs")])
def test_a_blob_with_a_wrong_byte_is_refused_by_name(store: LayoutStore, tmp_path: Path, name: str) -> None:
    whole = FILES[name]
    spoilt = {
        **FILES,
        name: whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
    }
    refused(store, content.write_tar(tmp_path / "a.tar", spoilt), repr(name), "is damaged")


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("blobs")])
def test_a_blob_of_another_size_is_refused_by_name(store: LayoutStore, tmp_path: Path, name: str) -> None:
    refused(store, content.write_tar(tmp_path / "a.tar", {**FILES, name: FILES[name] + b"x"}), repr(name), "instead of")


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("blobs")])
def test_a_blob_that_is_missing_is_refused_by_name(store: LayoutStore, tmp_path: Path, name: str) -> None:
    files = {key: value for key, value in FILES.items() if key != name}
    refused(store, content.write_tar(tmp_path / "a.tar", files), repr(name), "missing")


def test_a_flipped_bit_in_gzip_is_refused(store: LayoutStore, tmp_path: Path) -> None:
    path = content.write_tar(tmp_path / "a.tar", FILES, compress=True)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 4
    path.write_bytes(whole)
    refused(store, path)


def root_of(target: Descriptor, **more: object) -> bytes:
    return content.dump(
        {"manifests": [content.as_json(target, annotations={"io.containerd.image.name": NAME}, **more)]}
    )


def _blob(whole: bytes) -> tuple[Descriptor, dict[str, bytes]]:
    target = content.describe(OCI_MANIFEST, whole)
    return target, {f"blobs/sha256/{target.digest.hex}": whole}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: {"index.json": b"{"}, "index.json is damaged"),
        (lambda: {"index.json": b'{"manifests": []}'}, "holds no image"),
        (lambda: {"index.json": b"{}"}, "holds no image"),
        (lambda: {"index.json": b'{"manifests":' + b"[" * 100_000}, "index.json is damaged"),
        (lambda: {"index.json": bytes(17 << 20)}, "more than the 16777216"),
        (lambda: {"oci-layout": b"{"}, "oci-layout is not JSON"),
        (lambda: {"oci-layout": b'{"imageLayoutVersion":"9"}'}, "'9'"),
        (lambda: {"oci-layout": bytes(5000)}, "more than the 4096"),
        (lambda: {"index.json": root_of(_blob(b"[]")[0]), **_blob(b"[]")[1]}, "no image manifest or index"),
        (lambda: {"index.json": root_of(_blob(b"{}")[0]), **_blob(b"{}")[1]}, "no image manifest or index"),
        (
            lambda: {"index.json": root_of(_blob(bytes(5 << 20))[0]), **_blob(bytes(5 << 20))[1]},
            "more than the",
        ),
        (
            lambda: {"index.json": content.dump({"manifests": [{"digest": "md5:00", "size": 1, "mediaType": "x"}]})},
            "holds no image",
        ),
    ],
)
def test_a_layout_with_damaged_documents_is_refused(
    store: LayoutStore, tmp_path: Path, spoil: Callable[[], dict[str, bytes]], said: str
) -> None:
    refused(store, content.write_tar(tmp_path / "a.tar", {**FILES, **spoil()}), said)


def test_an_index_without_any_of_its_platforms_is_refused(store: LayoutStore, tmp_path: Path) -> None:
    whole = content.index([MADE])
    for digest in MADE.blobs:
        whole = whole.without(digest)
    refused(store, content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: whole})), "none of them is there")


def _config(**more: object) -> bytes:
    return content.dump({"rootfs": {"type": "layers", "diff_ids": []}, **more})


def _saved(**more: object) -> bytes:
    return content.dump([{"Config": "c.json", "RepoTags": [NAME], "Layers": [], **more}])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"manifest.json": b"{"}, "'manifest.json' is damaged"),
        ({"manifest.json": b"[]"}, "holds no image"),
        ({"manifest.json": b"[1]"}, "'manifest.json' is damaged"),
        ({"manifest.json": _saved()}, "'c.json' is missing"),
        ({"manifest.json": _saved(Config="../../etc/passwd")}, "leads out of the archive"),
        ({"manifest.json": _saved(Config="/etc/passwd")}, "absolute"),
        ({"manifest.json": _saved(Config="a\0b")}, "control characters"),
        ({"manifest.json": _saved(Config="a\ud800b")}, "'manifest.json' is damaged"),
        ({"manifest.json": _saved(), "c.json": b"{"}, "no image configuration"),
        ({"manifest.json": _saved(), "c.json": b'{"rootfs": {"diff_ids": ["md5:0"]}}'}, "no image configuration"),
        ({"manifest.json": _saved(Layers=["x"]), "c.json": _config()}, "must be as many"),
        ({"manifest.json": _saved(RepoTags=["UPPER:1"]), "c.json": _config()}, "UPPER:1"),
        ({"manifest.json": _saved(Config="0" * 64 + ".json"), "0" * 64 + ".json": _config()}, "have the digest"),
    ],
)
def test_what_docker_saved_with_damaged_documents_is_refused(
    store: LayoutStore, tmp_path: Path, spoil: dict[str, bytes], said: str
) -> None:
    refused(store, content.write_tar(tmp_path / "a.tar", {**SAVED, **spoil}), said)


def test_a_saved_layer_that_is_wrong_or_missing_is_refused_by_name(store: LayoutStore, tmp_path: Path) -> None:
    (name, *_) = [name for name in SAVED if name.endswith("layer.tar")]
    refused(store, content.write_tar(tmp_path / "a.tar", {**SAVED, name: bytes(10240)}), repr(name), "is damaged")
    files = {key: value for key, value in SAVED.items() if key != name}
    refused(store, content.write_tar(tmp_path / "a.tar", files), repr(name), "missing")
    cut = gzip.compress(SAVED[name])[:-20]
    refused(store, content.write_tar(tmp_path / "a.tar", {**SAVED, name: cut}), repr(name), "is damaged")


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (b"", "it is empty"),
        (b"hello", "no tar archive"),
        (b"hello" * 1000, "no tar archive"),
        (bytes(10240), "neither oci-layout nor manifest.json"),
        (b"\x28\xb5\x2f\xfd rest", "compressed with zstd"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"BZh9", "compressed with bzip2"),
        (b"\x1f\x8b", "cut short or damaged"),
        (gzip.compress(b""), "it is empty"),
        (gzip.compress(b"hello" * 1000), "no tar archive"),
        (content.tar_of([("file", b"x")]), "neither oci-layout nor manifest.json"),
    ],
)
def test_what_is_no_image_archive_is_refused_with_what_it_is(
    store: LayoutStore, tmp_path: Path, whole: bytes, said: str
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(whole)
    refused(store, path, said)


def test_a_file_that_cannot_be_opened_is_refused(store: LayoutStore, tmp_path: Path) -> None:
    refused(store, tmp_path / "nowhere.tar", "cannot be opened: No such file")


# Directories.


def test_a_directory_with_links_in_place_of_blobs_is_refused(store: LayoutStore, tmp_path: Path) -> None:
    source = content.write_files(tmp_path / "source", FILES)
    secret = tmp_path / "secret"
    secret.write_bytes(FILES[LAYER])
    (source / LAYER).unlink()
    (source / LAYER).symlink_to(secret)
    refused(store, source, repr(LAYER), "missing")


def test_a_directory_with_a_fifo_in_place_of_a_blob_is_refused_without_waiting(
    store: LayoutStore, tmp_path: Path
) -> None:
    source = content.write_files(tmp_path / "source", FILES)
    (source / LAYER).unlink()
    os.mkfifo(source / LAYER)
    before = sorted(path.name for path in source.rglob("*"))
    with pytest.raises(ImportFailed, match="missing"):
        import_archive(store, source)
    assert sorted(path.name for path in source.rglob("*")) == before
    assert store.resolve(Reference.parse(NAME)) is None


def test_manifests_nested_without_end_are_refused(store: LayoutStore, tmp_path: Path) -> None:
    whole = MADE
    for _ in range(6):
        whole = content.index([whole])
    refused(
        store, content.write_tar(tmp_path / "a.tar", content.layout_files({NAME: whole})), "no image manifest or index"
    )
