"""One pull request, read from a method and a request target. Source: OCI distribution-spec, end-1 to end-3.

Strict on purpose: nothing is normalised, ``%XX`` is decoded once, and what containerd never sends is refused.
``ns`` is containerd's name for the registry that it meant to ask (core/remotes/docker/resolver.go).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fastmirror.errors import (
    BlobUnknown,
    ManifestUnknown,
    NameInvalid,
    NotOffered,
    RegistryError,
)
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import _MAX_NAME, REPOSITORY, TAG, Reference, is_host, normalize_registry

_ROUTE: Final = re.compile(rf"/v2/({REPOSITORY})/(manifests|blobs)/(.*)", re.ASCII)
_KIND: Final = re.compile(r"/v2/.*/(manifests|blobs)/.*", re.ASCII)
_TAG: Final = re.compile(TAG, re.ASCII)
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})", re.ASCII)
_PLAIN: Final = re.compile(r"[!-~]+", re.ASCII)
_UNRESERVED: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:")


class Pull(NamedTuple):
    """What is asked for. Exactly one of ``digest`` and ``reference`` is set; neither for the API check ``/v2/``.

    ``registry`` is the ``ns`` of the request or the default one; empty when there is neither (by digest only).
    """

    kind: str  # "api", "manifests" or "blobs"
    repository: str = ""
    registry: str = ""
    digest: Digest | None = None
    reference: Reference | None = None

    def unknown(self, message: str) -> RegistryError:
        """The 404 that fits the kind of content."""
        return BlobUnknown(message) if self.kind == "blobs" else ManifestUnknown(message)


def _decode(text: str, extra: str, what: str) -> str:
    """Decode ``%XX`` once; only unreserved characters, ':' and ``extra`` may be written so."""

    def plain(match: re.Match[str]) -> str:
        char = chr(int(match[1], 16))
        if char not in _UNRESERVED and char not in extra:
            raise NameInvalid(f"{what} has an encoded character that cannot be part of it", text[:160])
        return char

    decoded = _ESCAPE.sub(plain, text)
    if decoded.count("%"):
        raise NameInvalid(f"{what} has a malformed percent escape", text[:160])
    return decoded


def _registry(query: str, default: str) -> str:
    values = {part[3:] for part in query.split("&") if part.startswith("ns=")} if query else ()
    if not values:
        return default
    if len(values) > 1:
        raise NameInvalid("more than one ns", query[:160])
    value = values.pop()
    return normalize_registry(_decode(value, "[]", "ns")) if value else default


def _path(target: str) -> str:
    """The path and query of an origin-form or absolute-form target (RFC 9112 section 3.2)."""
    if _PLAIN.fullmatch(target) is None or "#" in target or "\\" in target:
        raise NameInvalid("request target has a character that cannot be part of it", target[:160])
    if target[0] == "/":
        return target
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise NameInvalid("request target is neither a path nor an absolute http URL", target[:160])
    authority = rest.partition("?")[0].partition("/")[0]
    if not is_host(authority):
        raise NameInvalid("request target names no host with an optional port up to 65535", target[:160])
    path = rest[len(authority) :]
    return path if path.startswith("/") else f"/{path}"


def parse_pull(target: str, default_registry: str = "") -> Pull:
    """Read a request target.

    Raises  NameInvalid or DigestInvalid (400) for what breaks the grammar, NotOffered (404) for other paths,
            ManifestUnknown (404) for a tag without a registry to look it up in.
    """
    path, _, query = _path(target).partition("?")
    if path in ("/v2/", "/v2"):
        return Pull("api")
    if "%" in path:
        path = _decode(path, "", "path")
    match = _ROUTE.fullmatch(path)
    if match is None:
        if _KIND.fullmatch(path):
            raise NameInvalid("repository name breaks the grammar of the distribution-spec", path[:160])
        raise NotOffered("not part of what a pull mirror offers", path[:160])
    repository, kind, ref = match.groups()
    registry = _registry(query, default_registry)
    if len(registry) + 1 + len(repository) > _MAX_NAME:
        raise NameInvalid("registry and repository are longer than 255 characters together", repository[:160])
    if ":" in ref or kind == "blobs":
        return Pull(kind, repository, registry, Digest.parse(ref))
    if _TAG.fullmatch(ref) is None:
        raise NameInvalid("tag breaks the grammar of the distribution-spec", ref[:160])
    if not registry:
        raise ManifestUnknown("a tag needs a registry: send ns=HOST or set --default-registry", ref)
    return Pull(kind, repository, registry, None, Reference(registry, repository, ref))
