"""Manifests and indexes: what kind one is, and what it names. Source: OCI image-spec, manifest.md, image-index.md."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from fastmirror.errors import DigestInvalid
from fastmirror.oci.descriptor import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    OCTET_STREAM,
    Descriptor,
)
from fastmirror.oci.digest import Digest

MAX_BYTES: Final = 4 * 1048 * 1048  # containerd's MaxManifestSize; larger ones it would refuse itself
MAX_DESCRIPTORS: Final = 1000
_MAX_SIZE: Final = 1 << 53  # sizes are JSON numbers: above this they are not exact


class _Entry(msgspec.Struct):
    digest: str
    size: int
    mediaType: str = OCTET_STREAM  # noqa: N815 - the specification's name


class _Document(msgspec.Struct):
    schemaVersion: int = 0  # noqa: N815
    mediaType: str = ""  # noqa: N815
    config: _Entry | None = None
    layers: list[_Entry] | None = None
    manifests: list[_Entry] | None = None
    blobs: list[_Entry] | None = None
    subject: _Entry | None = None


class Manifest(NamedTuple):
    """A manifest or index as a mirror needs it: its media type and the content it names, in its order."""

    media_type: str
    children: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]


_decoder = msgspec.json.Decoder(_Document)


def _descriptor(entry: _Entry) -> Descriptor | None:
    try:
        digest = Digest.parse(entry.digest)
    except DigestInvalid:
        return None  # an algorithm we do not serve; the client's own problem
    if not 0 <= entry.size < _MAX_SIZE:
        return None
    return Descriptor(entry.mediaType, digest, entry.size)


def _media_type(document: _Document) -> str | None:
    if document.mediaType:
        return document.mediaType if document.mediaType in MANIFEST_TYPES else None
    if document.schemaVersion != 2:
        return None
    # Without a mediaType the shape tells: image-spec makes the field optional, Docker's schema 2 does not.
    if document.manifests is not None:
        return DOCKER_LIST if _docker(document.manifests) else OCI_INDEX
    if document.config is not None and document.layers is not None:
        return DOCKER_MANIFEST if document.config.mediaType.startswith("application/vnd.docker.") else OCI_MANIFEST
    return None


def _docker(entries: list[_Entry]) -> bool:
    return any(entry.mediaType == DOCKER_MANIFEST for entry in entries)


def parse_manifest(content: bytes) -> Manifest | None:
    """Read a manifest or index from its own bytes; None for anything else (also what is too large or too many).

    The media type comes from these bytes and from nothing else: with a wrong one containerd 2.3 pulls nothing
    and reports success.
    """
    if len(content) > MAX_BYTES:
        return None
    try:
        document = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    media_type = _media_type(document)
    if media_type is None:
        return None
    lower = [*(document.layers or ()), *(document.blobs or ())]
    if document.config is not None:
        lower.insert(0, document.config)
    upper = document.manifests or []
    if len(lower) + len(upper) > MAX_DESCRIPTORS:
        return None
    manifests = tuple(d for d in map(_descriptor, upper) if d is not None)
    children = tuple(d for d in map(_descriptor, lower) if d is not None)
    return Manifest(media_type, manifests + children, manifests)
