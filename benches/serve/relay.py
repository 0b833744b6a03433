"""Verified relay: node B passes a 1 GiB blob of node A on to a client. The figure is B's CPU alone."""

from __future__ import annotations

import hashlib
import shutil
import urllib.request
from dataclasses import asdict
from pathlib import Path

from benches.serve import cells, contenders, loadgen
from benches.serve.content import MIB, Content, Item
from benches.serve.loadgen import Load, Sample, Target

SECONDS = 60.0  # the most one relay may take


class RelayFailed(Exception):
    """What the relaying node passed on was not the blob."""


def _check(target: Target, item: Item) -> None:
    hasher = hashlib.sha256()
    with urllib.request.urlopen(f"http://{target.host}:{target.port}{item.path}", timeout=SECONDS) as answer:
        got = 0
        while piece := answer.read(MIB):
            hasher.update(piece)
            got += len(piece)
    if got != item.size:
        raise RelayFailed(f"the relay ended {item.digest} after {got} of {item.size} bytes")
    if f"sha256:{hasher.hexdigest()}" != item.digest:
        raise RelayFailed(f"{item.digest} came through the relay as sha256:{hasher.hexdigest()}")


def _one(binary: Path, item: Item, source: Target, work: Path, *, check: bool) -> Sample | None:
    """A fresh node B, one download through it; None when it was the untimed one that checks the digest."""
    server_cpu, client_cpu = cells.cpu_pair()
    shutil.rmtree(work, ignore_errors=True)
    peers = (f"{source.host}:{source.port}",)
    with contenders.fastmirror(work / "store", work, server_cpu, peers=peers) as node:
        if check:
            _check(node, item)
            return None
        load = Load(item.path, item.size, seconds=SECONDS, requests=1)
        return loadgen.run(binary, node, load, client_cpu)


def measure(binary: Path, content: Content, work: Path, rounds: int) -> list[dict[str, object]]:
    """Samples of ``rounds`` relays, each through a node that has just started. Raises LoadFailed, RelayFailed."""
    item = content.items["1 GiB"]
    client_cpu = cells.cpu_pair()[1]
    with contenders.fastmirror(content.layout, work / "source", client_cpu, listener="peer") as source:
        _one(binary, item, source, work / "relay", check=True)
        taken = (_one(binary, item, source, work / "relay", check=False) for _ in range(rounds))
        return [asdict(sample) for sample in taken if sample is not None]
