"""The settings: one type that flags, environment, TOML file, ``--help`` and the docs page are made from.

A section goes whole to the part that it configures. Field names are unique over all sections: they are the TOML
keys, and with dashes the flags, and in capitals after ``FASTMIRROR_`` the environment variables.
Durations are seconds, sizes are bytes. ``config.load`` reads the sources, ``config.check`` judges single values.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fastmirror.config import check

Seconds = Annotated[float, Meta(gt=0, le=86400, extra={"parse": check.seconds, "form": "seconds"})]
Bytes = Annotated[int, Meta(ge=1, extra={"parse": check.size, "form": "bytes"})]
Rate = Annotated[int, Meta(ge=0, extra={"parse": check.size, "form": "bytes"})]
Count = Annotated[int, Meta(ge=1, le=1_000_000, extra={"form": "count"})]
ListenAddress = Annotated[str, Meta(extra={"check": check.address, "form": "HOST:PORT"})]
PeerAddress = Annotated[str, Meta(extra={"check": check.peer, "form": "HOST:PORT"})]
RegistryHost = Annotated[str, Meta(extra={"check": check.registry, "form": "HOST"})]
StoreText = Annotated[str, Meta(extra={"check": check.store, "break": check.STORE_BREAK, "form": "STORE"})]
Pattern = Annotated[str, Meta(extra={"check": check.pattern, "form": "PATTERN"})]
Namespace = Annotated[str, Meta(extra={"check": check.namespace, "form": "NAMESPACE"})]
Switch = Annotated[bool, Meta(extra={"form": "true/false"})]
BootstrapSource = Annotated[str, Meta(extra={"check": check.bootstrap, "form": "PLACE"})]
Cidr = Annotated[str, Meta(extra={"check": check.cidr, "form": "CIDR"})]
PeerId = Annotated[str, Meta(extra={"check": check.peer_id, "form": "PEER-ID"})]
Label = Annotated[str, Meta(extra={"check": check.label, "form": "NAME"})]
Threads = Annotated[int, Meta(ge=1, le=64, extra={"form": "count"})]
Degree = Annotated[int, Meta(ge=4, le=1024, extra={"form": "nodes"})]
File = Annotated[str, Meta(extra={"form": "FILE"})]
Directory = Annotated[str, Meta(extra={"form": "DIR"})]


def _help(text: str) -> Meta:
    return Meta(description=text)


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The listeners."""

    registry_addr: Annotated[
        ListenAddress, _help("listener for this node's clients (containerd); may fetch from peers")
    ] = "127.0.0.1:5000"
    peer_addr: Annotated[ListenAddress, _help("listener for other nodes; serves only what is here")] = "0.0.0.0:5001"
    admin_addr: Annotated[ListenAddress, _help("listener for /livez, /readyz, /metrics and /fetches")] = (
        "127.0.0.1:5002"
    )
    default_registry: Annotated[RegistryHost, _help("registry that requests without ns= mean, such as docker.io")] = ""
    max_connections: Annotated[Count, _help("open client connections of each listener")] = 2048
    max_connections_per_address: Annotated[
        Count, _help("open connections of one remote address; this node's own addresses are exempt")
    ] = 256
    serve_rate: Annotated[Rate, _help("bytes a second to all other nodes together; 0: no limit")] = 0
    send_with: Annotated[
        Literal["cold", "loop", "threads"],
        _help("bodies that native threads send: those that are not in the page cache; none; all of local content"),
    ] = "cold"
    send_threads: Annotated[Threads, _help("how many of these threads there are, from the first such body on")] = 8
    header_timeout: Annotated[Seconds, _help("time a request head may take to arrive")] = 10.0
    idle_timeout: Annotated[Seconds, _help("time a kept connection may be idle")] = 75.0
    early_lists: Annotated[
        Switch, _help("hash the pieces of a blob when it arrives, not when another node first asks for the hashes")
    ] = False
    drain_timeout: Annotated[Seconds, _help("time that running transfers get after SIGTERM")] = 25.0


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is served."""

    store: Annotated[
        tuple[StoreText, ...], _help(f"{check.STORE_FORMS}; may be given several times, asked in order")
    ] = ("oci:./fastmirror-data",)
    containerd_namespace: Annotated[
        Namespace, _help("containerd's namespace whose images are served; kubelet's is k8s.io")
    ] = "k8s.io"
    all_namespaces: Annotated[Switch, _help("serve by digest what only other namespaces have, too")] = False
    allow: Annotated[
        tuple[Pattern, ...],
        _help("serve only content of these registries (any port) or repositories (docker.io, registry.example/team/*)"),
    ] = ()
    deny: Annotated[
        tuple[Pattern, ...], _help("never serve content that only these registries (any port) or repositories have")
    ] = ()


class FetchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Fetching from other nodes."""

    peers: Annotated[tuple[PeerAddress, ...], _help("other nodes' peer listeners")] = ()
    lookup_timeout: Annotated[Seconds, _help("time to find who has some content")] = 0.2
    connect_timeout: Annotated[Seconds, _help("time to connect to a peer")] = 0.25
    first_byte_timeout: Annotated[Seconds, _help("time until a peer's answer begins")] = 0.5
    stall_timeout: Annotated[Seconds, _help("time without a new byte; 0.25 s where another peer can go on")] = 0.5
    min_rate: Annotated[Bytes, _help("bytes a second, over 5 seconds, below which another peer goes on")] = 64 * 1024
    fetch_rate: Annotated[Rate, _help("bytes a second from all other nodes together; 0: no limit")] = 0
    max_fetches: Annotated[Count, _help("blobs fetched at the same time; more get 404")] = 64
    whole_bytes: Annotated[Bytes, _help("blobs up to this size are verified whole before the first byte goes out")] = (
        8 * 1024 * 1024
    )
    holdback_bytes: Annotated[Bytes, _help("last bytes of larger blobs, withheld until the digest is right")] = (
        1024 * 1024
    )
    verify: Annotated[
        Literal["chunked", "strict", "tail"],
        _help("larger blobs: piece by piece against lists of hashes; all of it before the first byte; or only the end"),
    ] = "chunked"
    piece_hash: Annotated[
        Literal["blake3", "sha256", "xxh3-128"],
        _help("how pieces are hashed; xxh3-128 costs least and finds accidents, not attacks"),
    ] = "blake3"
    spool_dir: Annotated[
        Directory, _help("directory for blobs on their way; empty: below the first store, else the system's")
    ] = ""
    spool_bytes: Annotated[Bytes, _help("disk space for blobs on their way; when it is used up more get 404")] = (
        16 * 1024 * 1024 * 1024
    )
    grace: Annotated[Seconds, _help("time a fetched blob stays for further readers")] = 5.0
    resolve_tags: Annotated[Switch, _help("answer tags from peers where all that know them agree")] = False


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Finding other nodes and what they have."""

    router: Annotated[
        Literal["auto", "libp2p", "static"],
        _help("libp2p: nodes find each other; static: those of --peers; auto: libp2p if --bootstrap is given"),
    ] = "auto"
    router_addr: Annotated[ListenAddress, _help("listener for other nodes' routers (libp2p)")] = "0.0.0.0:5003"
    bootstrap: Annotated[
        tuple[BootstrapSource, ...],
        _help("where other nodes are found: HOST:PORT of a router, dns:NAME:PORT, or an http(s) URL that lists them"),
    ] = ()
    peer_cidr: Annotated[
        tuple[Cidr, ...],
        _help("networks that other nodes are in; no other address is dialled; empty: all but loopback and link-local"),
    ] = ()
    data_dir: Annotated[Directory, _help("directory for this node's identity; empty: a new one at each start")] = ""
    admission_secret_file: Annotated[
        File, _help("file with secrets, one a line: the first is shown to other nodes, each of them lets others in")
    ] = ""
    allow_peer_id: Annotated[tuple[PeerId, ...], _help("only these nodes may take part (libp2p peer ids)")] = ()
    degree: Annotated[Degree, _help("nodes that each is connected to; up to as many all are connected to all")] = 64
    node_name: Annotated[Label, _help("this node's name as others show it; empty: the host's")] = ""
    zone: Annotated[Label, _help("this node's zone: content comes from other nodes of the same zone first")] = ""

    @property
    def joins(self) -> bool:
        """Whether the libp2p router is to be used."""
        return self.router == "libp2p" or (self.router == "auto" and bool(self.bootstrap))

    @property
    def trusts(self) -> bool:
        """Whether other nodes must show that they may take part."""
        return bool(self.admission_secret_file or self.allow_peer_id)


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Logs: JSON lines on stderr."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], _help("least level that is logged")] = "info"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything ``fastmirror serve`` can be told."""

    serve: ServeSettings = ServeSettings()
    stores: StoreSettings = StoreSettings()
    fetch: FetchSettings = FetchSettings()
    router: RouterSettings = RouterSettings()
    log: LogSettings = LogSettings()
