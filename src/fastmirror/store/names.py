"""How image names are written in index.json, containerd and archives, and what they mean here."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from fastmirror.errors import NameInvalid
from fastmirror.oci.reference import Reference


class ImageName(NamedTuple):
    """A name of an image. ``label`` is its one spelling, ``name`` the ``registry/repository`` that filters judge.

    ``reference`` is None where the image is named by digest only (``registry/repository@sha256:...``).
    """

    label: str
    name: str
    reference: Reference | None


@lru_cache(maxsize=65536)  # an index.json is read anew for each change: nearly all of its names were there before
def image_name(text: str) -> ImageName | None:
    """Read ``[registry/]repository[:tag][@digest]`` by Docker's rules; None for what is no name of an image.

    A text without a registry, a tag and a digest (``latest``, ``3.20``, a bare ``sha256:...``) says nothing about
    which image it is and gives None: it is what ``org.opencontainers.image.ref.name`` holds when the repository is
    known from elsewhere.
    """
    head, at, digest = text.partition("@")
    first, slash, _ = head.partition("/")
    has_registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
    has_tag = ":" in head.rpartition("/")[2]
    if not (has_registry or has_tag or at) or (not slash and first in ("sha256", "sha512")):
        return None
    try:
        reference = Reference.parse(head)
    except NameInvalid:
        return None
    if not slash and first.partition(":")[0] in ("sha256", "sha512"):
        return None
    if at and not has_tag:
        return ImageName(f"{reference.name}@{digest}", reference.name, None)
    return ImageName(str(reference), reference.name, reference)


def layout_name(annotations: dict[str, str]) -> ImageName | None:
    """The name of an image in an index.json, from its annotations.

    ``io.containerd.image.name`` is always a full name and wins. ``org.opencontainers.image.ref.name`` counts where
    it is a full name, which is what skopeo, podman and fastmirror write; a bare tag there names nothing.
    """
    for key in ("io.containerd.image.name", "org.opencontainers.image.ref.name"):
        name = image_name(annotations.get(key, ""))
        if name is not None:
            return name
    return None
