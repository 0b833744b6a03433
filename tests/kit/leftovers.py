"""What this process holds open: descriptors, threads, children. Two looks around a test show what it left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

_ONE_TIME = ("/dev/urandom", "/dev/random")
"""Opened once by libraries and kept until the end."""


@dataclass
class Holdings:
    """Descriptors with what they refer to, kernel thread ids, pids of children that still run."""

    fds: set[tuple[int, str]] = field(default_factory=set)
    threads: set[int] = field(default_factory=set)
    children: set[int] = field(default_factory=set)

    @classmethod
    def now(cls) -> Holdings:
        return cls(set(_fds()), {int(tid) for tid in os.listdir("/proc/self/task")}, set(_children()))

    def __or__(self, other: Holdings) -> Holdings:
        return Holdings(self.fds | other.fds, self.threads | other.threads, self.children | other.children)

    def __sub__(self, other: Holdings) -> Holdings:
        return Holdings(self.fds - other.fds, self.threads - other.threads, self.children - other.children)

    def __bool__(self) -> bool:
        return bool(self.fds or self.threads or self.children)

    def describe(self) -> str:
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        lines = [f"descriptor {fd}: {target}" for fd, target in sorted(self.fds)]
        lines += [f"thread {tid}: {names.get(tid) or _comm(tid)}" for tid in sorted(self.threads)]
        lines += [f"process {pid}: {_command(pid)}" for pid in sorted(self.children)]
        return "\n".join(lines)

    def kill_children(self) -> None:
        """End and reap the processes, so that the next test starts clean."""
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def adopt_orphans() -> None:
    """From now on the children of ended children are ours, so that they are seen. Source: prctl(2), the value of
    PR_SET_CHILD_SUBREAPER from linux/prctl.h.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def left_since(before: Holdings, grace: float = 2.0) -> Holdings:
    """What is held now and was not before, after ``grace`` seconds for threads and processes that are ending."""
    deadline = time.monotonic() + grace
    left = Holdings.now() - before
    while left and time.monotonic() < deadline:
        time.sleep(0.005)
        left = Holdings.now() - before
    return left


def _fds() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of this very listing
            continue
        if target not in _ONE_TIME:
            yield int(name), target


def _children() -> Iterator[int]:
    try:
        # WNOWAIT: whoever started a child is still the one to reap it; waitid(2)
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    me = str(os.getpid())
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    state, parent = stat.read().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == me and state != "Z":
                yield int(name)


def _comm(tid: int) -> str:
    try:
        with open(f"/proc/self/task/{tid}/comm") as comm:
            return comm.read().strip()
    except OSError:
        return "ended"


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as cmdline:
            return cmdline.read().replace("\0", " ").strip()
    except OSError:
        return "ended"
