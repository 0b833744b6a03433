"""Names of content in containerd's labels. Pure.

Source: containerd core/remotes/docker/handler.go: ``containerd.io/distribution.source.HOST = REPOSITORY[,REPOSITORY]``,
where HOST is the registry without its port.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastmirror.errors import NameInvalid
from fastmirror.oci.reference import normalize_registry

_PREFIX: Final = "containerd.io/distribution.source."


def label_sources(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The ``registry/repository`` names that some content's labels give, sorted; registries have no port in them."""
    found: set[str] = set()
    for key, value in labels.items():
        if not key.startswith(_PREFIX):
            continue
        try:
            registry = normalize_registry(key[len(_PREFIX) :])
        except NameInvalid:
            continue
        found.update(f"{registry}/{repository}" for repository in value.split(",") if repository)
    return tuple(sorted(found))
