"""What single values must look like, beyond their type. Pure; each check raises ValueError with what it wanted."""

from __future__ import annotations

import ipaddress
import re
import socket
import urllib.parse
from typing import Final, NamedTuple

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", re.ASCII)
_SIZE: Final = re.compile(r"([0-9]+)([KMGT])iB?", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_REPOSITORY: Final = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*", re.ASCII)
_PEER_ID: Final = re.compile(r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}", re.ASCII)
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", re.ASCII)
STORE_FORMS: Final = "oci:DIR, containerd:SOCKET[,content=DIR] or content:DIR"
STORE_BREAK: Final = re.compile(r",(?=[a-z]+:)", re.ASCII)
"""Where a list of stores is divided: a store may itself have commas (options, directory names)."""


class Address(NamedTuple):
    """Where a listener is or shall be. ``str()`` gives back ``HOST:PORT``, IPv6 in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class StoreAddress(NamedTuple):
    """Which implementation of BlobStore, and where: a directory, or a socket and perhaps the content's directory."""

    kind: str
    path: str
    content: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f",content={self.content}" if self.content else "")


def seconds(text: str) -> float | str:
    """``500ms``, ``10s``, ``2m`` and ``1h`` as seconds; other text as it is (a plain number means seconds)."""
    match = _DURATION.fullmatch(text)
    return float(match[1]) * _SECONDS[match[2]] if match else text


def size(text: str) -> int | str:
    """``64KiB``, ``8MiB``, ``16Gi`` as bytes; other text as it is (a plain number means bytes)."""
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _BYTES[match[2]] if match and len(text) < 20 else text


def address(text: str) -> Address:
    """``HOST:PORT``: a name, an IPv4 address, or an IPv6 address in brackets. Port 0 lets the system choose."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:5000 or 0.0.0.0:5000 for all addresses")
    if _PORT.fullmatch(port) is None or int(port) > 65535:
        raise ValueError("expected HOST:PORT with a port from 0 to 65535")
    return Address(_host(host), int(port))


def peer(text: str) -> Address:
    """An address that can be connected to: :func:`address` without port 0."""
    found = address(text)
    if found.port == 0:
        raise ValueError("expected HOST:PORT of another node's peer listener; port 0 cannot be connected to")
    if found.host in ("0.0.0.0", "::"):
        raise ValueError("expected HOST:PORT of another node's peer listener; such a host means every address of one")
    return found


def _host(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host[1:-1]))
        except (OSError, ValueError):
            raise ValueError("expected an IPv6 address between the brackets") from None
    if ":" in host:
        raise ValueError("expected HOST:PORT; an IPv6 address goes in brackets, such as [::1]:5000")
    if _HOST.fullmatch(host) is None or len(host) > 253:
        raise ValueError("expected HOST:PORT, with a name or an address as HOST")
    if any(len(label) > 63 for label in host.split(".")):
        raise ValueError("expected HOST:PORT; between the dots of a name are at most 63 characters")
    return host


def store(text: str) -> StoreAddress:
    """``KIND:PLACE``, such as ``oci:./fastmirror-data`` or ``containerd:/run/containerd/containerd.sock``."""
    kind, colon, path = text.partition(":")
    if not colon and text:
        raise ValueError(f"expected {STORE_FORMS}; for an OCI image layout directory write oci:{text}")
    if kind not in ("oci", "containerd", "content"):
        raise ValueError(f"expected {STORE_FORMS}")
    content = ""
    if kind == "containerd":
        path, comma, option = path.partition(",")
        if comma and (not option.startswith("content=") or option == "content="):
            raise ValueError("expected containerd:SOCKET or containerd:SOCKET,content=DIR")
        content = option.removeprefix("content=")
    if not path or "\0" in text:
        what = "socket's path" if kind == "containerd" else "directory"
        raise ValueError(f"expected {STORE_FORMS} with a {what} after the colon")
    return StoreAddress(kind, path, content)


def namespace(text: str) -> str:
    """A namespace of containerd. Source: containerd pkg/identifiers/validate.go."""
    if len(text) > 76 or _NAMESPACE.fullmatch(text) is None:
        raise ValueError("expected a namespace of containerd such as k8s.io, moby or default")
    return text


def registry(text: str) -> str:
    """A registry's host with an optional port, or nothing."""
    host, colon, port = text.rpartition(":")
    try:
        if text and host and colon and "]" not in port:
            address(text)
        elif text:
            _host(text)
    except ValueError:
        raise ValueError("expected only a host such as docker.io or registry.example:5000") from None
    return text


def pattern(text: str) -> str:
    """A registry, a registry and a repository, or either followed by ``/*`` for all below it."""
    host, slash, repository = text.partition("/")
    if not host or "//" in text:
        raise ValueError(
            "expected a registry or repository such as docker.io or registry.example/team/*, without a scheme"
        )
    registry(host)
    stem = f"/{repository}".removesuffix("/*").removeprefix("/")
    if slash and (not repository or (stem and _REPOSITORY.fullmatch(stem) is None)):
        raise ValueError(
            "expected a repository in lower case such as registry.example/team/app, with * only as its last part"
        )
    return text


def bootstrap(text: str) -> str:
    """``HOST:PORT`` of a router, ``dns:NAME:PORT``, or the URL of a list of such places."""
    if text.startswith(("http://", "https://")):
        try:
            good = bool(urllib.parse.urlsplit(text).hostname) and urllib.parse.urlsplit(text).port != 0
        except ValueError:
            good = False
        if not good:
            raise ValueError("expected an http or https URL with a host")
        return text
    place = text.removeprefix("dns:")
    try:
        found = address(place)
    except ValueError:
        raise ValueError("expected HOST:PORT of a router, dns:NAME:PORT, or an http URL") from None
    if found.port == 0:
        raise ValueError("expected the port of other nodes' --router-addr; port 0 cannot be connected to")
    return text


def cidr(text: str) -> str:
    """A network such as 10.0.0.0/8 or fd00::/8."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("expected a network such as 10.0.0.0/8 or fd00::/8") from None
    return text


def peer_id(text: str) -> str:
    """The libp2p peer id of an Ed25519 key."""
    if _PEER_ID.fullmatch(text) is None:
        raise ValueError("expected the peer id of a node, as `fastmirror peers` shows it (12D3KooW...)")
    return text


def label(text: str) -> str:
    """A name of a node or zone: up to 63 printable ASCII characters."""
    if len(text) > 63 or not text.isascii() or not text.isprintable():
        raise ValueError("expected at most 63 printable ASCII characters")
    return text
