"""Namespaces of the kernel: the demo in one of its own, and each node in another, on a bridge between them.

Nothing of it has a name on the machine: networks, mounts and sockets end with the processes that are in them.
Sources: unshare(1), nsenter(1), ip-link(8).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

NET = "198.18.0"  # RFC 2544: never a real network
HUB = f"{NET}.254"
SOCKETS = Path("/run/fastmirror-demo")  # within the demo's own /run
INSIDE = "FASTMIRROR_DEMO_INSIDE"
_TRY = "ip link add br0 type bridge && ip link add v0 type veth peer name v1 && mount -t tmpfs none /run"


def obstacle() -> str:
    """Why namespaces cannot be had; empty if they can."""
    if os.geteuid() != 0:
        return "that needs root"
    missing = [tool for tool in ("ip", "unshare", "nsenter", "setpriv") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    tried = subprocess.run([*_unshared(), "sh", "-c", _TRY], capture_output=True, text=True, check=False)
    said = tried.stderr.strip().splitlines()
    return "" if tried.returncode == 0 else f"no namespaces here: {said[-1] if said else tried.returncode}"


def _unshared() -> list[str]:
    return ["unshare", "--net", "--mount", "--propagation", "private"]


def enter() -> None:
    """Go on in new namespaces: this process begins anew, with ``INSIDE`` in its environment. Does not return."""
    line = [*_unshared(), sys.executable, "-m", "demo", *sys.argv[1:]]
    os.execvpe(line[0], line, {**os.environ, INSIDE: "yes"})


def prepare() -> None:
    """Make the bridge and the place for sockets, where :func:`enter` has led. Raises CalledProcessError."""
    _run("mount", "-t", "tmpfs", "none", "/run")
    SOCKETS.mkdir()
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "br0", "type", "bridge")
    _run("ip", "addr", "add", f"{HUB}/24", "dev", "br0")
    _run("ip", "link", "set", "br0", "up")


def overlays(work: Path) -> bool:
    """Whether overlayfs can be mounted over files of this directory; containerd's snapshots are such mounts."""
    place = work / "overlay"
    for name in ("lower", "upper", "scratch", "merged"):
        (place / name).mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/scratch"
    line = ["mount", "-t", "overlay", "none", "-o", options, str(place / "merged")]
    good = subprocess.run(line, capture_output=True, check=False).returncode == 0
    if good:
        _run("umount", str(place / "merged"))
    shutil.rmtree(place)
    return good


class Place:
    """A network of its own at an address on the bridge; gone with :meth:`leave`, or with this process."""

    def __init__(self, number: int) -> None:
        self.host = f"{NET}.{number}"
        self._port = f"p{number}"
        self._keeper: asyncio.subprocess.Process | None = None

    async def settle(self) -> None:
        """Make it. Raises CalledProcessError, TimeoutError."""
        line = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        self._keeper = keeper = await asyncio.create_subprocess_exec(*line, stdin=asyncio.subprocess.DEVNULL)
        async with asyncio.timeout(10):
            while os.readlink(f"/proc/{keeper.pid}/ns/net") == os.readlink("/proc/self/ns/net"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        _run("ip", "link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", str(keeper.pid))
        _run("ip", "link", "set", self._port, "master", "br0", "up")
        _run(*self.within(), "ip", "link", "set", "lo", "up")
        _run(*self.within(), "ip", "addr", "add", f"{self.host}/24", "dev", "eth0")
        _run(*self.within(), "ip", "link", "set", "eth0", "up")

    def within(self) -> list[str]:
        """What goes before a command that is to run there; it ends when this process does, prctl(2)."""
        assert self._keeper is not None
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/proc/{self._keeper.pid}/ns/net"]

    async def leave(self) -> None:
        """Give it up; idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            with contextlib.suppress(ProcessLookupError):
                keeper.kill()
            await keeper.wait()


def _run(*line: str) -> None:
    subprocess.run(line, check=True, capture_output=True)
