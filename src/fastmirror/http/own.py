"""The addresses of this node, and which of other addresses are in truth its own listener."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable
from pathlib import Path

from fastmirror.config.check import Address, address


def own_addresses() -> frozenset[str]:
    """The addresses of this node as of now. Source: proc(5), /proc/net/fib_trie and /proc/net/if_inet6."""
    found = set()
    with contextlib.suppress(OSError):
        table = Path("/proc/net/fib_trie").read_text()
        found.update(re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", table))
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            found.add(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])))
    return frozenset(found)


def leads_here(other: Address, bound: Iterable[str], own: frozenset[str]) -> bool:
    """Whether who connects to ``other`` meets one of the ``bound`` listeners (``HOST:PORT``).

    The same port on another own address is another program's, unless the listener is on all addresses. Host names are
    not looked up.
    """
    for text in bound:
        mine = address(text)
        if mine.port != other.port:
            continue
        if mine.host == other.host:
            return True
        if mine.host in ("0.0.0.0", "::"):
            with contextlib.suppress(ValueError):  # a name
                place = ipaddress.ip_address(other.host)
                answered = place.version == 4 or mine.host == "::"  # :: takes IPv4 too
                if answered and (place.is_loopback or other.host in own):
                    return True
    return False
