"""The further contenders: each is left out, with the reason, where it is not installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benches.serve import loadgen, machine
from benches.serve.contenders import HOST, START_SECONDS, StartFailed, answers, free_port, running, until
from benches.serve.content import BLOB_SIZES, REPOSITORY, Content
from benches.serve.loadgen import Target
from tests.kit.containerd import Containerd, containerd, generations

SPEGEL = os.environ.get("BENCH_SPEGEL", "")

REGISTRY_CONFIG = """\
version: 0.1
log: {{accesslog: {{disabled: true}}, level: error}}
storage:
  cache: {{blobdescriptor: inmemory}}
  filesystem: {{rootdirectory: {storage}}}
  redirect: {{disable: true}}
http: {{addr: "{host}:{port}"}}
"""


@contextmanager
def bound(content: Content, work: Path, cpu: int) -> Iterator[Target]:
    """The least that can serve files, in C (bound.c): not a server, but what one can hope to come near."""
    binary = loadgen.build(work, Path(__file__).with_name("bound.c"))
    port = free_port()
    log = work / "bound.log"
    with running(machine.pinned([str(binary), str(content.root), str(port)], cpu), log) as started:
        until(started, log, lambda: answers(port))
        yield Target(HOST, port, machine.process_tree(started.pid), log.stem)


def registry_version() -> str | None:
    """docker-registry's version, or None if it is not installed."""
    if shutil.which("docker-registry") is None:
        return None
    done = subprocess.run(["docker-registry", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.split()[-1]


@contextmanager
def registry(content: Content, work: Path, cpu: int) -> Iterator[Target]:
    """Debian's docker-registry over the same files, without access log and redirects, descriptors kept in memory."""
    work = work / "docker-registry"
    shutil.rmtree(work, ignore_errors=True)
    base = work / "storage" / "docker" / "registry" / "v2"
    for name, item in content.items.items():
        algorithm, hex_digest = item.digest.split(":")
        data = base / "blobs" / algorithm / hex_digest[:2] / hex_digest / "data"
        data.parent.mkdir(parents=True)
        data.hardlink_to(content.layout / "blobs" / algorithm / hex_digest)
        where = "_layers" if name in BLOB_SIZES else "_manifests/revisions"
        link = base / "repositories" / REPOSITORY / where / algorithm / hex_digest / "link"
        link.parent.mkdir(parents=True)
        link.write_text(item.digest)
    port = free_port()
    config = work / "config.yml"
    config.write_text(REGISTRY_CONFIG.format(storage=work / "storage", host=HOST, port=port))
    log = work / "docker-registry.log"
    with running(machine.pinned(["docker-registry", "serve", str(config)], cpu), log) as started:
        until(started, log, lambda: answers(port))
        yield Target(HOST, port, machine.process_tree(started.pid), log.stem)


def aiohttp_version() -> str | None:
    """aiohttp's version, or None if it is not installed."""
    if importlib.util.find_spec("aiohttp") is None:
        return None
    from importlib.metadata import version

    return version("aiohttp")


@contextmanager
def aiohttp(content: Content, work: Path, cpu: int) -> Iterator[Target]:
    """aiohttp's FileResponse on uvloop: what one would write in Python in ten lines."""
    work = work / "aiohttp"
    work.mkdir(parents=True, exist_ok=True)
    port = free_port()
    log = work / "aiohttp.log"
    line = [sys.executable, "-m", "benches.serve.aiohttp_server", str(content.root), HOST, str(port)]
    with running(machine.pinned(line, cpu), log) as started:
        until(started, log, lambda: answers(port))
        yield Target(HOST, port, machine.process_tree(started.pid), log.stem)


def spegel_version() -> str | None:
    """The version of the binary that BENCH_SPEGEL names; None without one. Raises StartFailed if it cannot be run."""
    if not SPEGEL:
        return None
    if not generations():
        raise StartFailed("BENCH_SPEGEL is set, but Spegel needs a containerd: root, and tools/containerd-versions.sh")
    try:
        done = subprocess.run([SPEGEL, "version"], capture_output=True, text=True, check=False, timeout=START_SECONDS)
    except OSError as error:
        raise StartFailed(f"BENCH_SPEGEL: {SPEGEL} cannot be run: {error.strerror}") from error
    return (done.stdout.split() or ["unknown"])[-1]


def _load(node: Containerd, content: Content, work: Path) -> None:
    archive = work / "content.tar"
    subprocess.run(["tar", "-C", str(content.layout), "-cf", str(archive), "."], check=True)
    try:
        node.load(archive)
    finally:
        archive.unlink()


@contextmanager
def spegel(content: Content, work: Path, cpu: int) -> Iterator[Target]:
    """Spegel over a containerd that holds the same blobs (its own copies), alone in its cluster."""
    work = work / "spegel"
    work.mkdir(parents=True, exist_ok=True)
    registry_port, router_port, metrics_port = free_port(), free_port(), free_port()
    with containerd(generations()[-1]) as node:
        _load(node, content, work)
        line = [SPEGEL, "--log-level=ERROR", "registry", "--bootstrap-kind=static", f"--data-dir={work}"]
        line += [f"--registry-addr={HOST}:{registry_port}", f"--router-addr={HOST}:{router_port}"]
        line += [f"--metrics-addr={HOST}:{metrics_port}", f"--containerd-sock={node.socket}"]
        line += [f"--containerd-content-path={node.content}"]
        log = work / "spegel.log"
        with running(machine.pinned(line, cpu), log) as started:
            until(started, log, lambda: answers(registry_port))
            yield Target(HOST, registry_port, machine.process_tree(started.pid), log.stem)
