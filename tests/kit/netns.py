"""Nodes in network namespaces of their own, on one bridge in a namespace too: nothing of the machine is touched."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

_numbers = itertools.count()
_NET = "198.18.0"  # RFC 2544: never a real network


@dataclass(frozen=True)
class Place:
    """One namespace: its name, its address on the bridge, and the command that runs others in it."""

    name: str
    host: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What goes before a command that is to run there."""
        return ("ip", "netns", "exec", self.name)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        return subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=check)

    def drop(self, port: int) -> None:
        """From now on packets to a TCP port of this place vanish without a word."""
        self.run("nft", "add table ip faults; add chain ip faults input { type filter hook input priority 0; }")
        self.run("nft", f"add rule ip faults input tcp dport {port} drop")


@contextlib.contextmanager
def places(count: int) -> Iterator[list[Place]]:
    """That many namespaces that reach each other; gone with the block, with everything that still runs in them."""
    stem = f"fm{os.getpid()}x{next(_numbers)}"
    hub = f"{stem}hub"
    made = [Place(f"{stem}n{number}", f"{_NET}.{number + 1}") for number in range(count)]
    with contextlib.ExitStack() as stack:
        for name in (hub, *(place.name for place in made)):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", hub, "link", "set", "br0", "up")
        for number, place in enumerate(made):
            port = f"p{number}"
            _ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", place.name)
            _ip("-n", hub, "link", "set", port, "master", "br0", "up")
            _ip("-n", place.name, "addr", "add", f"{place.host}/24", "dev", "eth0")
            _ip("-n", place.name, "link", "set", "eth0", "up")
        yield made


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
