"""Nodes with a containerd of their own and fastmirror in front of it, each in a network of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from demo.cluster import PATIENCE, START_SECONDS, STOP_SECONDS, NodeFailed
from demo.images import REGISTRY, blob_file
from demo.network import SOCKETS, Place
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference

PULL_SECONDS = 60.0
_VERSIONS = Path(__file__).resolve().parents[1] / "tools" / "containerd-versions.sh"
_CONTENT = "io.containerd.content.v1.content"


def newest() -> tuple[str, Path] | None:
    """The newest containerd of this machine, version and directory, or None."""
    listed = subprocess.run([_VERSIONS, "--list"], capture_output=True, text=True, check=False).stdout.splitlines()
    if not listed:
        return None
    version, _, directory = listed[-1].partition("\t")
    return version, Path(directory)


@dataclass
class Fetched:
    """How long a mirror has fetched some content, and how many bytes from each other node, by address."""

    seconds: float = 0.0
    by_host: Counter[str] = field(default_factory=Counter)


class ContainerdNode:
    """One node: ``start`` it, ``pull`` on it, ``kill`` or ``stop`` it, any number of times.

    ``peers`` are the other nodes' addresses; ``rate`` is what it takes from them, in bytes per second.
    """

    def __init__(self, name: str, number: int, work: Path, programs: Path) -> None:
        self.name = name
        self.place = Place(number)
        self.peers: list[str] = []
        self.rate = 0.0
        self.origin = ""
        self.snapshotter = "overlayfs"
        self._programs = programs
        self._directory = work / f"node-{name}"
        self._root = self._directory / "root"
        self._socket = SOCKETS / f"{name}.sock"
        self._certs = self._directory / "certs.d"
        self._processes: list[asyncio.subprocess.Process] = []

    @property
    def content(self) -> Path:
        """containerd's content: an image layout but for its index."""
        return self._root / _CONTENT

    def has(self, digest: Digest) -> Path:
        """Where the file of some content is, or would be."""
        return blob_file(self.content, digest)

    async def start(self) -> None:
        """Start containerd, fastmirror, and let containerd ask it first. Raises NodeFailed."""
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "config.toml").write_text(self._config())
        containerd = [str(self._programs / "containerd"), "-c", str(self._directory / "config.toml")]
        await self._begin("containerd", containerd)
        await self._until("containerd", "containerd successfully booted")
        await self._begin("fastmirror", self._serve())
        await self._until("fastmirror", '"daemon.serving"')
        hosts = self._certs / REGISTRY / "hosts.toml"
        if not hosts.exists():
            hosts.parent.mkdir(parents=True)
            capabilities = 'capabilities = ["pull", "resolve"]'
            hosts.write_text(f'server = "{self.origin}"\n[host."{self.origin}"]\n{capabilities}\n')
        configure = [sys.executable, "-m", "fastmirror", "configure", "--certs-dir", str(self._certs)]
        code, said = await self._run([*configure, "--registry", REGISTRY, "--resolve-tags"], START_SECONDS)
        if code:
            raise NodeFailed(f"node {self.name}: {said}")

    def _config(self) -> str:
        version = 3 if re.search(r" v?2\.", self._version()) else 2
        plugins = ["io.containerd.grpc.v1.cri"]
        if version == 3:
            plugins += ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
        return f"""version = {version}
root = '{self._root}'
state = '{SOCKETS}/{self.name}-state'
disabled_plugins = {plugins}
[grpc]
address = '{self._socket}'
[ttrpc]
address = '{self._socket}.ttrpc'
[plugins.'io.containerd.internal.v1.opt']
path = '{self._directory}/opt'
"""

    def _version(self) -> str:
        line = [str(self._programs / "containerd"), "--version"]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout

    def _serve(self) -> list[str]:
        line = [sys.executable, "-m", "fastmirror", "serve", "--store", f"containerd:{self._socket}"]
        line += ["--registry-addr", "127.0.0.1:5000", "--peer-addr", "0.0.0.0:5001", "--admin-addr", "0.0.0.0:5002"]
        line += ["--peers", ",".join(f"{peer}:5001" for peer in self.peers), "--resolve-tags", "true"]
        line += ["--fetch-rate", str(int(self.rate))]
        for deadline in ("lookup", "connect", "first-byte", "stall"):
            line += [f"--{deadline}-timeout", PATIENCE]
        return line

    async def _begin(self, name: str, line: list[str]) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FASTMIRROR_")}
        environment["PATH"] = f"{self._programs}:{environment.get('PATH', '')}"
        with (self._directory / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *self.place.within(), *line, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)

    async def _until(self, name: str, text: str) -> None:
        """Wait until the last process has said so. Raises NodeFailed."""
        log, process = self._directory / f"{name}.log", self._processes[-1]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while process.returncode is None:
                    if text in log.read_text(errors="replace"):
                        return
                    await asyncio.sleep(0.02)
        tail = log.read_text(errors="replace")[-600:].strip()
        raise NodeFailed(f"node {self.name}: {name} did not start: {tail or 'it said nothing'}")

    async def _run(self, line: list[str], seconds: float) -> tuple[int, str]:
        """A command's exit code and what it said; cancelled or late: it is killed."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self.place.within(), *line, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(seconds):
                said, _ = await process.communicate()
        except TimeoutError:
            return -1, f"it did not end in {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        assert process.returncode is not None
        return process.returncode, said.decode(errors="replace").strip()[-600:]

    async def pull(self, reference: str) -> tuple[int, str]:
        """``ctr images pull``: its exit code and what it said."""
        ctr = [str(self._programs / "ctr"), "-a", str(self._socket), "-n", "k8s.io", "images", "pull"]
        ctr += ["--snapshotter", self.snapshotter, "--hosts-dir", str(self._certs), reference]
        return await self._run(ctr, PULL_SECONDS)

    async def offer(self, reference: Reference) -> None:
        """Wait until its mirror has heard of the pull from containerd: other nodes get the tag. Raises NodeFailed."""
        target = f"/v2/{reference.repository}/manifests/{reference.tag}?ns={reference.registry}"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while not (await self._ask(5001, "HEAD", target)).startswith(b"HTTP/1.1 200"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                return
        raise NodeFailed(f"node {self.name}: its mirror does not hear what containerd pulled")

    async def _ask(self, port: int, method: str, target: str) -> bytes:
        """A whole answer; empty where nobody answers."""
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection(self.place.host, port)
                try:
                    writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                    return await reader.read(-1)
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return b""

    async def fetched(self) -> dict[Digest, Fetched]:
        """What its mirror has taken so far, by digest. Empty where it does not answer."""
        told = await self._ask(5002, "GET", "/fetches")
        if not told:
            return {}
        found: dict[Digest, Fetched] = {}
        for fetch in json.loads(told.partition(b"\r\n\r\n")[2])["fetches"]:
            taken = found.setdefault(Digest.parse(fetch["digest"]), Fetched())
            taken.seconds += fetch["seconds"]
            for peer in fetch["peers"]:
                taken.by_host[peer["peer"].rpartition(":")[0]] += peer["bytes"]
        return found

    def kill(self) -> None:
        """SIGKILL to all of it, now; :meth:`stop` waits for its end."""
        self._signal(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM to all of it, the mirror first, and SIGKILL after a while; idempotent."""
        while self._processes:
            process = self._processes.pop()
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            _signal(process, signal.SIGKILL)
            await process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            _signal(process, number)

    def empty(self) -> None:
        """Forget everything but the logs; only while stopped."""
        for name in ("root", "opt", "certs.d"):
            shutil.rmtree(self._directory / name, ignore_errors=True)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """To the process and its children: it leads a process group of its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
