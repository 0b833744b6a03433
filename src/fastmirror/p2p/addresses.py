"""Which addresses this node may dial, and which of its own it tells others. Pure but for the look at /proc."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MOST_HOSTS: Final = 8
_WILDCARDS: Final = ("0.0.0.0", "::")


class Realm:
    """The addresses that other nodes may have: those of ``--peer-cidr``.

    Without it all but loopback, link-local, multicast, unspecified and reserved ones; loopback only for a node that
    itself listens there.
    """

    def __init__(self, cidrs: Sequence[str], listen_host: str) -> None:
        self._networks = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
        self._loopback = listen_host not in _WILDCARDS and ipaddress.ip_address(listen_host).is_loopback

    def __contains__(self, host: object) -> bool:
        """Whether this address may be dialled."""
        try:
            address = ipaddress.ip_address(str(host))
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        if self._networks:
            return any(address in network for network in self._networks)
        if address.is_loopback:
            return self._loopback
        return not (address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved)


def claimed(listen_host: str, peer_host: str, realm: Realm) -> list[str]:
    """This node's addresses as others shall use them: the one that it listens on, or all of the machine that may be
    dialled, as far as both the router and the peer listener answer there.
    """
    for host in (peer_host, listen_host):
        if host not in _WILDCARDS:
            return [host]
    both = peer_host == listen_host == "::"  # :: takes IPv4 too, 0.0.0.0 no IPv6
    return [host for host in machine_hosts() if host in realm and (both or ":" not in host)][:MOST_HOSTS]


def machine_hosts() -> list[str]:
    """The addresses of this machine, IPv4 first. Source: proc(5), /proc/net/fib_trie and /proc/net/if_inet6."""
    found: dict[str, None] = {}
    with contextlib.suppress(OSError):
        table = Path("/proc/net/fib_trie").read_text()
        found.update(dict.fromkeys(re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", table)))
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            found[socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0]))] = None
    return list(found)
