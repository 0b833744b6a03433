"""What a reader wants from other nodes, and how it is asked for."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference

LOOKUP_NAME = "fastmirror/lookup"
"""The repository of look-ups: content is judged by its own names, so a look-up by digest needs none."""


class Want(NamedTuple):
    """Content by digest, under the name it was asked for with. ``kind`` is "blobs" or "manifests"."""

    digest: Digest
    kind: str
    repository: str
    registry: str

    @property
    def target(self) -> str:
        """The request target at a peer."""
        return _target(self.repository, self.kind, self.digest, self.registry)


def lookup_target(key: Digest | Reference) -> str:
    """The request target of a HEAD that asks whether a peer has this."""
    if isinstance(key, Digest):
        return _target(LOOKUP_NAME, "blobs", key, "")
    return _target(key.repository, "manifests", key.tag, key.registry)


def _target(repository: str, kind: str, reference: str, registry: str) -> str:
    namespace = f"?ns={quote(registry, safe='')}" if registry else ""
    return f"/v2/{repository}/{kind}/{reference}{namespace}"
