"""Names of images: ``registry/repository:tag``. Source: OCI distribution-spec, "Pulling manifests"."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from fastmirror.errors import NameInvalid

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY: Final = rf"{_COMPONENT}(?:/{_COMPONENT})*"
TAG: Final = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"

_REPOSITORY: Final = re.compile(REPOSITORY, re.ASCII)
_TAG: Final = re.compile(TAG, re.ASCII)
_HOST: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[0-9a-fA-F:.]+\]"
_REGISTRY: Final = re.compile(rf"(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII)
_DOCKER_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_MAX_NAME: Final = 255  # registry, slash and repository together, as containerd and distribution have it


def is_host(text: str) -> bool:
    """Whether this is a host name or an address (IPv6 in brackets), with an optional port from 1 to 65535."""
    match = _REGISTRY.fullmatch(text)
    if match is None or ".." in text or not 1 <= int(match["port"] or 1) <= 65535:
        return False
    return match["host"][0] != "[" or _is_ipv6(match["host"][1:-1])


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def normalize_registry(host: str) -> str:
    """One spelling per registry: lower case, and Docker Hub's several hosts as ``docker.io``. Raises NameInvalid."""
    if not is_host(host):
        raise NameInvalid("registry is not a host with an optional port from 1 to 65535", host[:160])
    host = host.lower()
    return "docker.io" if host in _DOCKER_HUB else host


class Reference(NamedTuple):
    """A tagged image. ``str()`` gives ``registry/repository:tag``."""

    registry: str
    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}:{self.tag}"

    @property
    def name(self) -> str:
        """``registry/repository``, the name that filters judge."""
        return f"{self.registry}/{self.repository}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``[registry/]repository[:tag]`` the way Docker and containerd do.

        The first component is a registry if it has a dot or a colon or is ``localhost``; else Docker Hub is meant
        (and ``library/`` goes before a single component). No tag means ``latest``. Raises NameInvalid.
        """
        head, slash, rest = text.partition("/")
        if slash and ("." in head or ":" in head or head == "localhost"):
            registry = head
        else:
            registry, rest = "docker.io", text
        repository, colon, tag = rest.partition(":")
        if normalize_registry(registry) == "docker.io" and "/" not in repository:
            repository = "library/" + repository
        reference = cls(normalize_registry(registry), repository, tag if colon else "latest")
        if _REPOSITORY.fullmatch(repository) is None or len(reference.name) > _MAX_NAME:
            raise NameInvalid("repository breaks the grammar of the distribution-spec", text[:300])
        if _TAG.fullmatch(reference.tag) is None:
            raise NameInvalid("tag breaks the grammar of the distribution-spec", text[:300])
        return reference
