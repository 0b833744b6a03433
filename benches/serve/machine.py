"""What /proc says: who runs on what, how much CPU and memory a process tree uses, and who else is busy."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def process_tree(root: int) -> list[int]:
    """``root`` and all its living descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue  # it ended meanwhile
        parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    tree = [root]
    for pid in tree:
        tree.extend(parents.get(pid, ()))
    return tree


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of these processes so far, all threads, in seconds (10 ms steps)."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def pss_bytes(pids: list[int]) -> int:
    """Proportional set size of these processes in bytes. Source: proc_pid_smaps_rollup(5)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def busy_seconds() -> float:
    """CPU seconds that the whole machine has spent so far on anything but idling (steal included)."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / TICKS


def cpus() -> list[int]:
    """The CPUs this process may use, in order."""
    return sorted(os.sched_getaffinity(0))


def pinned(command: list[str], cpu: int) -> list[str]:
    """``command`` bound to one CPU (taskset, util-linux)."""
    return ["taskset", "-c", str(cpu), *command]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30))


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def congestion_control() -> str:
    """The TCP congestion control that new sockets get."""
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def describe() -> dict[str, object]:
    """The machine as the page names it: nothing that identifies whose it is."""
    return {
        "cpu": _cpu_model(),
        "cpus": len(cpus()),
        "memory_gib": _memory_gib(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "congestion_control": congestion_control(),
        "commit": _commit(),
    }
