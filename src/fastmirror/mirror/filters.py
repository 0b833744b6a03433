"""Which content may be served, judged by the content's own names. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from fastmirror.errors import ConfigError, NameInvalid
from fastmirror.oci.reference import normalize_registry

_PORT: Final = re.compile(r":[0-9]+(?=/|$)")
"""The port of a name's registry: a repository has no colon, and an IPv6 address ends in a bracket."""


class Filters:
    """Allow and deny lists over ``registry/repository`` names.

    A pattern is ``REGISTRY``, ``REGISTRY/REPOSITORY`` or one ending in ``/*`` for everything below it. Content is
    served if at least one of its own names is allowed and not denied; content without a name is served only if there
    is no filter: what a request calls it proves nothing. Ports are not compared: containerd's labels have none, and
    during a pull they are all that names content.
    """

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        self._allow = [_pattern(text, "allow") for text in allow]
        self._deny = [_pattern(text, "deny") for text in deny]

    def __bool__(self) -> bool:
        return bool(self._allow or self._deny)

    def allows_name(self, name: str) -> bool:
        """Whether content of this ``registry/repository`` may be served."""
        name = _PORT.sub("", name, count=1)
        if any(pattern.fullmatch(name) for pattern in self._deny):
            return False
        return not self._allow or any(pattern.fullmatch(name) for pattern in self._allow)

    def allows(self, names: Iterable[str]) -> bool:
        """Whether content with these own names may be served."""
        return not self or any(self.allows_name(name) for name in names)


def _pattern(text: str, setting: str) -> re.Pattern[str]:
    registry, slash, repository = text.partition("/")
    below = repository.endswith("*") and (repository == "*" or repository.endswith("/*"))
    try:
        registry = normalize_registry(registry)
    except NameInvalid:
        raise ConfigError(
            f"{setting}: {text!r} does not begin with a registry (docker.io, registry.example/team/*)"
        ) from None
    registry = _PORT.sub("", registry)
    stem = repository[:-1] if below else repository
    if "*" in stem or (slash and not repository):
        raise ConfigError(f"{setting}: {text!r}: '*' can only be the last component, as in registry.example/team/*")
    if not slash or repository == "*":
        return re.compile(re.escape(registry) + "/.+")
    return re.compile(re.escape(f"{registry}/{stem}") + (".+" if below else ""))
