"""Real nodes that find each other over libp2p, in memory's place on loopback or in network namespaces."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastmirror.oci.digest import Digest
from fastmirror.store.layout import open_layout
from tests.kit.cluster import loopback_hosts
from tests.kit.process import Node, Setup
from tests.kit.waiting import eventually
from tests.kit.wire import ask


@dataclass
class Swarm:
    """Nodes by number, each with a store of its own below ``root``."""

    root: Path
    stack: contextlib.ExitStack
    hosts: list[str]
    flags: dict[str, Any] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)
    ports: dict[int, int] = field(default_factory=dict)
    before: list[Sequence[str]] = field(default_factory=list)

    def store(self, number: int) -> Path:
        return self.root / f"store{number}"

    def put(self, number: int, content: bytes) -> Digest:
        """Content into a node's store, as another process does it."""
        digest = Digest.of(content)
        with contextlib.closing(open_layout(self.store(number), create=True)) as store:
            ingest = store.ingest(digest, len(content))
            ingest.write(content)
            ingest.commit()
        return digest

    def start(self, number: int, **flags: Any) -> Node:
        """Start a node that knows the router of node 0 (which knows nobody)."""
        host = self.hosts[number]
        port = self.ports.setdefault(number, 4400)
        more = {**self.flags, **flags}
        more.setdefault("bootstrap", f"{self.hosts[0]}:{self.ports.get(0, 4400)}")
        more |= {"router_addr": f"{host}:{port}", "node_name": f"node{number}"}
        before = self.before[number] if self.before else ()
        setup = Setup(self.store(number), host=host, peer_port=5001, flags=more, before=before)
        node = self.stack.enter_context(Node(setup))
        self.nodes[number] = node
        return node

    def has(self, number: int, digest: Digest) -> bool:
        """Whether a node's client would be served this content."""
        return ask(self.nodes[number].registry, "HEAD", f"/v2/a/blobs/{digest}").status == 200

    def counters(self, number: int) -> dict[str, float]:
        """The router's metrics of a node."""
        return metrics(self.nodes[number])

    def live(self, number: int) -> int:
        """How many others a node knows to be there."""
        return int(self.counters(number).get('fastmirror_router_nodes{state="live"}', 0))

    def wait_joined(self, others: int, *numbers: int, seconds: float = 20.0) -> None:
        """Until these nodes (all without numbers) know that many others."""
        for number in numbers or tuple(self.nodes):
            eventually(lambda n=number: self.live(n) == others, f"node {number} knows {others} others", seconds, 0.05)


def metrics(node: Node) -> dict[str, float]:
    """All metrics of a node by name and labels."""
    text = ask(node.admin, "GET", "/metrics").body.decode()
    pairs = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def router_pid(node: Node) -> int:
    """The process id of a node's router process."""
    for pid in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split():
        if b"fastmirror.p2p" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return int(pid)
    raise AssertionError("no router process")


@contextlib.contextmanager
def swarm(root: Path, count: int, **flags: Any) -> Iterator[Swarm]:
    """Room for that many nodes on loopback addresses of their own; those that were started are stopped at the end."""
    with contextlib.ExitStack() as stack:
        yield Swarm(root, stack, loopback_hosts(count), flags)
