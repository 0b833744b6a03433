"""Files that are not in the page cache, on a disk that is slow for one server: what a node's disk is under pressure.

Source: posix_fadvise(2); the kernel's admin-guide/cgroup-v1/blkio-controller and admin-guide/cgroup-v2 (io.max). Root
and a disk below the files are needed; :func:`why_not` says what is missing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

RATE = 100_000_000  # bytes per second of one server's reads
V1 = Path("/sys/fs/cgroup/blkio")
V2 = Path("/sys/fs/cgroup")


def _disk(below: Path) -> str | None:
    """``MAJOR:MINOR`` of the whole disk under a path; None where there is none (tmpfs, overlay)."""
    number = below.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not device.exists():
        return None
    device = device.resolve()
    return ((device.parent if (device / "partition").exists() else device) / "dev").read_text().strip()


def why_not(below: Path) -> str | None:
    """Why files below this path cannot be made slow here; None if they can."""
    if os.geteuid() != 0:
        return "not root"
    if _disk(below) is None:
        return f"{below} is on no disk that can be slowed down"
    if not (V1 / "blkio.throttle.read_bps_device").exists() and not _v2_has_io():
        return "no blkio or io cgroup controller"
    return None


def _v2_has_io() -> bool:
    file = V2 / "cgroup.subtree_control"
    return file.exists() and "io" in file.read_text().split()


@contextlib.contextmanager
def slow_disk(below: Path, pids: Iterable[int]) -> Iterator[None]:
    """For the length of the block these processes read at most RATE from the disk under a path."""
    parent = V1 if (V1 / "blkio.throttle.read_bps_device").exists() else V2
    group = parent / f"fastmirror-bench-{os.getpid()}"
    group.mkdir()
    pids = list(pids)
    try:
        if parent == V1:
            (group / "blkio.throttle.read_bps_device").write_text(f"{_disk(below)} {RATE}")
        else:
            (group / "io.max").write_text(f"{_disk(below)} rbps={RATE}")
        _move(pids, group)
        yield
    finally:
        _move(pids, parent)
        group.rmdir()


def _move(pids: list[int], group: Path) -> None:
    for pid in pids:
        (group / "cgroup.procs").write_text(str(pid))


def forget(files: Iterable[Path]) -> None:
    """Take files out of the page cache."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is dirty stays
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
