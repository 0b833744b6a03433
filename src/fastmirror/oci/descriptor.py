"""Descriptors and the media types of what is pulled. Source: OCI image-spec, descriptor.md and media-types.md."""

from __future__ import annotations

from typing import Final, NamedTuple

from fastmirror.oci.digest import Digest

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
OCTET_STREAM: Final = "application/octet-stream"

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST}) | INDEX_TYPES


class Descriptor(NamedTuple):
    """What some content is: media type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
