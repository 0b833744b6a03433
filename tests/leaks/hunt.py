"""Rounds of connections and of transfers that their client leaves, and a look at the nodes after each round.

Two nodes: one has the content, the other passes it on. Nouns: Look (what a process holds), Hunt (the looks of both).
"""

from __future__ import annotations

import contextlib
import re
import socket
import statistics
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from tests.kit import proc
from tests.kit.content import blob
from tests.kit.layout import Layout, digest_of, image
from tests.kit.process import Node, start
from tests.kit.waiting import eventually
from tests.kit.wire import build_request

SIZE = 4 << 20
BLOBS = 8
ROUNDS = 10
WARM = 3  # looks that do not count for memory
SETTLED_SECONDS = 60.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST and leaves no TIME_WAIT
BAD = b"BREW / HTTP/1.1\r\n\r\n"


@dataclass(frozen=True)
class Look:
    """What a process holds: descriptors, threads, and anonymous memory in KiB."""

    descriptors: int
    threads: int
    memory: int


def look(pid: int) -> Look:
    """A look at a process now. Source: proc_pid_status(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = {name: int(value) for name, value in re.findall(r"^(Threads|RssAnon):\s+(\d+)", status, re.MULTILINE)}
    return Look(proc.fd_count(pid), found["Threads"], found["RssAnon"])


def slope(values: list[int]) -> float:
    """The growth for each round: Theil and Sen's median of the slopes of all pairs, which single jumps do not move."""
    pairs = [(a, b) for a in range(len(values)) for b in range(a + 1, len(values))]
    return statistics.median((values[b] - values[a]) / (b - a) for a, b in pairs)


@dataclass(frozen=True)
class Hunt:
    """The looks at each node, by its part: before, after each round, and at the end."""

    looks: dict[str, list[Look]]

    def growth(self, part: str) -> float:
        """KiB of memory that a round adds, once the first ones have warmed everything up."""
        return slope([each.memory for each in self.looks[part][WARM:]])

    def troubles(self, memory: float) -> list[str]:
        """What is not flat: descriptors, threads, or memory that grows by more than so many KiB a round."""
        found = []
        for part, looks in self.looks.items():
            first, last = looks[0], looks[-1]
            if last.descriptors > first.descriptors:
                found.append(f"{part}: {last.descriptors} descriptors at the end, {first.descriptors} at first")
            if max(each.threads for each in looks[WARM:]) > looks[WARM].threads:
                found.append(f"{part}: threads {[each.threads for each in looks]}")
            if self.growth(part) > memory:
                found.append(f"{part}: {self.growth(part):.0f} KiB more after each round")
        return found

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{part}: descriptors {[each.descriptors for each in looks]}, threads {[each.threads for each in looks]}, "
            f"memory {[each.memory for each in looks]} KiB, {self.growth(part):+.1f} KiB a round"
            for part, looks in self.looks.items()
        ]


@contextlib.contextmanager
def nodes() -> Iterator[tuple[Node, Node, list[str], str]]:
    """A node with content, one that gets it from there, the targets of blobs and that of their manifest."""
    blobs = [blob(SIZE, seed) for seed in range(BLOBS)]
    manifest, parts = image(blobs)
    with tempfile.TemporaryDirectory() as directory:
        layout = Layout(Path(directory) / "layout")
        layout.add_image("registry.example/leaks/image:1", manifest, parts)
        empty = Layout(Path(directory) / "empty")
        with start(layout.directory) as source, start(empty.directory, peers=[_text(source.peer)]) as relay:
            targets = [f"/v2/leaks/image/blobs/{digest_of(each)}" for each in blobs]
            yield source, relay, targets, f"/v2/leaks/image/manifests/{digest_of(manifest)}"


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def _leave(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def connect_often(node: Node, target: str, times: int) -> None:
    """That many connections: most ask and are answered, some ask for nothing, some ask badly, some are cut off."""
    request = build_request("GET", target)
    for number in range(times):
        sock = socket.create_connection(node.registry, 20)
        kind = number % 8
        if kind == 0:
            sock.sendall(BAD)
        elif kind == 1:
            sock.sendall(request[: len(request) // 2])
        elif kind > 2:
            sock.sendall(request)
        if kind not in (1, 2):
            assert sock.recv(65536).startswith(b"HTTP/1.1 "), kind
        _leave(sock)


def abort_often(node: Node, targets: list[str], times: int) -> None:
    """That many transfers, each left after its first bytes."""
    for number, target in zip(range(times), cycle(targets), strict=False):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.settimeout(30)
            sock.connect(node.registry)
            sock.sendall(build_request("GET", target))
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 "), target
            if number % 3:
                sock.recv(65536)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def hunt(connections: int, aborts: int, rounds: int = ROUNDS) -> Hunt:
    """So many connections to both nodes together and so many aborted transfers, over the rounds.

    The first and the last look are at nodes without clients. Raises AssertionError when descriptors do not come back
    within SETTLED_SECONDS: what one transfer keeps for the next one is given up in seconds.
    """
    with nodes() as (source, relay, targets, manifest):
        parts = {"source": source, "relay": relay}
        for node in parts.values():  # each code is loaded, each pool filled
            connect_often(node, manifest, 16)
            abort_often(node, targets, BLOBS)
        idle = {part: _settled(node, 40) for part, node in parts.items()}
        looks = {part: [look(node.pid)] for part, node in parts.items()}
        for _ in range(rounds):
            for part, node in parts.items():
                connect_often(node, manifest, connections // rounds // 2)
                abort_often(node, targets, aborts // rounds // 2)
                looks[part].append(look(node.pid))
        for part, node in parts.items():
            _settled(node, idle[part])
            looks[part].append(look(node.pid))
    return Hunt(looks)


def _settled(node: Node, limit: int) -> int:
    """Wait until at most so many descriptors are open; how many are."""
    return eventually(
        lambda: count if (count := proc.fd_count(node.pid)) <= limit else 0,
        f"at most {limit} descriptors are open",
        SETTLED_SECONDS,
    )
