"""The settings: one type that flags, environment, TOML file, ``--help`` and the docs page are made from.

A section goes whole to the part that it configures. Field names are unique over all sections: they are the TOML
keys, and with dashes the flags, and in capitals after ``FASTMIRROR_`` the environment variables.
Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=86400)]
Bytes = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]


def _help(text: str) -> Meta:
    return Meta(description=text)


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The listeners."""

    registry_addr: Annotated[str, _help("HOST:PORT for this node's clients (containerd); may fetch from peers")] = (
        "127.0.0.1:5000"
    )
    peer_addr: Annotated[str, _help("HOST:PORT for other nodes; serves only what is here")] = "0.0.0.0:5001"
    admin_addr: Annotated[str, _help("HOST:PORT for /livez, /readyz and /metrics")] = "127.0.0.1:5002"
    default_registry: Annotated[str, _help("registry that requests without ns= mean, such as docker.io")] = ""
    max_connections: Annotated[Count, _help("open client connections, both listeners together")] = 2048
    max_connections_per_address: Annotated[Count, _help("open connections of one remote address; this node's own addresses are exempt")] = 256
    header_timeout: Annotated[Seconds, _help("seconds a request head may take to arrive")] = 10.0
    idle_timeout: Annotated[Seconds, _help("seconds a kept connection may be idle")] = 75.0
    drain_timeout: Annotated[Seconds, _help("seconds that running transfers get after SIGTERM")] = 25.0


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is served."""

    store: Annotated[tuple[str, ...], _help("oci:DIR; may be given several times, asked in order")] = (
        "oci:./fastmirror-data",
    )
    allow: Annotated[tuple[str, ...], _help("serve only content of these registries or repositories (docker.io, quay.io/team/*)")] = ()
    deny: Annotated[tuple[str, ...], _help("never serve content that only these registries or repositories have")] = ()


class FetchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Fetching from other nodes."""

    peers: Annotated[tuple[str, ...], _help("HOST:PORT of other nodes' peer listeners")] = ()
    lookup_timeout: Annotated[Seconds, _help("seconds to find who has some content")] = 0.2
    connect_timeout: Annotated[Seconds, _help("seconds to connect to a peer")] = 0.25
    first_byte_timeout: Annotated[Seconds, _help("seconds until a peer's answer begins")] = 0.5
    stall_timeout: Annotated[Seconds, _help("seconds without a new byte before another peer goes on")] = 0.5
    max_fetches: Annotated[Count, _help("blobs fetched at the same time; more get 404")] = 64
    whole_bytes: Annotated[Bytes, _help("blobs up to this size are verified whole before the first byte goes out")] = (
        8 * 1024 * 1024
    )
    holdback_bytes: Annotated[Bytes, _help("last bytes of larger blobs, withheld until the digest is right")] = 1024 * 1024
    spool_dir: Annotated[str, _help("directory for blobs on their way; empty: below the first store, else the system's")] = ""
    spool_bytes: Annotated[Bytes, _help("disk space for blobs on their way; when it is used up more get 404")] = (
        16 * 1024 * 1024 * 1024
    )
    grace: Annotated[Seconds, _help("seconds a fetched blob stays for further readers")] = 5.0


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Logs: JSON lines on stderr."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], _help("least level that is logged")] = "info"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything ``fastmirror serve`` can be told."""

    serve: ServeSettings = ServeSettings()
    stores: StoreSettings = StoreSettings()
    fetch: FetchSettings = FetchSettings()
    log: LogSettings = LogSettings()
