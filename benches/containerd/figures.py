"""What the mirror costs containerd, and what containerd costs the mirror.

    python -m benches.containerd.figures [--rounds N] [--write]       as root, from the top of the checkout; nginx

Prints one line per figure; medians of N (default 7) alternating runs where there is something to compare with.
``--write`` keeps all of it and renders the page.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benches.containerd import helper_place, page
from benches.containerd.arrival import arrival
from benches.serve import machine
from tests.kit.cluster import free_port
from tests.kit.containerd import Containerd, containerd, generations, write_hosts
from tests.kit.images import Image, make_image
from tests.kit.layout import OCI_INDEX, OCI_MANIFEST, Layout, digest_of
from tests.kit.origin import origin
from tests.kit.proc import pss_kib
from tests.kit.process import Node, Setup
from tests.kit.waiting import eventually
from tests.kit.wire import ask

LARGE = (60_000_000, 60_000_000, 60_000_000)
SMALL = tuple(range(10_000, 30_000, 1_000))
BLOBS = 2000
PLACE_SECONDS = 5.0


@contextlib.contextmanager
def nginx(image: Image, directory: Path) -> Iterator[str]:
    """The image as static files, with the headers that containerd wants."""
    port = free_port("127.0.0.1")
    repository, _, tag = image.name.partition("/")[2].rpartition(":")
    root = directory / "www" / "v2" / repository
    places = []
    for digest, content in image.blobs.items():
        for kind in ("blobs", "manifests"):
            (root / kind).mkdir(parents=True, exist_ok=True)
            (root / kind / digest).write_bytes(content)
    shutil.copy(root / "manifests" / image.digest, root / "manifests" / tag)
    kinds = {tag: OCI_INDEX, image.digest: OCI_INDEX, digest_of(image.manifest): OCI_MANIFEST}
    for name, kind in kinds.items():
        digest = image.digest if name == tag else name
        header = f"add_header Docker-Content-Digest {digest};"
        places.append(f"location = /v2/{repository}/manifests/{name} {{ types {{}} default_type {kind}; {header} }}")
    config = directory / "nginx.conf"
    config.write_text(
        f"user root; worker_processes 1; daemon off; pid {directory}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; sendfile on; tcp_nopush on; server {{ listen 127.0.0.1:{port};"
        f" root {directory}/www; default_type application/octet-stream; {' '.join(places)} }} }}"
    )
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
    process = subprocess.Popen([binary, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _status(("127.0.0.1", port), "/") is not None, "nginx answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _status(address: tuple[str, int], target: str) -> int | None:
    with contextlib.suppress(OSError):
        return ask(address, "GET", target).status
    return None


def timed_pull(node: Containerd, image: Image) -> float:
    """Seconds that a pull of an absent image takes; it is removed again."""
    pulled = node.pull("ctr", image.name)
    assert pulled, pulled
    node.remove(image.name)
    eventually(lambda: not node.has([image.digest]), "the image is gone")
    return pulled.seconds


def alternate(rounds: int, ways: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run each way once per round."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            taken[way].append(run())
    return taken


def present(node: Containerd, directory: Path, rounds: int) -> dict[str, list[float]]:
    """Pulls of an image of 180 MB that the mirror has, and that nginx has in its place."""
    image = make_image("registry.test/bench/large:1", LARGE)
    layout = Layout(directory / "layout")
    image.write(layout)
    with nginx(image, directory) as static, Node(Setup(layout.directory)) as mirror:
        ours = f"http://{mirror.registry[0]}:{mirror.registry[1]}"

        def by(url: str) -> Callable[[], float]:
            def run() -> float:
                write_hosts(node, "registry.test", [url], url)
                return timed_pull(node, image)

            return run

        return alternate(rounds, {"fastmirror": by(ours), "nginx": by(static)})


def absent(node: Containerd, directory: Path, rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Pulls of an image of 24 objects that no node has, and single misses."""
    image = make_image("registry.test/bench/small:1", SMALL)
    layout = Layout(directory / "origin")
    image.write(layout)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(origin(layout, "127.0.0.1", free_port("127.0.0.1"), directory / "log"))
        empty = [stack.enter_context(Node(Setup(Layout(directory / f"empty{n}").directory))) for n in range(2)]
        peers = [f"{peer.peer[0]}:{peer.peer[1]}" for peer in empty]
        mirror = stack.enter_context(Node(Setup(f"containerd:{node.socket}", peers=peers)))
        ours = f"http://{mirror.registry[0]}:{mirror.registry[1]}"

        def through(mirrors: list[str]) -> Callable[[], float]:
            def run() -> float:
                write_hosts(node, "registry.test", mirrors, source.url)
                return timed_pull(node, image)

            return run

        dead = f"http://127.0.0.1:{free_port('127.0.0.1')}"
        ways = {"no mirror": through([]), "mirror misses": through([ours]), "mirror dead": through([dead])}
        taken = alternate(rounds, ways)
        digests = ["sha256:" + hashlib.sha256(str(n).encode()).hexdigest() for n in range(500)]
        return taken, [ask(mirror.registry, "GET", f"/v2/bench/small/blobs/{digest}").seconds for digest in digests]


def many(node: Containerd, directory: Path) -> list[dict[str, float]]:
    """Starts over 2,000 blobs: seconds until something is served and until tags are known, and memory in MiB."""
    images = [make_image(f"registry.test/bench/many{n}:1", [16] * (BLOBS // 4), seed=n) for n in range(4)]
    for image in images:
        node.load(image.write_archive(directory / "image.tar"))
    last = f"/v2/bench/many3/blobs/{images[3].digest}"
    found = []
    for _ in range(3):
        began = time.monotonic()
        with Node(Setup(f"containerd:{node.socket}")) as mirror:
            eventually(lambda: mirror.ask("GET", last).status == 200, "it serves", every=0.002)
            serving = time.monotonic() - began
            eventually(lambda: mirror.ask("HEAD", "/v2/bench/many3/manifests/1?ns=registry.test").status == 200, "tags")
            tags = time.monotonic() - began
            child = mirror.child
            assert child is not None
            plane, helper = pss_kib(mirror.pid) / 1024, pss_kib(child) / 1024
            found.append({"serving": serving, "tags": tags, "plane": plane, "helper": helper})
    return found


def measure(rounds: int) -> dict[str, Any]:
    """Everything, on every containerd there is."""
    found: dict[str, Any] = {"machine": machine.describe(), "rounds": rounds, "generations": {}}
    for generation in generations():
        with containerd(generation) as node, tempfile.TemporaryDirectory() as work:
            directory = Path(work)
            pulls, misses = absent(node, directory, rounds)
            rows = {
                "present": present(node, directory, rounds),
                "absent": pulls,
                "misses": sorted(misses),
                "arrival": arrival(node, directory),
                "many": many(node, directory),
            }
        found["generations"][generation.version] = rows
        print(page.lines(generation.version, rows), flush=True)
    print("where gRPC runs, beside a loop that answers 16 connections:")
    found["places"] = helper_place.compare(PLACE_SECONDS)
    print(page.places(found["places"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.containerd.figures", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help=f"write {page.RESULTS.name} and the page")
    arguments = parser.parse_args()
    found = measure(arguments.rounds)
    if arguments.write:
        page.RESULTS.write_text(json.dumps(found, indent=1))
        page.render()


if __name__ == "__main__":
    main()
