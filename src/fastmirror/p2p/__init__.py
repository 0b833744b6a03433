"""The router process: the inventory over py-libp2p's identity, Noise, yamux and streams, in trio.

Run as ``python -m fastmirror.p2p`` by ``routing.inventory``, with a Unix socket to the data plane. Nothing else
imports this package: the data plane never loads libp2p or trio.
"""

from fastmirror.p2p import lean

lean.install()
