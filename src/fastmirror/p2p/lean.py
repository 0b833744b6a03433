"""Loads only those modules of py-libp2p that are used.

``import libp2p.anything`` runs ``libp2p/__init__.py``, which imports all of it: QUIC, pubsub, a DHT, an HTTP client,
mDNS (1,340 modules, 88 MiB resident, 0.9 s of CPU on libp2p 0.8.1; what is used here: 570 modules, 50 MiB, 0.2 s).
So packages whose ``__init__`` does nothing but import are entered into ``sys.modules`` empty, with their directory as
their path. The version is pinned exactly; with another one everything is imported as usual.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Final

KNOWN_VERSION: Final = "0.8.1"
_EMPTY: Final = (
    "", "host", "network", "peer", "pubsub", "rcmgr", "records", "relay", "security", "tools", "transport",
    "transport.quic",
)  # fmt: skip


def install() -> None:
    """Make later imports of py-libp2p lean; does nothing if it was imported already."""
    if "libp2p" in sys.modules or version("libp2p") != KNOWN_VERSION:
        return
    spec = importlib.util.find_spec("libp2p")
    if spec is None or spec.origin is None:
        return
    root = Path(spec.origin).parent
    for name in _EMPTY:
        package = ModuleType(".".join(filter(None, ("libp2p", name))))
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[package.__name__] = package
    quic = ModuleType("libp2p.transport.quic.stream")  # custom_types names its class in an annotation
    quic.__dict__["QUICStream"] = object
    sys.modules[quic.__name__] = quic
