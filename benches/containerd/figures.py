"""What the mirror costs containerd, and what containerd costs the mirror.

    python -m benches.containerd.figures [ROUNDS]      as root, from the top of the checkout; nginx installed

Prints one line per figure, medians of ROUNDS (default 7) alternating runs where there is something to compare with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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


def say(what: str, taken: dict[str, list[float]]) -> None:
    parts = [
        f"{way} {statistics.median(times):.3f} s ({min(times):.3f}-{max(times):.3f})" for way, times in taken.items()
    ]
    print(f"{what}: {', '.join(parts)}", flush=True)


def present(node: Containerd, directory: Path, rounds: int) -> None:
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

        say(
            f"{node.generation}: a present image of 180 MB",
            alternate(rounds, {"fastmirror": by(ours), "nginx": by(static)}),
        )


def absent(node: Containerd, directory: Path, rounds: int) -> None:
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
        say(f"{node.generation}: an absent image of {len(image.blobs) + 1} objects", taken)
        plain = statistics.median(taken["no mirror"])
        for way in ("mirror misses", "mirror dead"):
            each = (statistics.median(taken[way]) - plain) / (len(image.blobs) + 1)
            print(f"{node.generation}: {way}: {each * 1e3:+.2f} ms per object (medians)")
        digests = ["sha256:" + hashlib.sha256(str(n).encode()).hexdigest() for n in range(500)]
        misses = sorted(ask(mirror.registry, "GET", f"/v2/bench/small/blobs/{digest}").seconds for digest in digests)
        print(
            f"{node.generation}: a miss, 2 peers asked: p50 {misses[250] * 1e3:.2f} ms, p99 {misses[495] * 1e3:.2f} ms"
        )


def many(node: Containerd, directory: Path) -> None:
    images = [make_image(f"registry.test/bench/many{n}:1", [16] * (BLOBS // 4), seed=n) for n in range(4)]
    for image in images:
        node.load(image.write_archive(directory / "image.tar"))
    last = f"/v2/bench/many3/blobs/{images[3].digest}"
    for _ in range(3):
        began = time.monotonic()
        with Node(Setup(f"containerd:{node.socket}")) as mirror:
            serving = time.monotonic()
            eventually(lambda: mirror.ask("GET", last).status == 200, "it serves", every=0.002)
            served = time.monotonic()
            eventually(lambda: mirror.ask("HEAD", "/v2/bench/many3/manifests/1?ns=registry.test").status == 200, "tags")
            known = time.monotonic()
            child = mirror.child
            assert child is not None
            times = (
                f"listening after {serving - began:.2f} s, serving {served - began:.2f} s, tags {known - began:.2f} s"
            )
            memory = f"data plane {pss_kib(mirror.pid) / 1024:.1f} MiB, helper {pss_kib(child) / 1024:.1f} MiB"
            print(f"{node.generation}: {BLOBS} blobs: {times}; PSS {memory}", flush=True)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for generation in generations():
        with containerd(generation) as node, tempfile.TemporaryDirectory() as directory:
            present(node, Path(directory), rounds)
            absent(node, Path(directory), rounds)
            many(node, Path(directory))


if __name__ == "__main__":
    main()
