"""What is to be pulled: the name of an image, and the platform that is chosen from an index. Pure.

Source: OCI image-spec, image-index.md; containerd, platforms (names of this machine's architecture).
"""

from __future__ import annotations

import platform
from typing import Final, NamedTuple

import msgspec

from fastmirror.errors import ConfigError, DigestInvalid, NameInvalid, PullFailed
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference

_ARCHITECTURES: Final = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "armv6l": "arm/v6", "i686": "386",
}  # fmt: skip


class ImageName(NamedTuple):
    """A name with all its parts; ``digest`` goes before ``tag`` where there are both."""

    registry: str
    repository: str
    tag: str
    digest: Digest | None = None

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def reference(self) -> str:
        """What a registry is asked for: a digest or a tag."""
        return self.digest or self.tag

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Read ``[registry/]repository[:tag][@digest]``, short names as Docker means them. Raises ConfigError."""
        name, at, digest = text.partition("@")
        try:
            return cls(*Reference.parse(name), Digest.parse(digest) if at else None)
        except (NameInvalid, DigestInvalid) as error:
            wanted = "registry.example/team/app:1 or registry.example/team/app@sha256:..."
            raise ConfigError(f"image: {error.message}; expected such as {wanted}, not {text[:300]!r}") from None


class Platform(NamedTuple):
    """An operating system and an architecture, perhaps with its variant."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, self))

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read ``os/arch[/variant]``. Raises ConfigError."""
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise ConfigError(f"platform: expected OS/ARCH[/VARIANT], such as linux/arm64, not {text[:100]!r}")
        return cls(*parts)

    @classmethod
    def here(cls) -> Platform:
        """This machine's."""
        machine = platform.machine()
        return cls.parse(f"{platform.system().lower()}/{_ARCHITECTURES.get(machine, machine)}")


class _Entry(msgspec.Struct):
    mediaType: str  # noqa: N815 - the specification's name
    digest: str
    size: int
    platform: _Platform | None = None


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _Index(msgspec.Struct):
    manifests: list[_Entry]


def choose(index: bytes, wanted: Platform) -> Descriptor:
    """The manifest for a platform: the one with its variant if there is one, else the first. Raises PullFailed."""
    try:
        entries = msgspec.json.decode(index, type=_Index).manifests
    except msgspec.DecodeError as error:
        raise PullFailed(f"the index cannot be read: {error}") from None
    fitting = [entry for entry in entries if _fits(entry, wanted)]
    if not fitting:
        there = sorted({str(Platform(p.os, p.architecture, p.variant)) for e in entries if (p := e.platform)})
        raise PullFailed(f"the image has nothing for {wanted}; it has {', '.join(there) or 'no platforms'}")
    fitting.sort(key=lambda entry: entry.platform is None or entry.platform.variant != wanted.variant)
    try:
        return Descriptor(fitting[0].mediaType, Digest.parse(fitting[0].digest), fitting[0].size)
    except DigestInvalid as error:
        raise PullFailed(f"the index names a digest that is none: {error.message}") from None


def platform_of(config: bytes | bytearray) -> Platform | None:
    """The platform that an image's config names; None if it names none."""
    try:
        there = msgspec.json.decode(config, type=_Platform)
    except msgspec.DecodeError:
        return None
    return Platform(there.os, there.architecture, there.variant) if there.os and there.architecture else None


def _fits(entry: _Entry, wanted: Platform) -> bool:
    there = entry.platform
    if there is None or (there.os, there.architecture) != (wanted.os, wanted.architecture):
        return False
    return not wanted.variant or there.variant in ("", wanted.variant)
