"""The text of hosts.toml files: ours, and ours in front of what others wrote. Pure.

Source: containerd docs/hosts.md and core/remotes/docker/config/hosts.go (1.5 to 2.x). Hosts are tried in the order of
their tables, ``server`` last; the first directory of :func:`directories` that exists is the only one that counts.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from fastmirror.errors import ConfigError, NameInvalid
from fastmirror.oci.reference import normalize_registry

DEFAULT: Final = "_default"
FILE: Final = "hosts.toml"
HEADER: Final = "# These lines are fastmirror's: `fastmirror cleanup` takes them out again.\n"
DIAL_TIMEOUT: Final = "200ms"  # containerd >= 2.1; older ones skip the key, and only a dead address needs it
_DOCKER_HUB: Final = "https://registry-1.docker.io"
_MIRROR: Final = re.compile(
    r"http://(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(?::(?P<port>[0-9]{1,5}))?/?", re.ASCII
)
_BARE: Final = re.compile(r"http://((?:[0-9a-fA-F]*:){2,7}[0-9a-fA-F.]*):([0-9]{1,5})(?=/?\Z)", re.ASCII)
_LOCAL: Final = ("localhost", "127.", "[::1]")


class Target(NamedTuple):
    """What is configured: a registry, or ``_default`` for all that have no directory of their own."""

    registry: str
    server: str  # empty for _default: containerd goes to https://REGISTRY by itself

    @property
    def directories(self) -> tuple[str, ...]:
        """Where containerd looks for its file, first first; the last one is where ours is made."""
        host, colon, port = self.registry.rpartition(":")
        if colon and port.isdigit():
            return (f"{host}_{port}_", self.registry)
        return (self.registry,)


class CannotPrepend(ValueError):
    """A file that nothing can be put in front of; the text says why."""


def target(text: str) -> Target:
    """Read what ``--registry`` names: a host, or a URL if it is not served by https. Raises ConfigError."""
    if text == DEFAULT:
        return Target(DEFAULT, "")
    scheme, slashes, rest = text.partition("://")
    host = rest if slashes else text
    try:
        registry = normalize_registry(host)
    except NameInvalid:
        registry = ""
    if not registry or (slashes and scheme not in ("http", "https")):
        raise ConfigError(f"registry: expected a host such as docker.io or registry.example:5000, not {text[:200]!r}")
    if registry == "docker.io":
        return Target(registry, _DOCKER_HUB)
    if not slashes:
        scheme = "http" if registry.startswith(_LOCAL) else "https"
    return Target(registry, f"{scheme}://{registry}")


def mirror_url(text: str) -> str:
    """Check ``--mirror``: http, a host, a port, nothing else. Raises ConfigError.

    An IPv6 address with a port may come without brackets, as Kubernetes' ``status.hostIP`` does; it gets them. What
    follows the last colon is the port then.
    """
    text = _BARE.sub(r"http://[\1]:\2", text)
    match = _MIRROR.fullmatch(text)
    if match is None or not 0 < int(match["port"] or 1) < 65536:
        raise ConfigError(f"mirror: expected a URL such as http://127.0.0.1:5000, not {text[:200]!r}")
    return text.removesuffix("/")


def block(mirror: str, *, resolve_tags: bool) -> str:
    """The lines that put the mirror first."""
    capabilities = '["pull", "resolve"]' if resolve_tags else '["pull"]'
    return f'[host."{mirror}"]\ncapabilities = {capabilities}\ndial_timeout = "{DIAL_TIMEOUT}"\n'


def new_file(server: str, lines: str, siblings: Iterable[str] = ()) -> str:
    """A whole file. ``siblings`` are the names in its directory.

    Certificates in Docker's style (``*.crt``, ``*.cert`` with ``*.key``) count only while there is no hosts.toml, so
    they are named in it.
    """
    names = sorted(siblings)
    head = f'server = "{server}"\n' if server else ""
    authorities = [name for name in names if name.endswith(".crt")]
    if authorities and server:
        head += f"ca = [{', '.join(map(_quote, authorities))}]\n"
    pairs = [(name, name.removesuffix(".cert") + ".key") for name in names if name.endswith(".cert")]
    clients = [f"[{_quote(cert)}, {_quote(key)}]" for cert, key in pairs if key in names]
    if clients and server:
        head += f"client = [{', '.join(clients)}]\n"
    return HEADER + head + ("\n" if head else "") + lines


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse(text: str) -> dict[str, Any]:
    """The file as TOML. Raises CannotPrepend."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CannotPrepend(f"it is not TOML ({error})") from None


def names_mirror(document: dict[str, Any], mirror: str) -> bool:
    """Whether the file has a host of this URL."""
    hosts = document.get("host")
    return isinstance(hosts, dict) and any(str(url).rstrip("/") == mirror for url in hosts)


def prepend(text: str, lines: str) -> str:
    """Put our host before all others and change nothing else. Raises CannotPrepend.

    The place is before the first table. A line that begins with a bracket may also be inside a string or an array, so
    each is tried, and taken only if both halves still say what they said.
    """
    document, ours = parse(text), tomllib.loads(lines)
    expected = {**document, "host": {**_hosts(document), **ours["host"]}}
    owned = HEADER + lines
    for position in (*_brackets(text), len(text)):
        before, after = text[:position], text[position:]
        try:
            head = tomllib.loads(before)
            start = "" if before.endswith("\n") or not before else "\n"
            whole = before + start + owned + ("\n" if after else "") + after
            if "host" not in head and tomllib.loads(whole) == expected:
                return whole
        except tomllib.TOMLDecodeError:
            continue
    raise CannotPrepend('its hosts are not written as [host."URL"] tables')


def _hosts(document: dict[str, Any]) -> dict[str, Any]:
    hosts = document.get("host", {})
    return hosts if isinstance(hosts, dict) else {}


def _brackets(text: str) -> Iterable[int]:
    position = 0
    for line in text.splitlines(keepends=True):
        if line.lstrip(" \t").startswith("["):
            yield position
        position += len(line)


def without(text: str, owned: str) -> str | None:
    """The text without our lines, or None if they are not there as they were written."""
    position = text.find(owned)
    if position < 0:
        return None
    after = text[position + len(owned) :]
    return text[:position] + after.removeprefix("\n")
