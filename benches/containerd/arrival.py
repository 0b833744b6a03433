"""How soon after its commit a blob is served to other nodes, with containerd's socket or with its files alone.

The commit is the rename of the file, whose time is the file's change time. With the socket a blob also has to be in
containerd's own records, which are on disk a little later. What is missing is asked for over one kept connection, in
rounds with a pause of a millisecond: a figure is late by at most one round.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.kit.cluster import free_port
from tests.kit.containerd import PULL_SECONDS, Containerd, write_hosts
from tests.kit.images import Image, make_image
from tests.kit.layout import Layout
from tests.kit.origin import origin
from tests.kit.process import Node, Setup
from tests.kit.waiting import eventually
from tests.kit.wire import Wire, ask

LAYERS = 40
IMAGES = 3
PAUSE_SECONDS = 0.001


def arrival(node: Containerd, directory: Path) -> dict[str, list[float]]:
    """Seconds from commit to served, for every blob of some pulls, by store; sorted."""
    layout = Layout(directory / "arrival")
    with origin(layout, "127.0.0.1", free_port("127.0.0.1"), directory / "arrival.log") as source:
        write_hosts(node, "registry.test", [], source.url)
        taken: dict[str, list[float]] = {}
        for name, store in (("socket", f"containerd:{node.socket}"), ("files", f"content:{node.content}")):
            with Node(Setup(store)) as mirror:
                eventually(lambda: ask(mirror.admin, "GET", "/readyz").status == 200, "it is ready")
                taken[name] = []
                for number in range(IMAGES):
                    sizes = tuple(range(2_000, 2_000 + LAYERS))
                    image = make_image(f"registry.test/arrival/{name}{number}:1", sizes, seed=f"{name}{number}")
                    image.write(layout)
                    taken[name] += _one(node, mirror, image)
        return {name: sorted(times) for name, times in taken.items()}


def _one(node: Containerd, mirror: Node, image: Image) -> list[float]:
    missing, late = list(image.blobs), []
    end = time.monotonic() + PULL_SECONDS
    with node.pulling("ctr", image.name) as pulling, Wire(mirror.peer) as wire:
        while missing:
            assert time.monotonic() < end, f"{missing} were never served"
            for digest in tuple(missing):
                if wire.ask("HEAD", f"/v2/arrival/x/blobs/{digest}?ns=registry.test").status == 200:
                    late.append(time.time() - os.stat(node.path(digest)).st_ctime)
                    missing.remove(digest)
            time.sleep(PAUSE_SECONDS)
        pulled = pulling.wait()
        assert pulled, pulled
    return late
