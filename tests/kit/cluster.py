"""Several fastmirror processes on loopback addresses of their own, each with its own store, as each other's peers."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.kit.process import Node, Setup

_random = random.Random()

# below net.ipv4.ip_local_port_range: no listener on port 0 and no client is ever given one of these
_FIRST, _LAST = 12_000, 32_000
_ports = itertools.count(_random.randrange(_LAST - _FIRST))


def loopback_hosts(count: int) -> list[str]:
    """Addresses of 127.0.0.0/8 that nothing else uses: a /24 drawn at random."""
    net = f"127.{_random.randrange(64, 250)}.{_random.randrange(250)}"
    return [f"{net}.{index + 1}" for index in range(count)]


def free_port(host: str) -> int:
    """A port that is free on that address now, and that this process has not been given before."""
    for number in itertools.islice(_ports, _LAST - _FIRST):
        port = _FIRST + number % (_LAST - _FIRST)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return port
    raise AssertionError(f"no free port on {host}")


@contextlib.contextmanager
def cluster(
    stores: Sequence[Path], *, extra_peers: Sequence[str] = (), flags: Mapping[str, object] | None = None
) -> Iterator[list[Node]]:
    """One node per store, each knowing the others and ``extra_peers`` (as ``host:port``, asked last)."""
    hosts = loopback_hosts(len(stores))
    listeners = [f"{host}:{free_port(host)}" for host in hosts]
    with contextlib.ExitStack() as stack:
        nodes = []
        for index, (store, host) in enumerate(zip(stores, hosts, strict=True)):
            others = [*listeners[:index], *listeners[index + 1 :], *extra_peers]
            port = int(listeners[index].rpartition(":")[2])
            setup = Setup(store, host=host, peer_port=port, peers=others, flags=flags or {})
            nodes.append(stack.enter_context(Node(setup)))
        yield nodes
