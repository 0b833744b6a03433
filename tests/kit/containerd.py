"""Real containerds of several generations, each with its own directories, started and stopped by the tests.

Nouns: Generation, Containerd, Pulled. The binaries come from tools/containerd-versions.sh; all of it needs root.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.kit.cri import Agent, Request
from tests.kit.waiting import eventually

ROOT = Path(__file__).parents[2]
PULL_SECONDS = 60.0


@dataclass(frozen=True)
class Generation:
    """One version of containerd and where its programs are."""

    version: str
    directory: Path

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor version."""
        match = re.match(r"v?(\d+)\.(\d+)", self.version)
        assert match is not None, self.version
        return int(match[1]), int(match[2])

    def __str__(self) -> str:
        return ".".join(map(str, self.number))


@cache
def generations() -> tuple[Generation, ...]:
    """Those that are on this machine, oldest first; empty without root, which all of them need."""
    if os.geteuid() != 0:
        return ()
    script = [str(ROOT / "tools" / "containerd-versions.sh"), "--list"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    found = (line.split("\t") for line in done.stdout.splitlines())
    return tuple(Generation(version, Path(directory)) for version, directory in found)


def at_least(major: int, minor: int) -> list[Any]:
    """Parameters for a fixture: the generations from this one on; if there are none, a skip that says so."""
    found = [generation for generation in generations() if generation.number >= (major, minor)]
    what = f"containerd {major}.{minor}"
    return found or [pytest.param(None, marks=pytest.mark.needs("root", what), id="none")]


@dataclass(frozen=True)
class Pulled:
    """How a pull went: exit code, what was said, seconds."""

    code: int
    said: str
    seconds: float

    def __bool__(self) -> bool:
        return self.code == 0

    def __repr__(self) -> str:
        return f"exit {self.code} after {self.seconds:.2f} s: {self.said[-600:]}"


class Containerd:
    """A running containerd. Owned by :func:`containerd`, which stops it and unmounts what it left.

    ``socket``, ``content`` and ``certs`` are its paths; hosts.toml files go below ``certs``.
    """

    def __init__(
        self, directory: Path, generation: Generation, *, prefix: Sequence[str] = (), settings: str = ""
    ) -> None:
        self.directory = directory
        self.generation = generation
        self.socket = directory / "c.sock"
        self.root = directory / "root"
        self.content = self.root / "io.containerd.content.v1.content"
        self.certs = directory / "certs.d"
        self._prefix = tuple(prefix)
        self._process: subprocess.Popen[bytes] | None = None
        self._agent: Agent | None = None
        self.certs.mkdir()
        (directory / "config.toml").write_text(_config(self, settings))

    def start(self) -> None:
        """Start it; returns when its socket answers."""
        self._agent = self._agent or Agent(self.directory / "cri.sock", self.socket)
        program, config = self.generation.directory / "containerd", self.directory / "config.toml"
        command = [*self._prefix, str(program), "-c", str(config)]
        path = f"{self.generation.directory}:{os.environ['PATH']}"
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PATH": path}
            )
        eventually(self._answers, f"containerd {self.generation} answers; see {self.directory}/log", 20)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError("containerd ended: " + self.log()[-2000:])
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.socket)) != 0:
                return False
        return self.ctr("version", check=False, seconds=5).returncode == 0

    def log(self) -> str:
        """Everything it has said."""
        return (self.directory / "log").read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        assert self._process is not None
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop it where it is: its socket accepts and never answers."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)

    def close(self) -> None:
        """End it and who speaks CRI to it."""
        self.stop()
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait; idempotent."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(number)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def ctr(
        self, *arguments: str, check: bool = True, seconds: float = PULL_SECONDS, namespace: str = "k8s.io"
    ) -> subprocess.CompletedProcess[str]:
        """Run this generation's ctr against it."""
        command = [*self._prefix, str(self.generation.directory / "ctr"), "-a", str(self.socket), "-n", namespace]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=seconds, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"ctr {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done

    def pull(self, client: str, image: str, seconds: float = PULL_SECONDS) -> Pulled:
        """Pull an image the way ``client`` does: ``ctr`` or ``cri`` (as kubelet)."""
        with self.pulling(client, image, seconds) as running:
            return running.wait(seconds + 5)

    @contextlib.contextmanager
    def pulling(self, client: str, image: str, seconds: float = PULL_SECONDS) -> Iterator[Pulling]:
        """A pull that goes on meanwhile; ended with the block."""
        running = CriPull(self._cri("pull", image, seconds)) if client == "cri" else CtrPull(self._ctr_pull(image))
        try:
            yield running
        finally:
            running.end()

    def _ctr_pull(self, image: str) -> list[str]:
        command = [*self._prefix, str(self.generation.directory / "ctr"), "-a", str(self.socket), "-n", "k8s.io"]
        return [*command, "images", "pull", "--hosts-dir", str(self.certs), image]

    def _cri(self, verb: str, image: str, seconds: float) -> Request:
        assert self._agent is not None, "containerd was not started"
        return self._agent.ask(verb, image, seconds)

    def remove(self, image: str) -> None:
        """Remove an image and all that only it used, as kubelet does."""
        with contextlib.closing(CriPull(self._cri("remove", image, 30))) as running:
            removed = running.wait(35)
        assert removed, removed

    def load(self, archive: Path, namespace: str = "k8s.io") -> None:
        """Import an OCI archive without unpacking it."""
        self.ctr("images", "import", "--no-unpack", str(archive), namespace=namespace)

    def images(self) -> list[str]:
        """The names it has."""
        return self.ctr("images", "ls", "-q").stdout.split()

    def path(self, digest: str) -> Path:
        """Where the file of some content is."""
        return self.content / "blobs" / digest.replace(":", "/", 1)

    def has(self, digests: Mapping[str, bytes] | Sequence[str]) -> bool:
        """Whether all of this content is there."""
        return all(self.path(digest).exists() for digest in digests)


class Pulling(Protocol):
    """A pull that may still run."""

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""

    def wait(self, seconds: float = PULL_SECONDS) -> Pulled:
        """How it went, once it has ended; a pull that does not end in time has failed."""

    def end(self) -> None:
        """Kill it if it still runs; idempotent."""


class CtrPull:
    """A pull by ctr, a process."""

    def __init__(self, command: list[str]) -> None:
        self._began = time.monotonic()
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._process = subprocess.Popen(command, **pipes)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float = PULL_SECONDS) -> Pulled:
        try:
            said, _ = self._process.communicate(timeout=seconds)
            code = self._process.returncode
        except subprocess.TimeoutExpired:
            self._process.kill()
            said, _ = self._process.communicate()
            code, said = -1, said + b" (did not end)"
        return Pulled(code, said.decode(errors="replace"), time.monotonic() - self._began)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class CriPull:
    """A pull that kubelet asked for."""

    def __init__(self, request: Request) -> None:
        self._request = request

    @property
    def running(self) -> bool:
        return self._request.running

    def wait(self, seconds: float = PULL_SECONDS) -> Pulled:
        return Pulled(*self._request.wait(seconds))

    def end(self) -> None:
        self._request.end()

    close = end


@contextlib.contextmanager
def containerd(generation: Generation, *, start: bool = True, **more: Any) -> Iterator[Containerd]:
    """A containerd with fresh directories, whose paths are short enough for a socket; gone with the block."""
    directory = Path(tempfile.mkdtemp(prefix="fm-", dir="/tmp"))
    try:
        running = Containerd(directory, generation, **more)
        try:
            if start:
                running.start()
            yield running
        finally:
            running.close()
            _unmount(directory)
    finally:
        shutil.rmtree(directory)


def _unmount(directory: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False)


def _config(node: Containerd, settings: str) -> str:
    two = node.generation.number >= (2, 0)
    images = "io.containerd.cri.v1.images" if two else "io.containerd.grpc.v1.cri"
    nri = "[plugins.'io.containerd.nri.v1.nri']\ndisable = true\n" if two else ""
    return f"""version = {3 if two else 2}
root = '{node.root}'
state = '{node.directory}/state'
[grpc]
address = '{node.socket}'
[ttrpc]
address = '{node.socket}.ttrpc'
[plugins.'io.containerd.internal.v1.opt']
path = '{node.directory}/opt'
[plugins.'{images}'.registry]
config_path = '{node.certs}'
{nri}{settings}
"""


def write_hosts(node: Containerd, registry: str, mirrors: Sequence[str], server: str, *, tags: bool = True) -> None:
    """A hosts.toml of the tests' own making: these mirrors in this order, then the origin at ``server``.

    containerd 1.x takes a file without any host for damaged and goes to https://REGISTRY, so the origin is one too.
    """
    capabilities = '["pull", "resolve"]' if tags else '["pull"]'
    text = f'server = "{server}"\n'
    for mirror in mirrors or (server,):
        text += f'[host."{mirror}"]\ncapabilities = {capabilities}\n'
    directory = node.certs / registry
    directory.mkdir(exist_ok=True)
    (directory / "hosts.toml").write_text(text)
