"""What an archive holds: its images, the content they need, and what has to be made for them.

Source: OCI image-spec, image-layout.md and manifest.md; Docker image specification v1.2, "Combined Image JSON +
Filesystem Changeset Format".
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from fastmirror.errors import DigestInvalid, ImportFailed, NameInvalid
from fastmirror.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, OCI_MANIFEST, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import MAX_BYTES, MAX_DESCRIPTORS, Manifest, parse_manifest
from fastmirror.oci.reference import Reference
from fastmirror.store import BlobStore
from fastmirror.store.archive import GZIP_MAGIC, PIECE_BYTES, Archive, read_all
from fastmirror.store.index import MAX_INDEX_BYTES, Root, check_marker, read_roots
from fastmirror.store.names import layout_name

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger(__name__)

_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_NAME_IT: Final = "say what it is with --name REGISTRY/REPOSITORY:TAG"
_NAME_EACH: Final = "export each of them by its name, or into a file of its own that is imported with --name"


class Content(NamedTuple):
    """One blob to import: from an entry of the archive, or ``made`` from what the archive says."""

    digest: Digest
    size: int
    entry: str
    made: bytes | None = None


class Plan:
    """Content in the order in which it is to be written (blobs before the manifests that name them), and the names."""

    def __init__(self) -> None:
        self._contents: dict[Digest, Content] = {}
        self.tags: dict[Reference, Descriptor] = {}

    @property
    def contents(self) -> list[Content]:
        """Each blob once."""
        return list(self._contents.values())

    def add(self, content: Content) -> None:
        """One more blob, unless it is in the plan already."""
        self._contents.setdefault(content.digest, content)


def _entry_of(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


# OCI image layouts.


def plan_layout(archive: Archive, store: BlobStore, name: Reference | None) -> Plan:
    """Read an image layout. Content that an image needs may be missing where ``store`` has it already.

    Raises ImportFailed, or StoreError for damaged files at the root of the layout.
    """
    check_marker(read_all(archive, "oci-layout", 4096), "oci-layout")
    roots = read_roots(read_all(archive, "index.json", MAX_INDEX_BYTES), "index.json")
    plan = Plan()
    walk = _Walk(archive, store, plan)
    for reference, root in _named(roots, name).items():
        manifest = walk.visit(root.target)
        if manifest is None:
            raise ImportFailed(f"entry {_entry_of(root.target.digest)!r} of image {reference} is missing")
        plan.tags[reference] = Descriptor(manifest.media_type, root.target.digest, root.target.size)
    return plan


def _named(roots: list[Root], name: Reference | None) -> dict[Reference, Root]:
    distinct = {root.target.digest: root for root in roots}
    if not distinct:
        raise ImportFailed("it holds no image: its index.json is empty")
    if name is not None:
        if len(distinct) > 1:
            raise ImportFailed(
                f"it holds {len(distinct)} images, so one --name does not fit; leave it out, or export one alone"
            )
        return {name: roots[0]}
    named, nameless = {}, []
    for root in roots:
        found = layout_name(root.annotations)
        if found is not None and found.reference is not None:
            named[found.reference] = root
        else:
            nameless.append(root.target.digest)
    if not named:
        if len(distinct) > 1:
            raise ImportFailed(f"its index.json gives none of its {len(distinct)} images a full name; {_NAME_EACH}")
        raise ImportFailed(f"its index.json gives the image no full name; {_NAME_IT}")
    for digest in nameless:
        log.warning(
            "%s has no full name in index.json and is not imported",
            digest,
            extra={"event": "import.image_unnamed", "digest": str(digest)},
        )
    return named


class _Walk:
    """From manifests to all that they need, children first."""

    def __init__(self, archive: Archive, store: BlobStore, plan: Plan) -> None:
        self._archive = archive
        self._store = store
        self._plan = plan
        self._seen: dict[Digest, Manifest | None] = {}

    def visit(self, target: Descriptor, depth: int = 0) -> Manifest | None:
        """Plan a manifest and what it needs; None if it is neither in the archive nor in the store."""
        if target.digest in self._seen:
            return self._seen[target.digest]
        entry = _entry_of(target.digest)
        if self._archive.size(entry) is None:
            content = self._from_store(target)
        else:
            self._check_size(target)
            content = read_all(self._archive, entry, MAX_BYTES)
        if content is None:
            self._seen[target.digest] = None
            return None
        if Digest.of(content, target.digest.algorithm) != target.digest:
            raise ImportFailed(f"entry {entry!r} is damaged: its bytes have another digest")
        manifest = parse_manifest(content)
        if manifest is None or depth > 4:
            raise ImportFailed(f"entry {entry!r} is no image manifest or index that can be served")
        self._seen[target.digest] = manifest
        if manifest.media_type in INDEX_TYPES:
            self._visit_platforms(manifest, entry, depth)
        else:
            for child in manifest.children:
                self._need(child, entry)
        if self._archive.size(entry) is not None:
            self._plan.add(Content(target.digest, len(content), entry))
        return manifest

    def _from_store(self, target: Descriptor) -> bytes | None:
        blob = self._store.open(target.digest)
        if blob is None:
            return None
        with blob:
            return blob.read_span(0, blob.size) if blob.size <= MAX_BYTES else None

    def _visit_platforms(self, index: Manifest, entry: str, depth: int) -> None:
        """An index may name platforms that were not exported; one must be there."""
        found = 0
        for child in index.children:
            if child.media_type in MANIFEST_TYPES:
                found += self.visit(child, depth + 1) is not None
            elif self._archive.size(_entry_of(child.digest)) is not None:
                self._need(child, entry)
                found += 1
        if not found and index.children:
            raise ImportFailed(f"entry {entry!r} names {len(index.children)} manifests and none of them is there")

    def _need(self, child: Descriptor, parent: str) -> None:
        entry = _entry_of(child.digest)
        if self._archive.size(entry) is not None:
            self._check_size(child)
            self._plan.add(Content(child.digest, child.size, entry))
        elif self._store.size(child.digest) is None and not _is_foreign(child.media_type):
            raise ImportFailed(f"entry {entry!r}, which {parent!r} needs, is missing; export the image again")

    def _check_size(self, target: Descriptor) -> None:
        entry = _entry_of(target.digest)
        size = self._archive.size(entry)
        if size != target.size:
            raise ImportFailed(f"entry {entry!r} is damaged: it has {size} bytes instead of {target.size}")


def _is_foreign(media_type: str) -> bool:
    """Layers that may not be distributed are not in archives; clients fetch them from the URLs in the manifest."""
    return ".nondistributable." in media_type or ".foreign." in media_type


# docker save.


class _Saved(msgspec.Struct):
    Config: str
    Layers: list[str] | None = None
    RepoTags: list[str] | None = None


class _RootFs(msgspec.Struct):
    diff_ids: list[str] | None = None


class _Config(msgspec.Struct):
    rootfs: _RootFs | None = None


_saved_decoder = msgspec.json.Decoder(list[_Saved])
_config_decoder = msgspec.json.Decoder(_Config)


def plan_docker(archive: Archive, name: Reference | None) -> Plan:
    """Read what ``docker save`` wrote: each image gets an OCI manifest over its own config and layers.

    The same image always gets the same manifest. Raises ImportFailed.
    """
    try:
        saved = _saved_decoder.decode(read_all(archive, "manifest.json", MAX_INDEX_BYTES))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ImportFailed(f"entry 'manifest.json' is damaged: {error}") from error
    if not saved:
        raise ImportFailed("it holds no image: its manifest.json is empty")
    if name is not None and len(saved) > 1:
        raise ImportFailed(
            f"it holds {len(saved)} images, so one --name does not fit; leave it out, or export one alone"
        )
    plan = Plan()
    for image in saved:
        references = [name] if name is not None else _references(image)
        if not references:
            raise ImportFailed(
                f"it gives image {image.Config[:80]!r} no name; {_NAME_IT if len(saved) == 1 else _NAME_EACH}"
            )
        target = _plan_saved(archive, image, plan)
        for reference in references:
            plan.tags[reference] = target
    return plan


def _references(image: _Saved) -> list[Reference]:
    try:
        return [Reference.parse(tag) for tag in image.RepoTags or ()]
    except NameInvalid as error:
        raise ImportFailed(f"entry 'manifest.json' is damaged: {error}: {error.detail!r}") from error


def _plan_saved(archive: Archive, image: _Saved, plan: Plan) -> Descriptor:
    content = read_all(archive, image.Config, MAX_BYTES)
    config = Descriptor(_CONFIG, Digest.of(content), len(content))
    stem = image.Config.rpartition("/")[2].removesuffix(".json")
    if len(stem) == 64 and stem != config.digest.hex:
        raise ImportFailed(f"entry {image.Config!r} is damaged: its bytes have the digest {config.digest}")
    try:
        rootfs = _config_decoder.decode(content).rootfs
        diffs = [Digest.parse(diff) for diff in (rootfs and rootfs.diff_ids) or ()]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, DigestInvalid) as error:
        raise ImportFailed(f"entry {image.Config!r} is no image configuration: {error}") from error
    entries = image.Layers or []
    if len(entries) != len(diffs) or len(entries) > MAX_DESCRIPTORS - 1:
        raise ImportFailed(
            f"entry {image.Config!r} names {len(diffs)} layers, and manifest.json {len(entries)}; "
            f"they must be as many, and at most {MAX_DESCRIPTORS - 1}"
        )
    layers = []
    for entry, diff in zip(entries, diffs, strict=True):
        layer = _layer(archive, entry, diff)
        plan.add(Content(layer.digest, layer.size, entry))
        layers.append(layer)
    plan.add(Content(config.digest, config.size, image.Config, content))
    manifest = _manifest(config, layers)
    digest = Digest.of(manifest)
    plan.add(Content(digest, len(manifest), "manifest.json", manifest))
    return Descriptor(OCI_MANIFEST, digest, len(manifest))


def _layer(archive: Archive, entry: str, diff: Digest) -> Descriptor:
    """What a layer is as a blob: mostly a plain tar; where a tool has compressed it, its digest is worked out."""
    size = archive.size(entry)
    if size is None:
        raise ImportFailed(f"entry {entry[:200]!r}, which manifest.json needs, is missing")
    if not _is_gzip(archive, entry):
        return Descriptor(_LAYER, diff, size)
    packed = hashlib.sha256()
    plain = diff.hasher()
    try:
        for piece in _inflated(archive, entry, packed):
            plain.update(piece)
    except zlib.error as error:
        raise ImportFailed(f"entry {entry!r} is damaged: {error}") from error
    if plain.hexdigest() != diff.hex:
        raise ImportFailed(f"entry {entry!r} is damaged: its content is not that of {diff}")
    return Descriptor(f"{_LAYER}+gzip", Digest(f"sha256:{packed.hexdigest()}"), size)


def _is_gzip(archive: Archive, entry: str) -> bool:
    with closing(archive.pieces(entry)) as pieces:
        return any(bytes(piece[:2]) == GZIP_MAGIC for piece in islice(pieces, 1))


def _inflated(archive: Archive, entry: str, packed: _Hash) -> Iterator[bytes]:
    """The plain content of a gzip file of any number of members (RFC 1952, 2.2); what is read goes to ``packed``."""
    inflate = zlib.decompressobj(wbits=31)
    for piece in archive.pieces(entry):
        packed.update(piece)
        rest: bytes | memoryview = piece
        while rest:
            if inflate.eof:
                inflate = zlib.decompressobj(wbits=31)
            yield inflate.decompress(rest, PIECE_BYTES)
            rest = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
    if not inflate.eof:
        raise zlib.error("it ends in the middle")


def _manifest(config: Descriptor, layers: list[Descriptor]) -> bytes:
    def written(target: Descriptor) -> dict[str, object]:
        return {"mediaType": target.media_type, "digest": str(target.digest), "size": target.size}

    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": written(config),
            "layers": [written(layer) for layer in layers],
        }
    )
